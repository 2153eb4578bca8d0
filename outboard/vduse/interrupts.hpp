#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/vduse/node.hpp>

namespace outboard::vduse {

/// Interrupts of queues into the kernel. The kernel refuses them for a moment after DRIVER_OK has been acknowledged, until
/// the thread that waits for that has run again: none may be lost to it, so a refused one is tried again.
class Interrupts {
 public:
  /// `loops`: of each queue. All of it outlives the object.
  Interrupts(Node& node, const std::vector<Loop*>& loops, Log log);
  /// Control loop, while the loops run.
  ~Interrupts();

  /// On the queue's loop.
  void raise(unsigned queue);
  /// Control loop: whether the driver is at DRIVER_OK as far as we know. Without it nothing is tried again.
  void set_live(bool live) { live_.store(live, std::memory_order_release); }

 private:
  struct Line {
    Loop* loop = nullptr;
    Registration retry;
    unsigned tries = 0;
  };
  void try_again(unsigned queue);

  Node& node_;
  Log log_;
  std::atomic<bool> live_{false};
  std::vector<std::unique_ptr<Line>> lines_;
};

}  // namespace outboard::vduse
