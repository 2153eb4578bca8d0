#pragma once

#include <cstdint>
#include <span>

#include <outboard/virtio/internal/device_ring.hpp>

namespace outboard::virtio {

/// The device's side of a packed virtqueue (VIRTIO 1.4, 2.8). The calls are those of device_ring.hpp. Rows P1... are those
/// of docs/memory-ordering.md.
class PackedDeviceRing {
 public:
  void start(const DeviceRingRules& rules, const QueueState& state);
  void bind(const RingPointers& pointers) {
    at_ = pointers;
    withdraw_unpublished();
  }
  void save(QueueState& state) const;
  void describe(const RequestSlot& slot, InFlight& buffer) const;

  bool exhausted() const { return !available_; }

  const RingRule* look() {
    // P1: acquires what the driver wrote before it made this descriptor available.
    const std::uint16_t flags = flags_of(next_avail_.slot).load(std::memory_order_acquire);
    available_ = is_available(flags, next_avail_.wrap);
    // With all slots in flight the next one belongs to a buffer that the device still has.
    if (available_ && in_flight_ >= rules_.size) return &ring_rule::slots_overrun;
    return nullptr;
  }

  const RingRule* parse(RequestSlot& slot, MemoryView& memory);
  const RingRule* parse_again(const InFlight& buffer, RequestSlot& slot, MemoryView& memory);

  void commit(const RequestSlot& slot) {
    next_avail_ = next_avail_.plus(slot.ring_count, rules_.size);
    in_flight_ += slot.ring_count;
    available_ = false;
  }
  void commit_again(const RequestSlot&) {}

  void prefetch() const { __builtin_prefetch(at(next_avail_.plus(prefetch_distance % rules_.size, rules_.size).slot)); }

  void fill(std::span<const UsedBuffer> batch);
  void expose() {
    // P4. The driver looks at the batch's first descriptor first, so it sees all of the batch or nothing of it.
    flags_of(first_filled_).store(first_flags_, std::memory_order_release);
  }
  bool wants_notification();
  void arm();
  void suppress();

  std::uint16_t next_avail() const { return next_avail_.slot; }
  std::uint16_t next_used() const { return next_used_.slot; }
  bool used_wrap() const { return next_used_.wrap; }

 private:
  static constexpr std::uint32_t prefetch_distance = 4;  // descriptors in a cache line

  std::byte* at(std::uint16_t slot) const {
    return at_.descriptors + std::size_t{slot} * sizeof(spec::PackedDescriptor);
  }
  memory::Shared<le16> flags_of(std::uint16_t slot) const {
    return memory::Shared<le16>(at(slot) + offsetof(spec::PackedDescriptor, flags));
  }
  static memory::Shared<le16> event(std::byte* area, std::size_t field) { return memory::Shared<le16>(area + field); }
  const RingRule* parse_table(std::uint64_t address, std::uint32_t length, RequestSlot& slot, MemoryView& memory) const;
  void store_used(std::uint16_t slot, const UsedBuffer& buffer) const;
  void withdraw_unpublished();
  std::uint16_t used_flags(bool wrap, std::uint32_t length) const {
    // VIRTIO 1.4, 2.8.4: WRITE says that `len` counts bytes that were written.
    return static_cast<std::uint16_t>(used_bits(wrap) | (length != 0 ? spec::descriptor::write : 0));
  }

  RingPointers at_;
  DeviceRingRules rules_;
  PackedCursor next_avail_;
  PackedCursor next_used_;
  std::uint32_t in_flight_ = 0;  ///< descriptors popped whose buffers have not been used
  std::uint32_t unsignalled_ = 0;  ///< descriptors published since wants_notification() was called last
  std::uint16_t first_filled_ = 0;  ///< the slot whose flags expose() writes, and those
  std::uint16_t first_flags_ = 0;
  bool available_ = false;
  bool signalled_valid_ = false;
};

[[gnu::always_inline]] inline const RingRule* PackedDeviceRing::parse(RequestSlot& slot, MemoryView& memory) {
  PackedCursor cursor = next_avail_;
  Chain::Sum sum;
  slot.ring_count = 0;  // its last descriptor has the buffer id
  for (std::uint16_t count = 1;; ++count) {
    // VIRTIO 1.4, 2.8.17: no list is longer than the queue, nor does one reach into slots that the device still has.
    if (count > rules_.size - in_flight_) return &ring_rule::slots_overrun;
    // P2: the only read; from here on the copy.
    const auto descriptor = memory::load16<PackedDescriptorWords>(at(cursor.slot));
    const std::uint16_t flags = descriptor.flags();
    // 2.8.17: the head's flags are written last, so the whole list has to be available when the head is.
    if (!is_available(flags, cursor.wrap)) return &ring_rule::chain_not_available;
    if ((flags & spec::descriptor::indirect) != 0) [[unlikely]] {
      // 2.8.19: "The driver MUST NOT set the DESC_F_INDIRECT flag unless the VIRTIO_F_INDIRECT_DESC feature was
      // negotiated." And: "A driver MUST NOT write direct descriptors with DESC_F_INDIRECT set in a scatter-gather list
      // linked by VIRTQ_DESC_F_NEXT." A list is either direct or one indirect descriptor.
      if (!rules_.indirect) return &ring_rule::indirect_not_negotiated;
      if (count != 1 || (flags & spec::descriptor::next) != 0) return &ring_rule::indirect_in_list;
      slot.set_buffer(next_avail_.slot, descriptor.id(), count);
      return parse_table(descriptor.addr(), descriptor.len(), slot, memory);
    }
    const bool writable = (flags & spec::descriptor::write) != 0;
    const auto* rule = slot.chain.add(sum, descriptor.addr(), descriptor.len(), writable, rules_.chain_limit, memory);
    if (rule != nullptr) return rule;
    if ((flags & spec::descriptor::next) == 0) {
      // 2.8.6: the buffer id that counts is that of the last descriptor in the list.
      slot.set_buffer(next_avail_.slot, descriptor.id(), count);
      break;
    }
    cursor = cursor.plus(1, rules_.size);
  }
  slot.set_chain(sum);
  return nullptr;
}

}  // namespace outboard::virtio
