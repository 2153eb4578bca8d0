#include <algorithm>
#include <utility>

#include <outboard/virtio/internal/device_queue.hpp>
#include <outboard/virtio/internal/indirect_table.hpp>

/// Where the ring and the buffers of a DeviceQueue are, on a map that changes.
namespace outboard::virtio {

using memory::IovaRange;
using memory::Lookup;

void DeviceQueue::refresh_memory() {
  // The old ring can still be used; the batch could not be published in another ring.
  publish_batch();
  view().refresh();
  const auto found = ring_.find(view(), packed_, setup_);
  if (found) {
    if (packed_) {
      packed_ring_.bind(*found);
    } else {
      split_.bind(*found);
    }
    ring_.note_stores(view());
  }
  ring_moved();
}

/// The ring can be used again, or for the first time.
void DeviceQueue::ring_is_back() {
  if (packed_) {
    suppress(packed_ring_);
  } else {
    suppress(split_);
  }
  for (RequestSlot* slot : slots_.take_waiting()) put_in_batch(*slot);
  if (in_order_) give_back_in_order();
  schedule_flush();
}

void DeviceQueue::map_changed(IovaRange removed, Loop::Task released) {
  if (removed.size != 0) unmapped_at_ = env_.loop->clock().now();
  if (phase_ == QueuePhase::idle) {
    view().refresh();
  } else {
    refresh_memory();
  }
  memory_.when_unpinned(removed, std::move(released));
  if (intake_ == Intake::waiting) set_intake(Intake::open);
  if (is_running(phase_)) kick();
}

/// A client that rearranges its memory unmaps all of it and maps it again in pieces, while the driver, who does not know,
/// goes on. A hole that is found in such a time is looked at again before it is a violation.
bool DeviceQueue::hold_for_map(const RingRule& rule) {
  if (&rule != &ring_rule::unmapped || unmapped_at_ == TimePoint{}) return false;
  const Duration since = env_.loop->clock().now() - unmapped_at_;
  if (since >= remap_grace) return false;
  set_intake(Intake::waiting);
  hold_timer_ = env_.loop->after(remap_grace - since, [this] {
    if (intake_ == Intake::waiting) set_intake(Intake::open);
    process();
  });
  return true;
}

/// Finds the memory of elements that one compare did not find. Null, or the rule that an element breaks: nothing of the
/// buffer is touched then. Where faults are contained, the memory of the other elements is found all the same.
const RingRule* DeviceQueue::resolve(RequestSlot& slot) {
  const RingRule* broken = nullptr;
  for (std::uint32_t i = 0; i < slot.chain.count(); ++i) {
    ChainElement& element = slot.chain[i];
    if (element.length == 0) continue;  // its address means nothing
    element.host = view().host(element.address, element.length, slot.chain.access(i));
    if (element.host != nullptr) continue;
    const auto* rule = resolve_element(slot, i);
    if (rule != nullptr && !env_.contains_faults) return rule;
    if (broken == nullptr) broken = rule;
  }
  return broken;
}

const RingRule* DeviceQueue::resolve_element(RequestSlot& slot, std::uint32_t index) {
  const ChainElement& element = slot.chain[index];
  if (!IovaRange{element.address, element.length}.well_formed()) return &ring_rule::address_wraps;
  const Lookup found = view().look_again({element.address, element.length}, slot.chain.access(index));
  if (found != Lookup::remote) return rule_of(found);
  if (slot.bytes() > max_bounce) return &ring_rule::bounce_too_large;
  if (!slot.bounce) slot.bounce = std::make_unique<Bounce>();
  return nullptr;
}

/// Whether the queue may hold this buffer too. A buffer that does not fit waits until others have been answered.
bool DeviceQueue::has_room_for(const RequestSlot& slot) const {
  if (has_nothing_out()) return true;
  return slot.chain.spilled() <= max_spilled - std::min(spilled_, max_spilled) &&
         transfers_.has_room_for(slot.bounce ? slot.bytes() : 0);
}

/// Whether a fault is contained, where the device wants that. A buffer that the ring cannot tell from others cannot be given
/// back, so its fault is not. A chain whose only fault is its memory is delivered, and the device finds out.
bool DeviceQueue::contain(RequestSlot& slot, const RingRule& rule, bool parsed) {
  if (!env_.contains_faults || slot.ring_count == 0) return false;
  if (!parsed) slot.set_chain({});
  log_fault_once(rule);
  return true;
}

void DeviceQueue::log_fault_once(const RingRule& rule) {
  if (!std::exchange(has_logged_fault_, true))
    env_.log.warning("queue {}: a buffer fails, and later ones are not logged: {}", env_.index, rule.what);
}

/// The file behind memory that was just accessed has shrunk.
void DeviceQueue::memory_lost() {
  if (is_abandoned()) return;
  if (env_.contains_faults) {
    log_fault_once(ring_rule::poisoned);
  } else {
    break_queue(ring_rule::poisoned);
  }
}

}  // namespace outboard::virtio
