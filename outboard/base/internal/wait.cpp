#include <outboard/base/internal/wait.hpp>

#include <poll.h>
#include <sys/file.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include <fmt/format.h>

namespace outboard {

namespace {

/// A signal is sent to a process, so this is the process's.
std::atomic<int> interruption_fd{-1};

}  // namespace

bool wait_readable(int fd, TimePoint end) {
  constexpr std::int64_t max_ms = 60'000;
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::system().now()).count();
    pollfd state{fd, POLLIN, 0};
    if (::poll(&state, 1, static_cast<int>(std::clamp<std::int64_t>(left, 0, max_ms))) == 1) return true;
    if (left <= 0) return false;
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
