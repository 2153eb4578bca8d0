#include <outboard/testing/internal/simulated_calls.hpp>

#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <span>
#include <vector>

#include <outboard/base/fd.hpp>

namespace outboard::testing {
namespace {

int fail_with(int error) {
  errno = error;
  return -1;
}

std::span<const iovec> pieces_of(const msghdr& message) { return {message.msg_iov, message.msg_iovlen}; }

std::size_t size_of(const msghdr& message) {
  std::size_t size = 0;
  for (const iovec& piece : pieces_of(message)) size += piece.iov_len;
  return size;
}

/// As long as SO_RCVTIMEO or SO_SNDTIMEO says, or for ever.
Duration timeout_of(int socket, int option) {
  if ((::fcntl(socket, F_GETFL) & O_NONBLOCK) != 0) return Duration::zero();
  timeval limit{};
  socklen_t size = sizeof limit;
  if (::getsockopt(socket, SOL_SOCKET, option, &limit, &size) != 0) return Duration::zero();
  if (limit.tv_sec == 0 && limit.tv_usec == 0) return Duration::max();
  return std::chrono::seconds(limit.tv_sec) + std::chrono::microseconds(limit.tv_usec);
}

/// The peer has not received all that was sent: only then can a socket be full.
bool has_unread(int socket) {
  int unread = 0;
  return ::ioctl(socket, SIOCOUTQ, &unread) == 0 && unread != 0;
}

/// A process without room for them loses the descriptors of a message, and is told.
void lose_descriptors(msghdr& message) {
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      ::close(fd);
    }
  }
  message.msg_controllen = 0;
  message.msg_flags |= MSG_CTRUNC;
}

}  // namespace

bool ProcessCalls::begin() {
  SimulatedThread* const thread = simulator_.current();
  if (thread == nullptr) return true;
  if (thread->killed()) return simulator_.count_call_of_the_dead(), false;
  if (simulator_.choose(Choice::preempt, 2) != 0) thread->yield();
  simulator_.maybe_kill_current();
  return !thread->killed();
}

ssize_t ProcessCalls::send_part(int socket, const msghdr& message, int flags, std::size_t size) {
  std::array<iovec, 8> pieces{};
  msghdr part = message;
  part.msg_iov = pieces.data();
  part.msg_iovlen = 0;
  for (const iovec& piece : pieces_of(message)) {
    if (size == 0 || part.msg_iovlen == pieces.size()) break;
    const std::size_t taken = std::min(size, piece.iov_len);
    pieces[part.msg_iovlen++] = {piece.iov_base, taken};
    size -= taken;
  }
  return SystemCalls::send(socket, part, flags);
}

ssize_t ProcessCalls::send(int socket, const msghdr& message, int flags) {
  if (simulator_.current() == nullptr) return SystemCalls::send(socket, message, flags);
  if (!begin()) return fail_with(EPIPE);
  const std::size_t size = size_of(message);
  const auto choices = static_cast<std::uint32_t>(std::min<std::size_t>(size, 4096));
  if (const auto cut = simulator_.choose(Choice::disconnect, choices + 1); cut != 0) {
    const ssize_t sent = cut > 1 ? send_part(socket, message, flags, cut - 1) : fail_with(EPIPE);
    const int error = errno;
    ::shutdown(socket, SHUT_RDWR);
    errno = error;
    return sent;
  }
  if (has_unread(socket) && simulator_.choose(Choice::full_socket, 2) != 0) return fail_with(EAGAIN);
  const std::uint32_t taken = simulator_.choose(Choice::short_send, choices);
  const ssize_t sent =
      taken == 0 ? SystemCalls::send(socket, message, flags) : send_part(socket, message, flags, taken);
  simulator_.trace(static_cast<std::uint64_t>(sent));
  return sent;
}

bool ProcessCalls::wait_readable(int socket) {
  pollfd state{.fd = socket, .events = POLLIN, .revents = 0};
  return poll(&state, 1, timeout_of(socket, SO_RCVTIMEO)) > 0;
}

