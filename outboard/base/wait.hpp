#pragma once

#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>

/// Waits that block the calling thread, never a loop's, until a point in time of Clock::system(): a signal makes none longer.
namespace outboard {

/// Whether `fd` became readable, or its other end has gone, by `end`. Looks at least once.
bool wait_readable(int fd, TimePoint end);

/// Takes flock()'s exclusive lock on the open file; whether it could be had by `end`. Tries at least once. What flock() says
/// otherwise.
Result<bool> wait_for_lock(int fd, TimePoint end);

}  // namespace outboard
