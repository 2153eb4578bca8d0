#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <outboard/virtio/internal/request_slot.hpp>

namespace outboard::virtio {

/// The slots of one queue: which are free, in which order the others were popped, and which answers wait for the ring.
/// Belongs to the queue's loop.
class RequestSlots {
 public:
  /// Frees all of them; at least `size` are there then. `in_order`: answers are to be used in the order of popping.
  void reset(std::uint32_t size, bool in_order, DeviceQueue& queue, std::uint32_t queue_index);

  /// The slot that the next buffer gets. A ring has no more buffers than there are slots.
  RequestSlot& next() const { return *free_[free_count_ - 1]; }
  /// That buffer is taken.
  void take() { --free_count_; }
  /// Frees a slot that needs no care. The slot used last is used next.
  void free(RequestSlot& slot) {
    slot.state = RequestSlot::State::free;
    free_[free_count_++] = &slot;
  }

  std::span<RequestSlot> all() const { return {slots_.get(), count_}; }
  /// Those that are not free, in the order of popping.
  std::vector<const RequestSlot*> held() const;

  // With IN_ORDER: the order of popping.
  void append_to_order(RequestSlot& slot) { order_[(order_first_ + order_count_++) % order_.size()] = &slot; }
  /// Takes the first of the order, if it has been answered; else null.
  RequestSlot* take_answered_in_order();

  // Answers that wait for the ring.
  void wait_for_ring(RequestSlot& slot) { waiting_.push_back(&slot); }
  std::vector<RequestSlot*> take_waiting() { return std::exchange(waiting_, {}); }

 private:
  std::unique_ptr<RequestSlot[]> slots_;
  std::uint32_t count_ = 0;
  std::vector<RequestSlot*> free_;  ///< a stack
  std::uint32_t free_count_ = 0;
  std::vector<RequestSlot*> order_;  ///< a ring buffer
  std::uint32_t order_first_ = 0;
  std::uint32_t order_count_ = 0;
  std::vector<RequestSlot*> waiting_;
};

}  // namespace outboard::virtio