ssize_t ProcessCalls::receive(int socket, msghdr& message, int flags) {
  if (simulator_.current() == nullptr) return SystemCalls::receive(socket, message, flags);
  if (!begin()) return fail_with(ECONNRESET);
  if ((flags & MSG_DONTWAIT) == 0) {
    if (simulator_.choose(Choice::interrupted, 2) != 0) return fail_with(EINTR);
    if (!wait_readable(socket)) return fail_with(simulator_.current()->killed() ? ECONNRESET : EAGAIN);
  }
  const ssize_t got = SystemCalls::receive(socket, message, flags | MSG_DONTWAIT);
  if (got > 0 && (flags & MSG_PEEK) == 0 && message.msg_controllen != 0 &&
      simulator_.choose(Choice::no_descriptor, 2) != 0) {
    lose_descriptors(message);
  }
  simulator_.trace(static_cast<std::uint64_t>(got));
  return got;
}

bool ProcessCalls::has_room() {
  if (simulator_.current() == nullptr || simulator_.current()->killed()) return true;
  return simulator_.choose(Choice::no_descriptor, 2) == 0;
}

int ProcessCalls::accept(int socket) {
  if (!begin()) return fail_with(EAGAIN);
  // A descriptor is reserved first: the client stays where it is.
  return has_room() ? SystemCalls::accept(socket) : fail_with(EMFILE);
}

int ProcessCalls::connect(int socket, const sockaddr* address, socklen_t size) {
  SimulatedThread* const thread = simulator_.current();
  if (thread == nullptr) return SystemCalls::connect(socket, address, size);
  constexpr Duration pause = std::chrono::milliseconds(1);
  const TimePoint end = after(simulator_.now(), timeout_of(socket, SO_SNDTIMEO));
  const int flags = ::fcntl(socket, F_GETFL);
  while (begin()) {
    ::fcntl(socket, F_SETFL, flags | O_NONBLOCK);
    const int done = SystemCalls::connect(socket, address, size);
    const int error = errno;
    ::fcntl(socket, F_SETFL, flags);
    if (done == 0 || error != EAGAIN || simulator_.now() >= end) return done == 0 ? 0 : fail_with(error);
    thread->wait({.for_loop = false, .descriptors = {}, .until = simulator_.now() + pause});
  }
  return fail_with(ECONNREFUSED);
}

int ProcessCalls::make_eventfd() { return has_room() ? SystemCalls::make_eventfd() : fail_with(EMFILE); }
int ProcessCalls::make_memory_file(const char* name, unsigned flags) {
  return has_room() ? SystemCalls::make_memory_file(name, flags) : fail_with(EMFILE);
}
int ProcessCalls::duplicate(int fd) { return has_room() ? SystemCalls::duplicate(fd) : fail_with(EMFILE); }

int ProcessCalls::poll(pollfd* descriptors, nfds_t count, Duration timeout) {
  SimulatedThread* const thread = simulator_.current();
  if (thread == nullptr) return SystemCalls::poll(descriptors, count, timeout);
  if (!begin()) return 0;
  int ready = ::poll(descriptors, count, 0);
  if (ready == 0 && timeout > Duration::zero()) {
    const std::vector<pollfd> asked(descriptors, descriptors + count);
    thread->wait({.for_loop = false, .descriptors = asked, .until = after(simulator_.now(), timeout)});
    ready = thread->killed() ? 0 : ::poll(descriptors, count, 0);
  }
  return ready;
}

bool ProcessCalls::signal(int eventfd, EventFd::Owner owner) {
  if (simulator_.current() == nullptr) return SystemCalls::signal(eventfd, owner);
  if (!begin()) return true;
  // What a simulated peer holds does not block.
  return SystemCalls::signal(eventfd, EventFd::Owner::us);
}

void* ProcessCalls::map(void* at, std::size_t size, int protection, int flags, int fd, off_t offset) {
  SimulatedThread* const thread = simulator_.current();
  if (thread != nullptr && !thread->killed() && simulator_.choose(Choice::no_memory, 2) != 0) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  // The memory of the dead is their own.
  if (thread != nullptr && thread->killed()) flags = (flags & ~MAP_TYPE) | MAP_PRIVATE;
  void* const mapped = SystemCalls::map(at, size, protection, flags, fd, offset);
  if (mapped != MAP_FAILED && thread != nullptr && (flags & MAP_SHARED) != 0) {
    thread->process().shared_mappings[static_cast<std::byte*>(mapped)] = size;
  }
  return mapped;
}

int ProcessCalls::unmap(void* at, std::size_t size) {
  SimulatedThread* const thread = simulator_.current();
  if (thread != nullptr) thread->process().shared_mappings.erase(static_cast<std::byte*>(at));
  return SystemCalls::unmap(at, size);
}

}  // namespace outboard::testing
