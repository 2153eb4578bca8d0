#include <algorithm>

#include <outboard/memory/transfer.hpp>
#include <outboard/virtio/device_queue.hpp>

/// Buffers in memory that is reachable only by messages: the device works on a copy of the whole buffer. One buffer is
/// fetched at a time, so that the device is handed buffers in the order in which they were popped.
namespace outboard::virtio {

using memory::Access;

void DeviceQueue::fetch(RequestSlot& slot) {
  Bounce& bounce = *slot.bounce;
  bounce.bytes.assign(slot.chain.readable_bytes() + slot.chain.writable_bytes(), std::byte{0});
  bounced_ += bounce.bytes.size();
  slot.state = RequestSlot::State::transferring;
  bounce.element = 0;
  bounce.at = 0;
  ++transfers_;
  is_fetching_ = true;
  stall();
  transfer_next(slot, Access::read);
}

void DeviceQueue::write_back(RequestSlot& slot) {
  slot.state = RequestSlot::State::transferring;
  slot.bounce->element = slot.chain.readable_count();
  slot.bounce->at = slot.chain.readable_bytes();
  ++transfers_;
  transfer_next(slot, Access::write);
}

/// Starts the transfer of the next element, or ends the whole of it.
void DeviceQueue::transfer_next(RequestSlot& slot, Access access) {
  Bounce& bounce = *slot.bounce;
  const bool fetching = access == Access::read;
  const std::uint64_t end = fetching ? slot.chain.readable_bytes() : slot.chain.readable_bytes() + slot.write.done;
  if (bounce.at == end) return transferred(slot, access, {});
  while (slot.chain[bounce.element].length == 0) ++bounce.element;
  const ChainElement& element = slot.chain[bounce.element++];
  const std::uint64_t size = std::min<std::uint64_t>(element.length, end - bounce.at);
  const MutableBytes bytes = MutableBytes(bounce.bytes).subspan(bounce.at, size);
  bounce.at += size;

  auto start = [self = shared_from_this(), &slot, access, bytes, range = memory::IovaRange{element.address, size},
                snapshot = env_.memory->current()]() mutable {
    auto done = [self, &slot, access](const Status& status) {
      const auto next = [self, &slot, access, status] {
        if (self->abandoned_.load(std::memory_order_relaxed)) return;
        if (!status) return self->transferred(slot, access, status);
        self->transfer_next(slot, access);
      };
      if (self->abandoned_.load(std::memory_order_relaxed)) return;
      if (self->env_.loop == self->env_.control) return next();
      self->env_.loop->post(next);
    };
    if (access == Access::read) {
      memory::read_memory(std::move(snapshot), range, bytes, std::move(done));
    } else {
      memory::write_memory(std::move(snapshot), range, bytes, std::move(done));
    }
  };
  if (env_.loop == env_.control) return start();
  env_.control->post(std::move(start));
}

void DeviceQueue::transferred(RequestSlot& slot, Access access, const Status& status) {
  --transfers_;
  const bool usable =
      status.has_value() && (access == Access::read ? !halted_.load(std::memory_order_relaxed) : !muted());
  if (!status) break_queue(ring_rule::transfer_failed);
  if (access == Access::read) is_fetching_ = false;
  const bool wanted =
      access == Access::read ? phase_ == Phase::running : phase_ == Phase::running || stop_mode_ == StopMode::drain;
  if (!usable || !wanted) {
    slot.state = RequestSlot::State::given_up;
  } else if (access == Access::read) {
    fetched(slot);
  } else {
    give_back(slot);
    unstall();
  }
  if (phase_ == Phase::stopping) schedule_finish();
}

void DeviceQueue::fetched(RequestSlot& slot) {
  stalled_ = false;
  if (in_pass_) update_plain_thread();
  deliver(slot);
  if (in_pass_) return;  // the pass goes on
  env_.device->batch_end(env_.index);
  kick();
}

}  // namespace outboard::virtio
