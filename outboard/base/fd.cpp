#include <outboard/base/fd.hpp>

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>

#include <outboard/base/internal/eventfds.hpp>
#include <outboard/base/internal/system_calls.hpp>

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

/// Asks the kernel; not every one, and not every seccomp filter, lets us.
bool is_one_file(int fd, int other) {
  const pid_t self = ::getpid();
  return ::syscall(SYS_kcmp, self, self, KCMP_FILE, fd, other) == 0;
}

/// Reads a count by read(2). What has a type is not read: O_NONBLOCK does not bind all of it. A peer who takes O_NONBLOCK off
/// again just here, and reads the count first, could make it wait.
std::uint64_t drain_by_read(int fd) {
  std::uint64_t count = 0;
  if (!may_be_eventfd(fd)) {
    errno = EINVAL;
    return 0;
  }
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ((flags & O_NONBLOCK) == 0 && ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)) return 0;
  return ::read(fd, &count, sizeof count) == static_cast<ssize_t>(sizeof count) ? count : 0;
}

}  // namespace

void UniqueFd::reset(int fd) {
  if (fd_ >= 0) ::close(fd_);
  fd_ = fd;
}

Result<UniqueFd> UniqueFd::duplicate() const {
  const int copy = system_calls().duplicate(fd_);
  if (copy < 0) return Error::from_errno("duplicating a file descriptor");
  return UniqueFd(copy);
}

Result<EventFd> EventFd::create() {
  UniqueFd fd(system_calls().make_eventfd());
  if (!fd) return Error::from_errno("creating an eventfd");
  return EventFd(std::move(fd), Owner::us);
}

Result<EventFd> EventFd::adopt(UniqueFd fd) {
  const int flags = ::fcntl(fd.get(), F_GETFL);
  if (flags < 0 || ::fcntl(fd.get(), F_SETFL, flags | O_NONBLOCK) < 0) {
    return Error::from_errno("making a received eventfd non-blocking");
  }
  [[maybe_unused]] const Status ready = prepare_to_signal_peers();  // else each signal looks first
  return EventFd(std::move(fd), Owner::peer);
}

Result<EventFd> EventFd::duplicate() const {
  if (!valid()) return EventFd();
  OUTBOARD_TRY(UniqueFd copy, fd_.duplicate());
  return EventFd(std::move(copy), owner_);
}

Status EventFd::become(const EventFd& other) {
  if (::dup3(other.get(), get(), O_CLOEXEC) < 0) return Error::from_errno("replacing an eventfd by another one");
  owner_ = other.owner_;
  return {};
}

void EventFd::signal() const { signal_eventfd(fd_.get(), owner_); }

bool signal_eventfd(int fd, EventFd::Owner owner) { return system_calls().signal(fd, owner); }

std::uint64_t drain_eventfd(int fd) {
  std::uint64_t count = 0;
  const iovec piece{&count, sizeof count};
  // RWF_NOWAIT: O_NONBLOCK belongs to the open file, and a peer who has it too can take it off again.
  if (::preadv2(fd, &piece, 1, -1, RWF_NOWAIT) == static_cast<ssize_t>(sizeof count)) return count;
  // A kernel before 5.8 cannot do so on an eventfd; a seccomp filter may deny the call.
  if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EPERM) return drain_by_read(fd);
  return 0;
}

bool EventFd::same_as(const EventFd& other) const {
  if (const auto id = eventfd_id(fd_.get())) return id == eventfd_id(other.fd_.get());
  // Each eventfd is one open file.
  return may_be_eventfd(fd_.get()) && is_one_file(fd_.get(), other.fd_.get());
}

}  // namespace outboard
