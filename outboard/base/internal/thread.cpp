#include <outboard/base/internal/thread.hpp>

#include <new>
#include <system_error>
#include <utility>

namespace outboard {
namespace {

Error no_thread(int code, const std::string& purpose) {
  Error error(code, "a thread for " + purpose + " cannot be started: " + Error(code).what());
  if (code == EPERM || code == ENOSYS || code == EACCES)
    return std::move(error).cure("have the seccomp profile of the container or service allow clone3");
  return std::move(error).cure(
      "raise the limit on threads (ulimit -u, TasksMax= of the service, pids of the container) or on memory (ulimit -v, -d)");
}

}  // namespace

Result<std::thread> start_thread(const std::string& purpose, std::move_only_function<void()> body) {
  try {
    return std::thread(std::move(body));
  } catch (const std::system_error& failure) {
    return no_thread(failure.code().value(), purpose);
  } catch (const std::bad_alloc&) {
    return no_thread(ENOMEM, purpose);
  }
}

}  // namespace outboard
