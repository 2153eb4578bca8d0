#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include <outboard/virtio/internal/request_slot.hpp>

namespace outboard::virtio {

/// Holds answers from other threads than the queue's until the queue takes them, and an abandoned queue until its last request
/// has been answered. Any thread.
class RemoteAnswers {
 public:
  struct Answer {
    RequestSlot* slot;
    RequestAnswer answer;
  };

  /// Keeps the answer. Calls `post`, which has the queue's loop call take(), if it is the first since the last take(). If the
  /// queue is abandoned the answer is dropped, and the last one ends the queue.
  template <typename Post>
  void add(RequestSlot& slot, RequestAnswer answer, Post&& post) {
    std::shared_ptr<DeviceQueue> last;  // destroys the queue, and this, after the lock has been released
    const std::lock_guard lock(mutex_);
    if (abandoned()) {
      if (--tokens_ == 0) last = std::move(queue_);
      return;
    }
    answers_.push_back({&slot, answer});
    if (answers_.size() == 1) post();
  }
  /// The answers since the last call; none if the queue is abandoned. On the queue's loop.
  std::vector<Answer> take();

  /// The queue is not run any more. `tokens`: the number of requests that are not answered, or whose answers have not been
  /// taken. `queue` is kept until the last of them has been answered.
  void abandon(std::uint32_t tokens, std::shared_ptr<DeviceQueue> queue);
  bool abandoned() const { return abandoned_.load(std::memory_order_relaxed); }

 private:
  std::mutex mutex_;
  std::vector<Answer> answers_;  ///< guarded
  std::atomic<bool> abandoned_{false};  ///< set with the mutex held
  std::uint32_t tokens_ = 0;  ///< guarded: of an abandoned queue
  std::shared_ptr<DeviceQueue> queue_;  ///< guarded: the abandoned queue, while it has tokens
};

}  // namespace outboard::virtio
