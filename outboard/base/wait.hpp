#pragma once

#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>

/// Waits that block the calling thread, never a loop's, until a point in time of Clock::system(): a signal makes none longer.
namespace outboard {

/// Whether `fd` became readable, or its other end has gone, by `end`. Looks at least once.
bool wait_readable(int fd, TimePoint end);

/// Waits for `time`; false, and at once, when the program is to end (Interruption): whoever waits for something then gives it
/// up, with ECANCELED. Not for waits that end something. Any thread.
bool pause_thread(Duration time);

/// Lets pause_thread() know, in every thread, that the program is to end: when `fd` becomes readable. One at a time; `fd`
/// outlives it.
class Interruption {
 public:
  explicit Interruption(int fd);
  ~Interruption();
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;
};

/// Takes flock()'s exclusive lock on the open file; whether it could be had by `end`. Tries at least once. ECANCELED: see
/// pause_thread(). What flock() says otherwise.
Result<bool> wait_for_lock(int fd, TimePoint end);

}  // namespace outboard
