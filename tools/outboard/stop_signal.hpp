#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>
#include <outboard/base/wait.hpp>

namespace outboard::command {

/// Ctrl-C and SIGTERM. From its making on, the first of them is a wish to end, which everything that takes time looks for (waits
/// within the library too, see outboard::Interruption); the second ends the process at once. Make it before any other thread: they inherit that the signals are blocked.
class StopSignal {
 public:
  static Result<std::unique_ptr<StopSignal>> create();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// Another reason to end than a signal, which does as the first of them does. Any thread.
  void request();
  /// Any thread.
  bool requested() const { return requested_.load(std::memory_order_relaxed); }
  /// Readable from the first signal, or request(), on.
  int fd() const { return wake_.get(); }
  /// Waits for `time`; false as soon as a signal comes. Any thread.
  bool pause(Duration time) const;
  /// From now on the process ends with exit status 1 when `time` has passed, whatever its threads wait for, unless it has ended by
  /// itself; `say` is called before that, and before a second signal ends it, on a thread of its own. Any thread, once.
  void end_within(Duration time, std::function<void()> say);
  /// What a verb that was cut short returns.
  static Error interrupted();

 private:
  StopSignal(UniqueFd signals, EventFd wake, EventFd end, EventFd deadline_set);
  void watch();
  bool take_signal();
  bool deadline_is_over() const;
  int milliseconds_left() const;
  [[noreturn]] void end_now(int status) const;

  UniqueFd signals_;
  EventFd wake_, end_, deadline_set_;
  Interruption interruption_;
  std::atomic<bool> requested_{false};

  mutable std::mutex mutex_;
  std::optional<TimePoint> deadline_;  ///< guarded by mutex_
  std::function<void()> say_;  ///< guarded by mutex_

  std::thread thread_;
};

}  // namespace outboard::command
