#pragma once

#include <linux/aio_abi.h>
#include <sys/types.h>

#include <atomic>
#include <optional>

#include <outboard/base/fd.hpp>

namespace outboard {

/// Signals eventfds that a peer can make blocking at any time. Any thread.
///
/// The kernel's asynchronous I/O adds to an eventfd (IOCB_FLAG_RESFD) when an operation has ended, and what the kernel adds
/// itself never waits for room. write(2) does so unless the open file says O_NONBLOCK, which a peer may change; eventfds take
/// no pwritev2(RWF_NOWAIT), and have no name by which to open them again.
class AsyncSignal {
 public:
  AsyncSignal();
  ~AsyncSignal();
  AsyncSignal(const AsyncSignal&) = delete;
  AsyncSignal& operator=(const AsyncSignal&) = delete;

  /// As signal_peers_eventfd(); nothing where it cannot be done so: the process, or a child that it has forked, has no
  /// asynchronous I/O.
  std::optional<bool> signal(int fd);

 private:
  bool works();
  int submit(int fd) const;
  long take_ended() const;

  UniqueFd file_;  ///< what is read: nothing, so that each operation ends in the call that submits it
  aio_context_t context_ = 0;
  pid_t process_;
  std::atomic<unsigned> submitted_{1};
};

}  // namespace outboard
