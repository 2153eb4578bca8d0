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

/// Signals eventfds that a peer can make blocking at any time. Any thread.
///
/// The kernel's asynchronous I/O adds to an eventfd (IOCB_FLAG_RESFD) when an operation has ended, and what the kernel adds
/// itself never waits for room. write(2) does so unless the open file says O_NONBLOCK, which a peer may change; eventfds take
/// no pwritev2(RWF_NOWAIT), and have no name by which to open them again.
class AsyncSignal {
 public:
  /// EAGAIN: processes of this machine have all of fs.aio-max-nr. What the kernel says else: ENOSYS or EPERM of a filter,
  /// EMFILE.
  static Result<std::unique_ptr<AsyncSignal>> create();
  ~AsyncSignal();
  AsyncSignal(const AsyncSignal&) = delete;
  AsyncSignal& operator=(const AsyncSignal&) = delete;

  /// As signal_peers_eventfd(); nothing where it cannot be done so: in a child that the process has forked.
  std::optional<bool> signal(int fd);

 private:
  AsyncSignal(UniqueFd file, aio_context_t context);
  Status try_out();
  int submit(int fd) const;
  long take_ended() const;

  UniqueFd file_;  ///< what is read: nothing, so that each operation ends in the call that submits it
  aio_context_t context_;
  pid_t process_;
  std::atomic<unsigned> submitted_{1};
};

/// The one that a process uses. Others may have what it takes (fs.aio-max-nr), and give it back: it is asked for again. Any thread.
class SharedAsyncSignal {
 public:
  static constexpr Duration pause_between_attempts = std::chrono::seconds(1);
  using Create = std::function<Result<std::unique_ptr<AsyncSignal>>()>;

  explicit SharedAsyncSignal(Create create = AsyncSignal::create, Clock& clock = Clock::system());

  /// Null while it cannot be had. Asks for it where the last attempt was some time ago.
  AsyncSignal* get();
  /// Asks for it, unless it is there.
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
