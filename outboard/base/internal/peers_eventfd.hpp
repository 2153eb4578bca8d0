#pragma once

#include <linux/aio_abi.h>
#include <sys/types.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>

namespace outboard {

/// Signals eventfds of a peer without ever blocking. Any thread.
///
/// write(2) blocks while the counter is full unless the open file has O_NONBLOCK, which the peer can clear at any time;
/// eventfds do not support pwritev2(RWF_NOWAIT) and cannot be reopened. So the kernel's asynchronous I/O signals them: it adds
/// to an eventfd (IOCB_FLAG_RESFD) when an operation has ended, and never waits for room.
class AsyncSignal {
 public:
  /// EAGAIN: the processes of this machine use all of fs.aio-max-nr. ENOSYS, EPERM: a seccomp filter forbids it. EMFILE.
  static Result<std::unique_ptr<AsyncSignal>> create();
  ~AsyncSignal();
  AsyncSignal(const AsyncSignal&) = delete;
  AsyncSignal& operator=(const AsyncSignal&) = delete;

  /// As signal_peers_eventfd(); nullopt in a forked child, where asynchronous I/O is not possible.
  std::optional<bool> signal(int fd);

 private:
  AsyncSignal(UniqueFd file, aio_context_t context);
  Status try_out();
  int submit(int fd) const;
  long take_ended() const;

  UniqueFd file_;  ///< the operations read 0 bytes of it, so each ends in the call that submits it
  aio_context_t context_;
  pid_t process_;
  std::atomic<unsigned> submitted_{1};
};

/// The AsyncSignal of a process. If it could not be created (fs.aio-max-nr is used up), creation is tried again later. Any
/// thread.
class SharedAsyncSignal {
 public:
  static constexpr Duration pause_between_attempts = std::chrono::seconds(1);
  using Create = std::function<Result<std::unique_ptr<AsyncSignal>>()>;

  explicit SharedAsyncSignal(Create create = AsyncSignal::create, Clock& clock = Clock::system());

  /// Null if it cannot be created. Tries again if the last attempt was some time ago.
  AsyncSignal* get();
  /// Creates it, unless it exists.
  Status make();

 private:
  Create create_;
  Clock& clock_;
  std::mutex mutex_;
  std::unique_ptr<AsyncSignal> owned_;  ///< guarded by mutex_
  std::atomic<AsyncSignal*> made_{nullptr};
  std::atomic<TimePoint> next_attempt_{TimePoint::min()};
};

}  // namespace outboard
