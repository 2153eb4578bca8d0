#pragma once

#include <cstdint>
#include <utility>

#include <outboard/base/result.hpp>

namespace outboard {

/// Owns a file descriptor: closes it, exactly once. Move-only. Not synchronised.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  ~UniqueFd() { reset(); }
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  explicit operator bool() const { return valid(); }
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1);

  /// Another descriptor of the same open file, close-on-exec.
  Result<UniqueFd> duplicate() const;

 private:
  int fd_ = -1;
};

/// Takes the count of an eventfd and clears it. 0 when there was none: errno is EAGAIN then, and something else when it
/// cannot be read at all. Never blocks, whatever flags a peer gives to the open file. Any thread.
std::uint64_t drain_eventfd(int fd);

/// An eventfd: a counter that one side adds to and the other waits for. All calls may come from any thread. The
/// descriptor is made (or, when it came from a peer, turned) non-blocking, so none of them blocks, with one exception
/// that the kernel leaves no cure for: whether an eventfd blocks is a flag of the open file, which a peer who has it too
/// may change back, and who then saturates the counter makes signal() wait until it is read.
class EventFd {
 public:
  EventFd() = default;
  static Result<EventFd> create();
  /// Takes over a descriptor that a peer sent and makes it non-blocking. It need not be an eventfd: signal() and
  /// drain() then fail quietly. EBADF/EINVAL when it cannot be made non-blocking.
  static Result<EventFd> adopt(UniqueFd fd);

  int get() const { return fd_.get(); }
  bool valid() const { return fd_.valid(); }
  const UniqueFd& fd() const { return fd_; }
  UniqueFd release() && { return std::move(fd_); }

  /// Adds one. A saturated counter, or a descriptor that is not an eventfd, drops the event.
  void signal() const;
  /// Takes the count and clears it; 0 when there was none. As drain_eventfd().
  std::uint64_t drain() const { return drain_eventfd(fd_.get()); }
  /// Whether both are descriptors of one eventfd. Asks /proc; without it, and for other files, the answer is no.
  bool same_as(const EventFd& other) const;

 private:
  explicit EventFd(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace outboard
