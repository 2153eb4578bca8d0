#pragma once

#include <future>
#include <utility>

#include <outboard/base/loop.hpp>

namespace outboard {

/// Runs `task` on the loop's thread and waits for it; at once where that is this one. A loop that goes away drops the task,
/// which ends the wait too. Not from a loop that `loop` itself may be waiting for.
inline void run_on(Loop& loop, Loop::Task task) {
  if (loop.in_loop_thread()) return task();
  std::promise<void> promise;
  const std::future<void> done = promise.get_future();
  loop.post([task = std::move(task), promise = std::move(promise)]() mutable {
    task();
    promise.set_value();
  });
  done.wait();
}

}  // namespace outboard
