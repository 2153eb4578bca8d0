#include <outboard/virtio/internal/request_slots.hpp>

#include <algorithm>

namespace outboard::virtio {

void RequestSlots::reset(std::uint32_t size, bool in_order, DeviceQueue& queue, std::uint32_t queue_index) {
  if (count_ < size) slots_ = std::make_unique<RequestSlot[]>(count_ = size);
  free_.resize(count_);
  free_count_ = 0;
  for (RequestSlot& slot : all()) {
    slot.queue = &queue;
    slot.queue_index = queue_index;
    slot.bounce.reset();
    free(slot);
  }
  order_.assign(in_order ? size : 0, nullptr);
  order_first_ = order_count_ = 0;
  waiting_.clear();
}

std::vector<const RequestSlot*> RequestSlots::held() const {
  std::vector<const RequestSlot*> held;
  for (const RequestSlot& slot : all()) {
    if (slot.state != RequestSlot::State::free) held.push_back(&slot);
  }
  std::ranges::sort(held, {}, &RequestSlot::order);
  return held;
}

RequestSlot* RequestSlots::take_answered_in_order() {
  if (order_count_ == 0) return nullptr;
  RequestSlot* const first = order_[order_first_];
  if (first->state != RequestSlot::State::done) return nullptr;
  order_first_ = (order_first_ + 1) % static_cast<std::uint32_t>(order_.size());
  --order_count_;
  return first;
}

}  // namespace outboard::virtio
