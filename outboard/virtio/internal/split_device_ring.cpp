#include <outboard/virtio/internal/split_device_ring.hpp>

#include <outboard/virtio/internal/indirect_table.hpp>

namespace outboard::virtio {

static_assert(DeviceRing<SplitDeviceRing>);

void SplitDeviceRing::start(const DeviceRingRules& rules, const QueueState& state) {
  rules_ = rules;
  mask_ = static_cast<std::uint16_t>(rules.size - 1);
  next_avail_ = seen_avail_ = state.next_avail;
  next_used_ = signalled_used_ = state.next_used;
  in_flight_ = static_cast<std::uint32_t>(state.in_flight.size());
  // Which batch the driver was told of last is not known here, so the first one is always announced.
  signalled_valid_ = false;
  heads_.assign((rules.size + bits - 1) / bits, 0);
  at_ = {};
}

void SplitDeviceRing::bind(const RingPointers& pointers) { at_ = pointers; }

void SplitDeviceRing::save(QueueState& state) const {
  state.next_avail = next_avail_;
  state.next_used = next_used_;
}

const RingRule* SplitDeviceRing::parse_table(SplitDescriptorWords descriptor, RequestSlot& slot, Chain::Sum sum,
                                             MemoryView& memory) const {
  // VIRTIO 1.4, 2.7.5.3.1: "The driver MUST NOT set the VIRTQ_DESC_F_INDIRECT flag unless the VIRTIO_F_INDIRECT_DESC
  // feature was negotiated."
  if (!rules_.indirect) return &ring_rule::indirect_not_negotiated;
  // 2.7.5.3.1: "A driver MUST NOT set both VIRTQ_DESC_F_INDIRECT and VIRTQ_DESC_F_NEXT in flags."
  // 2.7.5.3.2: "The device MUST ignore the write-only flag [...] in the descriptor that refers to an indirect table",
  // and "MUST handle the case of zero or more normal chained descriptors followed by a single descriptor with
  // flags&VIRTQ_DESC_F_INDIRECT": both by what is not looked at here.
  if ((descriptor.flags() & spec::descriptor::next) != 0) return &ring_rule::indirect_and_next;
  IndirectTable table(memory);
  if (const auto* rule = table.open(descriptor.addr(), descriptor.len())) return rule;
  std::uint32_t index = 0;
  while (true) {
    SplitDescriptorWords entry;
    if (const auto* rule = table.read(index, entry)) return rule;
    const std::uint16_t flags = entry.flags();
    // 2.7.5.3.1: "The driver MUST NOT set the VIRTQ_DESC_F_INDIRECT flag within an indirect descriptor (ie. only one
    // table per descriptor)."
    if ((flags & spec::descriptor::indirect) != 0) return &ring_rule::indirect_in_table;
    const bool writable = (flags & spec::descriptor::write) != 0;
    if (const auto* rule = slot.chain.add(sum, entry.addr(), entry.len(), writable, rules_.chain_limit, memory))
      return rule;
    if ((flags & spec::descriptor::next) == 0) break;
    index = entry.next();
    if (index >= table.entries()) return &ring_rule::next_out_of_range;
  }
  slot.set_chain(sum);
  return table.intact();
}

inline void SplitDeviceRing::store_used(std::uint16_t index, std::uint32_t id, std::uint32_t length) const {
  std::byte* entry = at_.device + spec::used::ring + spec::used::entry_size * std::size_t(index & mask_);
  // S5: published by S6.
  memory::Shared<le32>(entry).store(id, std::memory_order_relaxed);
  memory::Shared<le32>(entry + sizeof(le32)).store(length, std::memory_order_relaxed);
}

void SplitDeviceRing::fill(std::span<const UsedBuffer> batch) {
  for (const UsedBuffer& buffer : batch) unmark(buffer.head);
  in_flight_ -= static_cast<std::uint32_t>(batch.size());
  if (rules_.in_order) return fill_in_order(batch);
  std::uint16_t index = next_used_;
  for (const UsedBuffer& buffer : batch) store_used(index++, buffer.head, buffer.length);
  next_used_ = index;
}

/// VIRTIO 1.4, 2.7.9: with IN_ORDER one entry may stand for a batch, with the id of its last buffer, where the first
/// would have been. The skipped buffers count as used completely, so only buffers that were are skipped.
void SplitDeviceRing::fill_in_order(std::span<const UsedBuffer> batch) {
  std::uint16_t run = next_used_;  // where the entry goes that stands for the buffers since
  for (const UsedBuffer& buffer : batch) {
    ++next_used_;
    if (buffer.filled && &buffer != &batch.back()) continue;
    store_used(run, buffer.head, buffer.length);
    run = next_used_;
  }
}

bool SplitDeviceRing::wants_notification() {
  const std::uint16_t before = signalled_used_;
  const bool sure = !signalled_valid_;
  signalled_used_ = next_used_;
  signalled_valid_ = true;
  if (sure) return true;
  // S8. VIRTIO 1.4, 2.7.7.2: without EVENT_IDX "If flags is 1, the device SHOULD NOT send a notification. If flags is
  // 0, the device MUST send a notification." With it, "The device MUST ignore the lower bit of flags", and used_event
  // decides.
  if (!rules_.event_idx) {
    return (avail_field(spec::avail::flags).load(std::memory_order_relaxed) & spec::avail::no_interrupt) == 0;
  }
  const auto event = avail_field(spec::avail::used_event(rules_.size)).load(std::memory_order_relaxed);
  return need_event(event, next_used_, before);
}

void SplitDeviceRing::arm() {
  // S9. VIRTIO 1.4, 2.7.10.1: with EVENT_IDX "The device MUST set flags to 0", and avail_event speaks for it.
  if (rules_.event_idx) {
    used_field(spec::used::avail_event(rules_.size)).store(next_avail_, std::memory_order_relaxed);
  } else {
    used_field(spec::used::flags).store(0, std::memory_order_relaxed);
  }
}

void SplitDeviceRing::suppress() {
  // S10. With EVENT_IDX an event index that stands still suppresses by itself.
  const std::uint16_t flags = rules_.event_idx ? std::uint16_t{0} : spec::used::no_notify;
  used_field(spec::used::flags).store(flags, std::memory_order_relaxed);
}

}  // namespace outboard::virtio
