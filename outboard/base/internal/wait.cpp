#include <outboard/base/internal/wait.hpp>

#include <poll.h>
#include <sys/file.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include <fmt/format.h>

#include <outboard/base/internal/system_calls.hpp>

namespace outboard {

namespace {

/// A signal is sent to a process, so this is the process's.
std::atomic<int> interruption_fd{-1};

}  // namespace

bool wait_readable(int fd, TimePoint end) {
  constexpr Duration max_wait = std::chrono::minutes(1);
  while (true) {
    const Duration left = end - Clock::system().now();
    pollfd state{fd, POLLIN, 0};
    if (system_calls().poll(&state, 1, std::clamp<Duration>(left, Duration::zero(), max_wait)) == 1) return true;
    if (left <= Duration::zero()) return false;
  }
}

bool pause_thread(Duration time) {
  // poll() passes over a descriptor of -1.
  return !wait_readable(interruption_fd.load(), Clock::system().now() + time);
}

Interruption::Interruption(int fd) { interruption_fd = fd; }
Interruption::~Interruption() { interruption_fd = -1; }

Error interrupted_waiting_for(std::string_view what) {
  return Error(ECANCELED, fmt::format("interrupted while waiting for {}", what));
}

Result<bool> wait_for_lock(int fd, TimePoint end) {
  constexpr Duration pause = std::chrono::milliseconds(20);
  const Status locked = retry_while(is_code(EWOULDBLOCK), end, pause, "a lock", [fd]() -> Status {
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return {};
    if (errno == EINTR) errno = EWOULDBLOCK;
    return Error::from_errno("locking");
  });
  if (!locked && locked.error().code() != EWOULDBLOCK) return locked.error();
  return static_cast<bool>(locked);
}

}  // namespace outboard
