#include <outboard/base/internal/system_calls.hpp>

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <ctime>
#include <utility>

namespace outboard {
namespace {

class Kernel final : public SystemCalls {};

constinit Kernel kernel;
constinit thread_local SystemCalls* simulated = nullptr;

}  // namespace

ssize_t SystemCalls::send(int socket, const msghdr& message, int flags) {
  // The kernel has less to take apart.
  if (message.msg_iovlen == 1 && message.msg_controllen == 0)
    return ::send(socket, message.msg_iov->iov_base, message.msg_iov->iov_len, flags);
  return ::sendmsg(socket, &message, flags);
}

ssize_t SystemCalls::receive(int socket, msghdr& message, int flags) { return ::recvmsg(socket, &message, flags); }

int SystemCalls::accept(int socket) { return ::accept4(socket, nullptr, nullptr, SOCK_CLOEXEC); }

int SystemCalls::connect(int socket, const sockaddr* address, socklen_t size) {
  return ::connect(socket, address, size);
}

int SystemCalls::poll(pollfd* descriptors, nfds_t count, Duration timeout) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(timeout);
  const timespec limit{.tv_sec = seconds.count(), .tv_nsec = (timeout - seconds).count()};
  return ::ppoll(descriptors, count, &limit, nullptr);
}

int SystemCalls::make_eventfd() { return ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); }

int SystemCalls::make_memory_file(const char* name, unsigned flags) { return ::memfd_create(name, flags); }

int SystemCalls::duplicate(int fd) { return ::fcntl(fd, F_DUPFD_CLOEXEC, 3); }

bool SystemCalls::signal(int eventfd, EventFd::Owner owner) {
  if (owner == EventFd::Owner::peer) return signal_peers_eventfd(eventfd);
  const std::uint64_t one = 1;
  // EAGAIN: the counter is saturated, so nobody has looked for 2^64 events; one more tells nothing.
  return ::write(eventfd, &one, sizeof one) >= 0 || errno != EBADF;
}

void* SystemCalls::map(void* at, std::size_t size, int protection, int flags, int fd, off_t offset) {
  return ::mmap(at, size, protection, flags, fd, offset);
}

int SystemCalls::unmap(void* at, std::size_t size) { return ::munmap(at, size); }

TimePoint SystemCalls::now() { return std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now()); }

SystemCalls& system_calls() { return simulated == nullptr ? kernel : *simulated; }

SimulatedCalls::SimulatedCalls(SystemCalls& calls) : before_(std::exchange(simulated, &calls)) {}
SimulatedCalls::~SimulatedCalls() { simulated = before_; }

}  // namespace outboard
