#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include <outboard/base/fd.hpp>
#include <outboard/base/internal/wait.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>

namespace outboard::command {

/// Handles Ctrl-C and SIGTERM as long as it lives. The first signal requests an end; everything that takes time checks for it, also
/// waits within the library (see outboard::Interruption). The second one ends the process at once, without a message. Create it
/// before any other thread, so that all threads block the signals. Afterwards the signals have their default effect.
class StopSignal {
 public:
  enum class Verdict : std::uint8_t { end, wait, anew };
  enum class Start : std::uint8_t { at_signal, now };

  static Result<std::unique_ptr<StopSignal>> create();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// Requests an end, as the first signal does. Any thread.
  void request();
  /// Any thread.
  bool requested() const { return requested_.load(std::memory_order_relaxed); }
  /// Readable once an end has been requested.
  int fd() const { return wake_.get(); }
  /// Waits for `time`; returns false as soon as an end is requested. Any thread.
  bool pause(Duration time) const;
  /// What bounds the end of a process.
  struct Bound {
    Start start;  ///< at_signal: the first one, or request(); now, if that has come
    /// The process always gets the last fifth of it, also if the rest passed while the process was stopped (SIGSTOP).
    Duration timeout;
    /// Called before the last fifth of the time, and when all of it has passed. `wait`: ask again after a second. `anew`: start
    /// the time again.
    std::function<Verdict()> verdict;
    /// Called before the process ends, on a thread of its own. If it does not return, the process ends a second later.
    std::function<void()> say;
  };
  /// Ends the process with exit status 1 when `timeout` has passed since `start`, whatever its threads wait for. Replaces an
  /// earlier bound. Any thread.
  void bound_end(Bound bound);
  /// Removes the bound. Any thread.
  void unbound();
  /// Restarts the time of the bound: the work makes progress. Any thread.
  void show_life();
  /// The error of an interrupted verb.
  static Error interrupted();

 private:
  StopSignal(UniqueFd signals, UniqueFd timer, EventFd wake, EventFd end);
  void watch();
  bool take_signal();
  void start_timer();
  void set_timer(Duration time) const;
  void time_is_over();
  [[noreturn]] static void say_and_end(const std::shared_ptr<const Bound>& bound);

  UniqueFd signals_, timer_;
  EventFd wake_, end_;
  Interruption interruption_;
  std::atomic<bool> requested_{false};

  std::mutex mutex_;
  // Guarded by mutex_.
  std::shared_ptr<const Bound> bound_;
  bool in_last_stretch_ = false;

  std::thread thread_;
};

}  // namespace outboard::command
