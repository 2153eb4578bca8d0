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

/// Reads the count of an eventfd and clears it. 0: there was none (errno is EAGAIN), or it cannot be read (another errno).
/// Never blocks, whatever flags a peer sets on the open file. Any thread.
std::uint64_t drain_eventfd(int fd);

/// Adds one to an eventfd that a peer holds, too. False, with EBADF: the descriptor cannot be written to. A saturated counter
/// counts as signalled, since its reader finds an event. A descriptor that is not an eventfd counts as one without a reader.
/// Any thread.
///
/// Never blocks, whatever flags a peer sets on the open file. This needs the kernel's asynchronous I/O (io_submit). If the
/// process is denied it (a seccomp filter, fs.aio-max-nr), the counter is polled and then written: a peer that clears
/// O_NONBLOCK and saturates the counter between the two makes the thread wait until the counter is read.
bool signal_peers_eventfd(int fd);

/// Prepares signal_peers_eventfd(). Call it before there is a peer: a hostile client could use up fs.aio-max-nr, which all
/// processes of the machine share. Without this call the first adopted descriptor prepares it. The Error has the cause and the
/// cure; preparing is tried again with each adopted descriptor and, at most once a second, while there are events to signal.
/// Any thread.
Status prepare_to_signal_peers();

/// An eventfd: a counter that one side adds to and the other waits for. All calls may come from any thread, and none
/// blocks; signal_peers_eventfd() has the one exception.
class EventFd {
 public:
  /// Who holds the open file, and can therefore change whether a write to it blocks.
  enum class Owner : std::uint8_t { us, peer };

  EventFd() = default;
  static Result<EventFd> create();
  /// Takes over a descriptor that a peer sent and makes it non-blocking. It need not be an eventfd: signal() and
  /// drain() then fail quietly. EBADF, EINVAL: it cannot be made non-blocking.
  static Result<EventFd> adopt(UniqueFd fd);
  /// Another descriptor of the same eventfd; an invalid EventFd of an invalid one.
  Result<EventFd> duplicate() const;

  int get() const { return fd_.get(); }
  bool valid() const { return fd_.valid(); }
  Owner owner() const { return owner_; }
  const UniqueFd& fd() const { return fd_; }
  UniqueFd release() && { return std::move(fd_); }

  /// Adds one. A saturated counter, or a descriptor that is not an eventfd, drops the event.
  void signal() const;
  /// Reads the count and clears it, as drain_eventfd().
  std::uint64_t drain() const { return drain_eventfd(fd_.get()); }
  /// Makes this descriptor, whose number stays, one of the other's eventfd. Both are valid. Errors of the system: nothing has
  /// changed.
  Status become(const EventFd& other);
  /// Whether both are descriptors of one eventfd. Reads /proc; false without it and for other files.
  bool same_as(const EventFd& other) const;

 private:
  EventFd(UniqueFd fd, Owner owner) : fd_(std::move(fd)), owner_(owner) {}
  UniqueFd fd_;
  Owner owner_ = Owner::us;
};

/// Adds one to an eventfd of which only the descriptor is at hand. False as signal_peers_eventfd().
bool signal_eventfd(int fd, EventFd::Owner owner);

}  // namespace outboard
