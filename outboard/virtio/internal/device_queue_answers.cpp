#include <utility>

#include <outboard/virtio/internal/device_queue.hpp>

/// What becomes of a request when it is answered, and when a transfer of its bytes has ended.
namespace outboard::virtio {

void DeviceQueue::answer(RequestSlot& slot, RequestAnswer answer) {
  if (thread_.is_current(*env_.loop)) return answer_here(slot, answer);
  answer_elsewhere(slot, answer);
}

void DeviceQueue::answer_elsewhere(RequestSlot& slot, RequestAnswer answer) {
  remote_.add(slot, answer, [this] { env_.loop->post([self = shared_from_this()] { self->take_remote_answers(); }); });
}

void DeviceQueue::take_remote_answers() {
  if (is_abandoned()) return;
  for (const auto& [slot, answer] : remote_.take()) answer_here(*slot, answer);
  flush();
}

void DeviceQueue::answer_here(RequestSlot& slot, RequestAnswer answer) {
  if (!memory_.unpin(slot)) slot.write.done = 0;
  if (answer == RequestAnswer::complete) [[likely]] {
    completed(slot);
  } else {
    slot.state = RequestSlot::State::given_up;
    if (answer == RequestAnswer::drop && is_running(phase_) && !is_halted()) break_queue(ring_rule::dropped);
  }
  token_returned();
}

void DeviceQueue::completed(RequestSlot& slot) {
  if (phase_ == QueuePhase::discarding || is_muted()) [[unlikely]] {
    slot.state = RequestSlot::State::given_up;
  } else if (slot.bounce && slot.write.done != 0) [[unlikely]] {
    transfers_.write_back(slot, shared_from_this());
  } else {
    give_back(slot);
  }
}

void DeviceQueue::give_back(RequestSlot& slot) {
  if (in_order_) {
    slot.state = RequestSlot::State::done;
    give_back_in_order();
  } else if (!publishes(phase_)) [[unlikely]] {
    slot.state = RequestSlot::State::done;
    slots_.wait_for_ring(slot);
  } else {
    put_in_batch(slot);
  }
  schedule_flush();
}

/// VIRTIO 1.4, 2.7.9 and 6: with IN_ORDER buffers are used in the order in which they were made available, so an answer
/// waits for those before it.
void DeviceQueue::give_back_in_order() {
  if (!publishes(phase_)) return;
  while (RequestSlot* const slot = slots_.take_answered_in_order()) put_in_batch(*slot);
}

void DeviceQueue::put_in_batch(RequestSlot& slot) {
  using Care = RequestSlot::Care;
  UsedBuffer& used = batch_[batched_++];
  used = slot.used();
  if (slot.care == Care::storage || slot.care == Care::malformed) [[unlikely]] {
    used.filled = used.filled && slot.care != Care::malformed;
    spilled_ -= slot.chain.spilled();
    transfers_.release(slot);
    slot.chain.trim();
  }
  slots_.free(slot);
}

void DeviceQueue::token_returned() {
  --tokens_;
  if (intake_ != Intake::open) [[unlikely]]
    open_intake();
  if (is_stopping(phase_)) [[unlikely]]
    schedule_finish();
}

/// The next buffer may have waited for what has just ended. Where it waits for one that is being fetched, it goes on waiting.
void DeviceQueue::open_intake() {
  if (intake_ != Intake::waiting) return;
  set_intake(Intake::open);
  kick();
}

void DeviceQueue::transferred(RequestSlot& slot, memory::Access access, const RingRule* failure) {
  const bool fetching = access == memory::Access::read;
  const bool usable = failure == nullptr && !(fetching ? is_halted() : is_muted());
  const bool wanted = fetching ? is_running(phase_) : phase_ != QueuePhase::discarding;
  if (failure != nullptr) break_queue(*failure);
  if (fetching) set_intake(Intake::waiting);
  if (!usable || !wanted) {
    slot.state = RequestSlot::State::given_up;
  } else if (fetching) {
    fetched(slot);
  } else {
    give_back(slot);
    open_intake();
  }
  if (is_stopping(phase_)) schedule_finish();
}

void DeviceQueue::fetched(RequestSlot& slot) {
  set_intake(Intake::open);
  deliver(slot);
  if (thread_.in_pass()) return;  // the pass goes on
  env_.device->batch_end(env_.index);
  kick();
}

}  // namespace outboard::virtio
