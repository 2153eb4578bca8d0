#include <outboard/virtio/internal/packed_driver_ring.hpp>

#include <utility>

#include <outboard/virtio/spec.hpp>

namespace outboard::virtio {

namespace {

using Descriptor = spec::PackedDescriptor;
constexpr std::memory_order relaxed = std::memory_order_relaxed;

}  // namespace

PackedDriverRing::PackedDriverRing(const DriverRingLayout& layout)
    : layout_(layout),
      free_(layout.size),
      free_id_count_(layout.size),
      free_ids_(std::make_unique<std::uint16_t[]>(layout.size)),
      buffers_(layout.size, layout.in_order),
      driver_off_wrap_(layout.driver + spec::event::off_wrap),
      driver_flags_(layout.driver + spec::event::flags),
      device_off_wrap_(layout.device + spec::event::off_wrap),
      device_flags_(layout.device + spec::event::flags) {
  for (std::uint16_t i = 0; i < layout.size; ++i) free_ids_[i] = static_cast<std::uint16_t>(layout.size - 1 - i);
  disarm();
}

void PackedDriverRing::add(const DriverChain& chain) {
  const std::uint16_t id = free_ids_[--free_id_count_];
  const auto count = static_cast<std::uint16_t>(chain.indirect ? 1 : chain.elements());
  if (chain.indirect) {
    add_indirect(chain, id);
  } else {
    // VIRTIO 1.4, 2.8.6: the id that counts is the last one's. Devices have been seen to take the first, so all have it.
    chain.for_each([&](const Element& element, bool device_writes, bool is_last) {
      const unsigned flags = (device_writes ? spec::descriptor::write : 0U) | (is_last ? 0U : spec::descriptor::next);
      store_slot(element, id, static_cast<std::uint16_t>(flags));
    });
  }
  free_ = static_cast<std::uint16_t>(free_ - count);
  buffers_.add(id, count, 0, chain.writable_bytes, chain.cookie);
}

/// Fills the next slot. The flags of a batch's first one wait for publish().
void PackedDriverRing::store_slot(const Element& element, std::uint16_t id, std::uint16_t flags) {
  // Row P17: published by the batch's first flags.
  flags = static_cast<std::uint16_t>(flags | available_bits(next_avail_.wrap));
  std::byte* at = slot_at(next_avail_.slot);
  if (batch_count_ == 0) {
    // VIRTIO 1.4, 2.8.17: the descriptor that makes the list available is written last; so is the list that makes the
    // batch available.
    memory::Shared<le64>(at + offsetof(Descriptor, addr)).store(memory::raw(element.address), relaxed);
    memory::Shared<le32>(at + offsetof(Descriptor, len)).store(element.length, relaxed);
    memory::Shared<le16>(at + offsetof(Descriptor, id)).store(id, relaxed);
    batch_slot_ = next_avail_.slot;
    batch_flags_ = flags;
  } else {
    memory::store16(at, Descriptor{memory::raw(element.address), element.length, id, flags});
  }
  ++batch_count_;
  next_avail_ = next_avail_.plus(1, layout_.size);
}

void PackedDriverRing::add_indirect(const DriverChain& chain, std::uint16_t id) {
  std::byte* table = layout_.table(id);
  std::uint32_t bytes = 0;
  // VIRTIO 1.4, 2.8.7: in a table only the WRITE flag counts; entries follow each other.
  chain.for_each([&](const Element& element, bool device_writes, bool) {
    const std::uint16_t flags = device_writes ? spec::descriptor::write : std::uint16_t{0};
    memory::store16(table + bytes, Descriptor{memory::raw(element.address), element.length, 0, flags});
    bytes += sizeof(Descriptor);
  });
  store_slot({.address = layout_.table_iova(id), .length = bytes}, id, spec::descriptor::indirect);
}

bool PackedDriverRing::publish() {
  if (batch_count_ == 0) return false;
  buffers_.publish();
  // Row P11. VIRTIO 1.4, 2.8.21.1.1: "The driver MUST perform a suitable memory barrier before the flags update". Pairs
  // with the device's acquire of the flags of its next slot.
  memory::Shared<le16>(slot_at(batch_slot_) + offsetof(Descriptor, flags))
      .store(batch_flags_, std::memory_order_release);
  // Row P12. 2.8.21.3.1: "The driver MUST perform a suitable memory barrier before reading the Device Event Suppression
  // structure". Pairs with the fence with which the device arms.
  memory::full_fence();
  const bool wanted = device_wants_notification();
  batch_count_ = 0;
  return wanted;
}

bool PackedDriverRing::device_wants_notification() const {
  // Whoever writes the structure writes off_wrap before flags; so it is read the other way round.
  const unsigned flags = device_flags_.load(std::memory_order_acquire) & spec::event::flags_mask;
  if (flags == spec::event::disable) return false;
  if (flags != spec::event::descriptor || !layout_.event_idx) return true;
  return packed_need_event(device_off_wrap_.load(relaxed), next_avail_, batch_count_, layout_.size);
}

std::uint16_t PackedDriverRing::load_flags(std::uint16_t slot) const {
  // Row P14. Pairs with the device's release of these flags: id, length and payload are read after them.
  return memory::Shared<le16>(slot_at(slot) + offsetof(Descriptor, flags)).load(std::memory_order_acquire);
}

Taken PackedDriverRing::take(DriverQueue::Used& used) {
  if (!buffers_.used()) {
    if (!is_used(load_flags(next_used_.slot), next_used_.wrap)) return Taken::none;
    // Row P15: each read once, then checked, then used.
    std::byte* at = slot_at(next_used_.slot);
    const std::uint16_t id = memory::Shared<le16>(at + offsetof(Descriptor, id)).load(relaxed);
    // VIRTIO 1.4, 2.8.4: the length is reserved without WRITE; many devices never set that flag, so it is not asked for.
    const std::uint32_t length = memory::Shared<le32>(at + offsetof(Descriptor, len)).load(relaxed);
    // Nothing is available: the device "used" a slot that it was not given. No id is accepted then.
    if (!buffers_.accept(id, length)) return Taken::bad;
  }
  const DriverBuffers::Retired retired = buffers_.retire();
  // How far to skip comes from our own notes, not from the ring.
  next_used_ = next_used_.plus(retired.descriptors, layout_.size);
  free_ = static_cast<std::uint16_t>(free_ + retired.descriptors);
  free_ids_[free_id_count_++] = retired.id;
  used = {.cookie = retired.cookie, .length = retired.length};
  return Taken::one;
}

bool PackedDriverRing::arm() {
  // Row P16: off_wrap before flags; then the fence that pairs with the device's between its used flags and its look at
  // this structure. VIRTIO 1.4, 2.8.22.
  if (layout_.event_idx) {
    driver_off_wrap_.store(next_used_.off_wrap(), relaxed);
    driver_flags_.store(spec::event::descriptor, std::memory_order_release);
  } else {
    driver_flags_.store(spec::event::enable, std::memory_order_release);
  }
  memory::full_fence();
  return buffers_.used() || is_used(load_flags(next_used_.slot), next_used_.wrap);
}

void PackedDriverRing::disarm() {
  // Row P18.
  driver_flags_.store(spec::event::disable, relaxed);
}

}  // namespace outboard::virtio
