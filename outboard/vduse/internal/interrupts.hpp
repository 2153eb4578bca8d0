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
  /// `loops`: of each queue; they outlive the object.
  Interrupts(const std::vector<Loop*>& loops, Log log);

  // Control loop, while the loops run; each waits for them.
  /// From now on `node` takes them.
  void connect(Node& node);
  /// From now on nobody does: what a queue still raises is dropped. Nothing uses the node any more.
  void disconnect();
  /// Tries again now what is being tried again.
  void flush();

  /// On the queue's loop.
  void raise(unsigned queue);
  /// Control loop: whether the driver is at DRIVER_OK as far as we know. Without it nothing is tried again.
  void set_live(bool live) { live_.store(live, std::memory_order_release); }

 private:
  struct Line {
    Loop* loop = nullptr;
    Node* node = nullptr;  ///< on that loop
    Registration retry;
    unsigned tries = 0;
  };
  void try_again(unsigned queue);

  Log log_;
  std::atomic<bool> live_{false};
  std::vector<std::unique_ptr<Line>> lines_;
};

}  // namespace outboard::vduse
