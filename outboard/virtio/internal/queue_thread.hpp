#pragma once

#include <atomic>

#include <outboard/base/loop.hpp>

namespace outboard::virtio {

/// The thread that runs a queue, so that an answer can check cheaply whether it comes on that thread. May be called on any
/// thread; the other calls come on the queue's loop.
class QueueThread {
 public:
  void enter_pass() {
    pass_.store(mark(), std::memory_order_relaxed);
    last_.store(mark(), std::memory_order_relaxed);
  }
  void leave_pass() {
    shortcut_.store(nullptr, std::memory_order_relaxed);
    pass_.store(nullptr, std::memory_order_relaxed);
  }
  /// On the queue's loop.
  bool in_pass() const { return pass_.load(std::memory_order_relaxed) != nullptr; }

  /// In a pass: whether answers need nothing but their slot and a place in the batch.
  void set_shortcut(bool possible) { shortcut_.store(possible ? mark() : nullptr, std::memory_order_relaxed); }
  /// Whether this thread is in a pass, and such that answers take the shortcut.
  bool has_shortcut() const { return shortcut_.load(std::memory_order_relaxed) == mark(); }

  /// Whether this is the queue's thread. `loop` is the queue's.
  bool is_current(const Loop& loop) const {
    const void* const here = mark();
    if (pass_.load(std::memory_order_relaxed) == here) return true;
    return last_.load(std::memory_order_relaxed) == here && loop.in_loop_thread();
  }

  /// No thread runs the queue any more.
  void forget() {
    shortcut_.store(nullptr, std::memory_order_relaxed);
    pass_.store(nullptr, std::memory_order_relaxed);
    last_.store(nullptr, std::memory_order_relaxed);
  }

 private:
  /// Something that only this thread has. Found without a call, which other models of thread-local storage need where the
  /// code can be part of a shared library.
  static const void* mark() {
    [[gnu::tls_model("initial-exec")]] static thread_local const char mark = 0;
    return &mark;
  }

  std::atomic<const void*> shortcut_{nullptr};
  std::atomic<const void*> pass_{nullptr};  ///< in a pass now
  std::atomic<const void*> last_{nullptr};  ///< has been in a pass last
};

}  // namespace outboard::virtio
