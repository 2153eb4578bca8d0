#pragma once

#include <cstdint>

#include <outboard/base/internal/budget.hpp>
#include <outboard/base/internal/system_calls.hpp>
#include <outboard/testing/internal/simulator.hpp>

namespace outboard::testing {

/// The system calls of simulated processes: made on real descriptors, with the results and at the moments that the simulation
/// decides. Those of a process that has been killed do nothing, and fail. Outside of all processes they are the kernel's.
class ProcessCalls final : public SystemCalls {
 public:
  explicit ProcessCalls(Simulator& simulator) : simulator_(simulator) {}

  ssize_t send(int socket, const msghdr& message, int flags) override;
  ssize_t receive(int socket, msghdr& message, int flags) override;
  int accept(int socket) override;
  int connect(int socket, const sockaddr* address, socklen_t size) override;
  int poll(pollfd* descriptors, nfds_t count, Duration timeout) override;
  int make_eventfd() override;
  int make_memory_file(const char* name, unsigned flags) override;
  int duplicate(int fd) override;
  bool signal(int eventfd, EventFd::Owner owner) override;
  void* map(void* at, std::size_t size, int protection, int flags, int fd, off_t offset) override;
  int unmap(void* at, std::size_t size) override;
  TimePoint now() override { return simulator_.now_of_current(); }
  /// The same on every machine: what a server offers its client follows from them.
  const ProcessLimits* process_limits() override { return &limits_; }

  /// A chance for others to run, or for the process to be killed. False: it has been.
  bool begin();

 private:
  bool wait_readable(int socket);
  ssize_t send_part(int socket, const msghdr& message, int flags, std::size_t size);
  /// Whether the process may have one more descriptor.
  bool has_room();

  Simulator& simulator_;
  ProcessLimits limits_{.descriptors = 4096, .mappings = 16384, .address_space = UINT64_C(1) << 45};
};

}  // namespace outboard::testing
