#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>
#include <outboard/base/wait.hpp>

namespace outboard::command {

/// Ctrl-C and SIGTERM. From its making on, the first of them is a wish to end, which everything that takes time looks for (waits
/// within the library too, see outboard::Interruption); the second ends the process at once, and without a word. Make it before
/// any other thread: they inherit that the signals are blocked. Once it is gone the signals do what they do to any process.
class StopSignal {
 public:
  enum class Verdict : std::uint8_t { end, wait, anew };
  enum class Start : std::uint8_t { at_signal, now };

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
  /// What bounds the end of a process.
  struct Bound {
    Start start;  ///< at_signal: the first one, or request(); now, if that has come
    /// The last fifth of it runs even where the rest passed while the process itself was stopped (SIGSTOP): whoever is at work
    /// has that long to show it.
    Duration patience;
    /// Asked before the last fifth of the time, and when all has passed: `wait` has it asked again after a second, `anew` has all
    /// the time run once more.
    std::function<Verdict()> verdict;
    /// Called before the process ends, on a thread of its own: if it does not return, the process ends a second later.
    std::function<void()> say;
  };
  /// The process ends with exit status 1 when `patience` has passed since `start`, whatever its threads wait for, unless it has
  /// ended by itself. Takes the place of an earlier bound. Any thread.
  void bound_end(Bound bound);
  /// What was bounded has ended. Any thread.
  void unbound();
  /// Whoever is to end is at work: time that runs begins anew. Any thread.
  void show_life();
  /// What a verb that was cut short returns.
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
