#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <cstddef>

#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>

namespace outboard {

struct ProcessLimits;

/// The system calls by which a process reaches others, waits, maps memory and tells the time. The base class makes the calls;
/// testing::Simulation has a derived class that decides what they return. What only looks at a descriptor or changes its flags
/// is called directly.
///
/// As the kernel's: -1 (or MAP_FAILED) and errno on failure.
class SystemCalls {
 public:
  virtual ssize_t send(int socket, const msghdr& message, int flags);
  virtual ssize_t receive(int socket, msghdr& message, int flags);
  /// Accepts a connection, close-on-exec.
  virtual int accept(int socket);
  /// Waits for room among the connections that are not accepted yet, as long as SO_SNDTIMEO says.
  virtual int connect(int socket, const sockaddr* address, socklen_t size);
  /// Waits for one of the descriptors, at most `timeout`. EINTR included.
  virtual int poll(pollfd* descriptors, nfds_t count, Duration timeout);

  virtual int make_eventfd();
  virtual int make_memory_file(const char* name, unsigned flags);
  virtual int duplicate(int fd);
  /// As signal_eventfd().
  virtual bool signal(int eventfd, EventFd::Owner owner);

  virtual void* map(void* at, std::size_t size, int protection, int flags, int fd, off_t offset);
  virtual int unmap(void* at, std::size_t size);

  virtual TimePoint now();

  /// What the process may use, where that is not measured. Null: it is.
  virtual const ProcessLimits* process_limits() { return nullptr; }

 protected:
  ~SystemCalls() = default;  // nobody owns one as such; so the kernel's need no destruction at exit
};

/// Those of the calling thread: the kernel's, unless SimulatedCalls is in force.
SystemCalls& system_calls();

/// Makes system_calls() return `calls` on the calling thread, until it is destroyed there. They may be nested.
class SimulatedCalls {
 public:
  explicit SimulatedCalls(SystemCalls& calls);
  ~SimulatedCalls();
  SimulatedCalls(const SimulatedCalls&) = delete;
  SimulatedCalls& operator=(const SimulatedCalls&) = delete;

 private:
  SystemCalls* before_;
};

}  // namespace outboard
