#include <outboard/base/fd.hpp>

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>

namespace outboard {
namespace {

/// The kernel's number for an eventfd. Nothing where /proc does not tell, or for another file.
std::optional<std::uint64_t> eventfd_id(int fd) {
  const UniqueFd info(::open(("/proc/self/fdinfo/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 512> buffer{};
  const auto length = ::read(info.get(), buffer.data(), buffer.size());
  if (length <= 0) return std::nullopt;
  const std::string_view text(buffer.data(), static_cast<std::size_t>(length));
  static constexpr std::string_view name = "eventfd-id:";
  const auto found = text.find(name);
  if (found == std::string_view::npos) return std::nullopt;
  const auto digits = text.find_first_of("0123456789", found + name.size());
  if (digits == std::string_view::npos) return std::nullopt;
  std::uint64_t id = 0;
  const auto [end, error] = std::from_chars(text.data() + digits, text.data() + text.size(), id);
  return error == std::errc{} ? std::optional(id) : std::nullopt;
}

}  // namespace

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

std::uint64_t drain_eventfd(int fd) {
  std::uint64_t count = 0;
  const iovec piece{&count, sizeof count};
  // RWF_NOWAIT: O_NONBLOCK belongs to the open file, and a peer who has it too can take it off again.
  return ::preadv2(fd, &piece, 1, -1, RWF_NOWAIT) == static_cast<ssize_t>(sizeof count) ? count : 0;
}

bool EventFd::same_as(const EventFd& other) const {
  const auto id = eventfd_id(fd_.get());
  return id && id == eventfd_id(other.fd_.get());
}

}  // namespace outboard
