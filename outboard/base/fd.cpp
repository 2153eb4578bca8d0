#include <outboard/base/fd.hpp>

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace outboard {

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

Result<UniqueFd> UniqueFd::duplicate() const {
  const int copy = ::fcntl(fd_, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return Error::from_errno("duplicating a file descriptor");
  return UniqueFd(copy);
}

Result<EventFd> EventFd::create() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd) return Error::from_errno("creating an eventfd");
  return EventFd(std::move(fd));
}

Result<EventFd> EventFd::adopt(UniqueFd fd) {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) < 0) {
    return Error::from_errno("making a received eventfd non-blocking");
  }
  return EventFd(std::move(fd));
}

void EventFd::signal() const {
  const std::uint64_t one = 1;
  // EAGAIN: the counter is saturated, so the peer has not looked for 2^64 events; one more tells it nothing.
  [[maybe_unused]] const auto written = ::write(fd_.get(), &one, sizeof one);
}

std::uint64_t EventFd::drain() const {
  std::uint64_t count = 0;
  return ::read(fd_.get(), &count, sizeof count) == static_cast<ssize_t>(sizeof count) ? count : 0;
}

}  // namespace outboard
