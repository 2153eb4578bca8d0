#include <outboard/base/wait.hpp>

#include <poll.h>
#include <sys/file.h>

#include <algorithm>
#include <atomic>
#include <chrono>

namespace outboard {

namespace {

/// A signal says it to a process, so it is the process's.
std::atomic<int> interruption_fd{-1};

}  // namespace

bool wait_readable(int fd, TimePoint end) {
  constexpr std::int64_t longest_ms = 60'000;
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::system().now()).count();
    pollfd state{fd, POLLIN, 0};
    if (::poll(&state, 1, static_cast<int>(std::clamp<std::int64_t>(left, 0, longest_ms))) == 1) return true;
    if (left <= 0) return false;
  }
}

bool pause_thread(Duration time) {
  // poll() passes over a descriptor of -1.
  return !wait_readable(interruption_fd.load(), Clock::system().now() + time);
}

Interruption::Interruption(int fd) { interruption_fd = fd; }
Interruption::~Interruption() { interruption_fd = -1; }

Result<bool> wait_for_lock(int fd, TimePoint end) {
  constexpr auto look_again = std::chrono::milliseconds(20);
  while (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return Error::from_errno("locking");
    if (Clock::system().now() >= end) return false;
    if (!pause_thread(look_again)) return Error(ECANCELED, "interrupted while waiting for a lock");
  }
  return true;
}

}  // namespace outboard
