#pragma once

#include <future>
#include <utility>

#include <outboard/base/loop.hpp>

namespace outboard {

/// Runs `task` on the loop's thread and waits for its end; on that thread itself, runs it directly. If the loop is destroyed,
/// the task is dropped and the wait ends. Do not call it on a loop that `loop` itself may be waiting for.
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
