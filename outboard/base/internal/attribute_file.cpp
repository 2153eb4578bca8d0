#include <outboard/base/internal/attribute_file.hpp>

#include <fcntl.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include <fmt/format.h>

#include <outboard/base/fd.hpp>
#include <outboard/base/internal/wait.hpp>

namespace outboard {
namespace {

/// A child with `output` for its standard output, and nothing else of ours.
struct SpawnPlan {
  explicit SpawnPlan(int output) {
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    ::posix_spawnattr_init(&attributes);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  }
  ~SpawnPlan() {
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  posix_spawn_file_actions_t actions{};
  posix_spawnattr_t attributes{};
};

/// The shell's printf writes once. A session of its own: what a terminal sends is not for it.
Result<pid_t> start_writer(int output, const std::string& value) {
  const SpawnPlan plan(output);
  std::string words[] = {"sh", "-c", "printf %s \"$1\"", "sh", value};
  char* arguments[] = {words[0].data(), words[1].data(), words[2].data(), words[3].data(), words[4].data(), nullptr};
  pid_t writer = 0;
  if (const int code = ::posix_spawn(&writer, "/bin/sh", &plan.actions, &plan.attributes, arguments, environ);
      code != 0)
    return Error(code, "starting a process that writes it");
  return writer;
}

/// Whether a child has ended. It can still be waited for.
bool has_ended(pid_t child) {
  siginfo_t info{};
  const int asked = ::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT);
  return asked < 0 || info.si_pid == child;  // not our child any more: whoever we are in has reaped it
}

/// Where the kernel has no descriptors of processes (before 5.3), or a seccomp filter denies them.
bool ends_by(pid_t child, TimePoint end) {
  constexpr auto look_again = std::chrono::milliseconds(5);
  while (!has_ended(child)) {
    if (Clock::system().now() >= end) return false;
    std::this_thread::sleep_for(look_again);
  }
  return true;
}

/// Whether the process has ended within the timeout.
bool ends_within(pid_t process, Duration timeout) {
  const TimePoint end = Clock::system().now() + timeout;
  const UniqueFd watched(static_cast<int>(::syscall(SYS_pidfd_open, process, 0)));
  if (!watched) return ends_by(process, end);
  return wait_readable(watched.get(), end);
}

}  // namespace

Status write_attribute(const std::string& path, std::string_view value) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
  if (!file) return Error::from_errno("opening it").on(path);
  if (::write(file.get(), value.data(), value.size()) < 0)
    return Error::from_errno("writing '" + std::string(value) + "'").on(path);
  return {};
}

Status write_attribute_apart(const std::string& path, const std::string& value, std::optional<Duration> timeout) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
  if (!file) return Error::from_errno("opening it").on(path);
  const auto writer = start_writer(file.get(), value);
  if (!writer) return Error(writer.error()).on(path);
  if (timeout && !ends_within(*writer, *timeout))
    return Error(ETIMEDOUT, fmt::format("writing '{}': the kernel has not finished the write; process {} still waits",
                                        value, *writer))
        .on(path)
        .cure("the kernel's log (dmesg) may say what it waits for");
  int status = 0;
  while (::waitpid(*writer, &status, 0) < 0) {
    if (errno != EINTR) return {};  // whoever we are in reaps all children; the caller looks what has become of it
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return Error(EIO, "writing '" + value + "'").on(path).cure("the kernel's log (dmesg) may say why");
}

}  // namespace outboard
