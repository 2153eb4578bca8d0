#pragma once

#include <atomic>
#include <memory>
#include <thread>

#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>

namespace outboard::command {

/// Ctrl-C and SIGTERM. From its making on, the first of them is a wish to end, which everything that takes time looks for;
/// the second ends the process at once. Make it before any other thread: they inherit that the signals are blocked.
class StopSignal {
 public:
  static Result<std::unique_ptr<StopSignal>> create();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// Any thread.
  bool requested() const { return requested_.load(std::memory_order_relaxed); }
  /// Readable from the first signal on.
  int fd() const { return wake_.get(); }
  /// Waits for `time`; false as soon as a signal comes. Any thread.
  bool pause(Duration time) const;
  /// What a verb that was cut short returns.
  static Error interrupted();

 private:
  StopSignal(UniqueFd signals, EventFd wake, EventFd end);
  void watch();

  UniqueFd signals_;
  EventFd wake_, end_;
  std::atomic<bool> requested_{false};
  std::thread thread_;
};

}  // namespace outboard::command
