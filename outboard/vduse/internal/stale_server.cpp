#include <outboard/vduse/internal/stale_server.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include <outboard/base/internal/process.hpp>
#include <outboard/base/internal/wait.hpp>

namespace outboard::vduse {

namespace {

constexpr Duration pause = std::chrono::milliseconds(20);

/// The process that a lock file names. Whoever may serve the device may write there.
std::optional<int> holder_in(int fd) {
  char text[32] = {};
  const ssize_t length = ::pread(fd, text, sizeof text - 1, 0);
  std::string_view number(text, length > 0 ? static_cast<std::size_t>(length) : 0);
  while (!number.empty() && number.back() == '\n') number.remove_suffix(1);
  return parse_pid(number);
}

void log_wait(int pid, const Log& log) {
  log.warning("waiting up to {} s for process {}, which served this device and is ending",
              std::chrono::duration_cast<std::chrono::seconds>(ending_timeout).count(), pid);
}

Error not_ended(int code, int pid) {
  return Error(code, fmt::format("process {}, which served this device, has not ended yet", pid))
      .cure("wait until it has; a process that was killed ends when its disk accesses have");
}

Error held_by(std::optional<int> pid) {
  if (!pid) return Error(EBUSY, "another process serves this device").cure("stop that one first");
  const std::string what = fmt::format("process {} serves this device", *pid);
  switch (process_state(*pid)) {
    case ProcessState::running:
      return Error(EBUSY, what).cure("stop that one first");
    case ProcessState::ending:
      return not_ended(EBUSY, *pid);
    case ProcessState::unseen:
      break;
  }
  return Error(EBUSY, what + "; whether it runs or is ending cannot be seen from here")
      .cure("look as root, where it runs; if it runs, stop it; if it is ending, start again when it has ended");
}

Error not_permitted(Error error) {
  if (error.code() != EACCES && error.code() != EPERM) return error;
  return std::move(error).cure(
      "run as root; or let root create the device for this user: outboard vduse create ... --owner USER");
}

std::string run_folder(const std::string& run) { return run + "/vduse"; }

}  // namespace

std::string journal_path(const std::string& run, const std::string& name) {
  return fmt::format("{}/{}.journal", run_folder(run), name);
}

std::string lock_path(const std::string& run, const std::string& name) {
  return fmt::format("{}/{}.lock", run_folder(run), name);
}

Result<std::string> make_run_folder(const std::string& run) {
  static constexpr mode_t mode = 0755;
  std::string folder = run_folder(run);
  for (const std::string& each : {run, folder}) {
    if (::mkdir(each.c_str(), mode) != 0 && errno != EEXIST)
      return not_permitted(Error::from_errno("creating a folder for locks and journals").on(each));
  }
  return folder;
}

Result<UniqueFd> lock_name(const std::string& path, Duration timeout, const Log& log) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return not_permitted(Error::from_errno("creating the lock file of the device").on(path));
  auto locked = wait_for_lock(fd.get(), Clock::system().now() + timeout);
  if (const auto pid = holder_in(fd.get()); locked && !*locked && pid && process_is_ending(*pid)) {
    log_wait(*pid, log);
    locked = wait_for_lock(fd.get(), Clock::system().now() + ending_timeout);
  }
  if (!locked) return Error(locked.error()).on(path);
  if (!*locked) return Error(held_by(holder_in(fd.get()))).on(path);
  const std::string pid = fmt::format("{}\n", ::getpid());
  if (::ftruncate(fd.get(), 0) < 0 || ::pwrite(fd.get(), pid.data(), pid.size(), 0) < 0)
    return Error::from_errno("writing a lock file").on(path);
  return fd;
}

Status wait_for_end_of(int pid, std::uint64_t start_time, Duration timeout, const Log& log) {
  if (pid <= 0 || pid == ::getpid()) return {};
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process && errno == ESRCH) return {};
  // Looked at once the descriptor holds on to whoever has the number.
  if (start_time_of(pid) != start_time) return {};
  TimePoint end = Clock::system().now() + timeout;
  bool ending = false;
  // Without a descriptor: where the kernel has none of processes, or a seccomp filter denies them.
  while (process ? !wait_readable(process.get(), {}) : !process_has_ended(pid, start_time)) {
    if (Clock::system().now() >= end && !ending && process_is_ending(pid)) {
      ending = true;
      end += ending_timeout;
      log_wait(pid, log);
    }
    const bool over = Clock::system().now() >= end;
    if (!over && pause_thread(pause)) continue;
    return not_ended(over ? ETIMEDOUT : ECANCELED, pid);
  }
  return {};
}

}  // namespace outboard::vduse
