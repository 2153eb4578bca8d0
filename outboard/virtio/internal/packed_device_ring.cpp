#include <outboard/virtio/internal/packed_device_ring.hpp>

#include <outboard/virtio/internal/indirect_table.hpp>

namespace outboard::virtio {

static_assert(DeviceRing<PackedDeviceRing>);

void PackedDeviceRing::start(const DeviceRingRules& rules, const QueueState& state) {
  rules_ = rules;
  next_avail_ = {state.next_avail, state.avail_wrap};
  next_used_ = {state.next_used, state.used_wrap};
  in_flight_ = 0;
  for (const InFlight& buffer : state.in_flight) in_flight_ += buffer.descriptors;
  unsignalled_ = 0;
  available_ = false;
  signalled_valid_ = false;
  at_ = {};
}

/// The process that had the ring before may have been killed between writing a batch and publishing it. All used
/// descriptors of the batch but the first are in the ring then, and the driver would believe them as soon as something is
/// used at the first. No slot of a buffer in flight has been used, so each is marked available again; nothing else that the
/// driver wrote there is still needed. Finds nothing in a ring that this object has had all along.
void PackedDeviceRing::withdraw_unpublished() {
  PackedCursor cursor = next_used_;
  for (std::uint32_t left = in_flight_; left != 0; --left) {
    const auto flags = flags_of(cursor.slot);
    if (is_used(flags.load(std::memory_order_relaxed), cursor.wrap))
      flags.store(available_bits(cursor.wrap), std::memory_order_relaxed);  // P3
    cursor = cursor.plus(1, rules_.size);
  }
}

void PackedDeviceRing::save(QueueState& state) const {
  state.next_avail = next_avail_.slot;
  state.avail_wrap = next_avail_.wrap;
  state.next_used = next_used_.slot;
  state.used_wrap = next_used_.wrap;
}

void PackedDeviceRing::describe(const RequestSlot& slot, InFlight& buffer) const {
  buffer.head = slot.head;
  buffer.id = slot.id;
  buffer.descriptors = slot.ring_count;
  buffer.chain.clear();
  if (slot.indirect) {
    buffer.chain.push_back({slot.table.address, slot.table.length, spec::descriptor::indirect});
    return;
  }
  for (std::uint32_t i = 0; i < slot.chain.count(); ++i) {
    const bool writable = slot.chain.access(i) == memory::Access::write;
    const std::uint16_t flags = writable ? spec::descriptor::write : std::uint16_t{0};
    buffer.chain.push_back({slot.chain[i].address, slot.chain[i].length, flags});
  }
}

const RingRule* PackedDeviceRing::parse_again(const InFlight& buffer, RequestSlot& slot, MemoryView& memory) {
  slot.set_buffer(buffer.head, buffer.id, buffer.descriptors);
  Chain::Sum sum;
  for (const ChainDescriptor& descriptor : buffer.chain) {
    if ((descriptor.flags & spec::descriptor::indirect) != 0) {
      if (!rules_.indirect) return &ring_rule::indirect_not_negotiated;
      return parse_table(raw(descriptor.address), descriptor.length, slot, memory);
    }
    const bool writable = (descriptor.flags & spec::descriptor::write) != 0;
    const auto* rule =
        slot.chain.add(sum, raw(descriptor.address), descriptor.length, writable, rules_.chain_limit, memory);
    if (rule != nullptr) return rule;
  }
  slot.set_chain(sum);
  return nullptr;
}

const RingRule* PackedDeviceRing::parse_table(std::uint64_t address, std::uint32_t length, RequestSlot& slot,
                                              MemoryView& memory) const {
  slot.indirect = true;
  slot.table = {memory::Iova{address}, nullptr, length};
  // Before anything is looked at: however long the driver says the table is, it costs nothing.
  if (length / IndirectTable::entry_size > rules_.chain_limit) return &ring_rule::chain_too_long;
  IndirectTable table(memory);
  if (const auto* rule = table.open(address, length)) return rule;
  Chain::Sum sum;
  for (std::uint32_t i = 0; i < table.entries(); ++i) {
    PackedDescriptorWords entry;
    if (const auto* rule = table.read(i, entry)) return rule;
    // VIRTIO 1.4, 2.8.7: of the flags in a table only WRITE counts; its entries are taken one after the other, all.
    const bool writable = (entry.flags() & spec::descriptor::write) != 0;
    if (const auto* rule = slot.chain.add(sum, entry.addr(), entry.len(), writable, rules_.chain_limit, memory))
      return rule;
  }
  slot.set_chain(sum);
  return table.intact();
}

inline void PackedDeviceRing::store_used(std::uint16_t slot, const UsedBuffer& buffer) const {
  // P3: published by P4.
  memory::Shared<le32>(at(slot) + offsetof(spec::PackedDescriptor, len))
      .store(buffer.length, std::memory_order_relaxed);
  memory::Shared<le16>(at(slot) + offsetof(spec::PackedDescriptor, id)).store(buffer.id, std::memory_order_relaxed);
}

void PackedDeviceRing::fill(std::span<const UsedBuffer> batch) {
  // In locals: a store to the ring might alias members, which would then be loaded again.
  const DeviceRingRules rules = rules_;
  const PackedCursor first = next_used_;
  PackedCursor run = first;  // where the descriptor goes that stands for the buffers since
  PackedCursor next = first;
  std::uint32_t count = 0;
  for (const UsedBuffer& buffer : batch) {
    next = next.plus(buffer.ring_count, rules.size);
    count += buffer.ring_count;
    // VIRTIO 1.4, 2.8.9: with IN_ORDER one used descriptor may stand for a batch, with the id of its last buffer. As
    // in a split ring, only buffers that were used completely are skipped.
    if (rules.in_order && buffer.filled && &buffer != &batch.back()) continue;
    store_used(run.slot, buffer);
    const std::uint16_t flags = used_flags(run.wrap, buffer.length);
    if (run == first) {
      first_flags_ = flags;
    } else {
      flags_of(run.slot).store(flags, std::memory_order_relaxed);
    }
    run = next;
  }
  first_filled_ = first.slot;
  next_used_ = next;
  in_flight_ -= count;
  unsignalled_ += count;
}

bool PackedDeviceRing::wants_notification() {
  const std::uint32_t count = unsignalled_;
  const bool sure = !signalled_valid_;
  unsignalled_ = 0;
  signalled_valid_ = true;
  if (sure) return true;
  // P6, P7: flags first, then the place that they refer to.
  const std::uint16_t flags = event(at_.driver, spec::event::flags).load(std::memory_order_acquire);
  const unsigned wish = flags & spec::event::flags_mask;
  if (wish == spec::event::disable) return false;
  // VIRTIO 1.4, 2.8.10: 2 is for EVENT_IDX only, 3 is reserved. A driver that writes them gets a surplus interrupt.
  if (wish != spec::event::descriptor || !rules_.event_idx) return true;
  const std::uint16_t off_wrap = event(at_.driver, spec::event::off_wrap).load(std::memory_order_relaxed);
  if ((off_wrap & spec::event::offset_mask) >= rules_.size) return true;
  return packed_need_event(off_wrap, next_used_, static_cast<std::uint16_t>(count), rules_.size);
}

void PackedDeviceRing::arm() {
  std::uint16_t flags = spec::event::enable;
  if (rules_.event_idx) {
    event(at_.device, spec::event::off_wrap).store(next_avail_.off_wrap(), std::memory_order_relaxed);
    flags = spec::event::descriptor;
  }
  // P8: whoever sees these flags sees the place.
  event(at_.device, spec::event::flags).store(flags, std::memory_order_release);
}

void PackedDeviceRing::suppress() {
  // P9.
  event(at_.device, spec::event::flags).store(spec::event::disable, std::memory_order_relaxed);
}

}  // namespace outboard::virtio
