#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <outboard/virtio/internal/device_ring.hpp>

namespace outboard::virtio {

/// The device's side of a split virtqueue (VIRTIO 1.4, 2.7): what is done to the memory of the ring, and no more. The
/// calls are those of device_ring.hpp. Rows S1... are those of docs/memory-ordering.md.
class SplitDeviceRing {
 public:
  void start(const DeviceRingRules& rules, const QueueState& state);
  void bind(const RingPointers& pointers);
  void save(QueueState& state) const;
  void describe(const RequestSlot& slot, InFlight& buffer) const {
    buffer.head = slot.head;
    buffer.id = slot.id;
  }

  bool exhausted() const { return next_avail_ == seen_avail_; }

  const RingRule* look() {
    // S1: acquires what the driver wrote before it moved avail.idx.
    const std::uint16_t idx = avail_field(spec::avail::idx).load(std::memory_order_acquire);
    // VIRTIO 1.4, 2.7.6.1: "A driver MUST NOT decrement the available idx on a virtqueue"; and there are never more
    // buffers than the queue has entries. Both show as a difference that is too large.
    if (static_cast<std::uint16_t>(idx - next_avail_) > rules_.size - in_flight_) return &ring_rule::avail_overrun;
    seen_avail_ = idx;
    return nullptr;
  }

  [[gnu::always_inline]] const RingRule* parse(RequestSlot& slot, MemoryView& memory) {
    // S2: loaded once; the copy is checked.
    return parse_chain(avail_entry(next_avail_).load(std::memory_order_relaxed), slot, memory);
  }
  const RingRule* parse_again(const InFlight& buffer, RequestSlot& slot, MemoryView& memory) {
    return parse_chain(buffer.head, slot, memory);
  }

  void commit(const RequestSlot& slot) {
    ++next_avail_;
    ++in_flight_;
    mark(slot.head);
  }
  void commit_again(const RequestSlot& slot) { mark(slot.head); }

  /// What is loaded here is not used for anything else.
  void prefetch() const {
    if (exhausted()) return;
    const std::uint16_t head = avail_entry(next_avail_).load(std::memory_order_relaxed);
    if (head < rules_.size) __builtin_prefetch(at_.descriptors + std::size_t{head} * sizeof(spec::Descriptor));
  }

  void fill(std::span<const UsedBuffer> batch);
  void expose() {
    // S6. VIRTIO 1.4, 2.7.8.2: "The device MUST set len prior to updating the used idx", and the payload before both.
    used_field(spec::used::idx).store(next_used_, std::memory_order_release);
  }
  bool wants_notification();

  void arm();
  void suppress();

  std::uint16_t next_avail() const { return next_avail_; }
  std::uint16_t next_used() const { return next_used_; }
  bool used_wrap() const { return true; }

 private:
  static constexpr unsigned bits = 64;

  memory::Shared<le16> avail_field(std::size_t offset) const { return memory::Shared<le16>(at_.driver + offset); }
  memory::Shared<le16> avail_entry(std::uint16_t index) const {
    return avail_field(spec::avail::ring + spec::avail::entry_size * (index & mask_));
  }
  memory::Shared<le16> used_field(std::size_t offset) const { return memory::Shared<le16>(at_.device + offset); }
  void fill_in_order(std::span<const UsedBuffer> batch);
  void store_used(std::uint16_t index, std::uint32_t id, std::uint32_t length) const;

  bool marked(std::uint16_t head) const { return ((heads_[head / bits] >> (head % bits)) & 1) != 0; }
  void mark(std::uint16_t head) { heads_[head / bits] |= std::uint64_t{1} << (head % bits); }
  void unmark(std::uint16_t head) { heads_[head / bits] &= ~(std::uint64_t{1} << (head % bits)); }

  const RingRule* parse_chain(std::uint16_t head, RequestSlot& slot, MemoryView& memory);
  const RingRule* parse_table(SplitDescriptorWords descriptor, RequestSlot& slot, Chain::Sum sum,
                              MemoryView& memory) const;

  RingPointers at_;
  DeviceRingRules rules_;
  std::uint16_t mask_ = 0;
  std::uint16_t next_avail_ = 0;
  std::uint16_t seen_avail_ = 0;
  std::uint16_t next_used_ = 0;
  std::uint16_t signalled_used_ = 0;  ///< next_used_ when wants_notification() was called last
  std::uint32_t in_flight_ = 0;  ///< popped, and not in the used ring
  bool signalled_valid_ = false;
  std::vector<std::uint64_t> heads_;  ///< one bit for each head in flight
};

[[gnu::always_inline]] inline const RingRule* SplitDeviceRing::parse_chain(std::uint16_t head, RequestSlot& slot,
                                                                           MemoryView& memory) {
  // VIRTIO 1.4, 2.7.6: "ring [...] each entry is the head of a descriptor chain", an index into the descriptor table.
  if (head >= rules_.size) return slot.set_no_buffer(ring_rule::head_out_of_range);
  // VIRTIO 1.4, 3.3.1: a buffer is the device's until it is used; the driver cannot offer it twice.
  if (marked(head)) return slot.set_no_buffer(ring_rule::head_in_flight);
  slot.set_buffer(head, head, 1);
  Chain::Sum sum;
  std::uint16_t index = head;
  while (true) {
    // S3: the only read; from here on the copy.
    const auto descriptor = memory::load16<SplitDescriptorWords>(at_.descriptors + std::size_t{index} * 16);
    const std::uint16_t flags = descriptor.flags();
    if ((flags & spec::descriptor::indirect) != 0) return parse_table(descriptor, slot, sum, memory);
    const bool writable = (flags & spec::descriptor::write) != 0;
    const auto* rule = slot.chain.add(sum, descriptor.addr(), descriptor.len(), writable, rules_.chain_limit, memory);
    if (rule != nullptr) return rule;
    if ((flags & spec::descriptor::next) == 0) break;
    index = descriptor.next();
    // VIRTIO 1.4, 2.7.5.2: `next` is an index into the same table.
    if (index >= rules_.size) return &ring_rule::next_out_of_range;
  }
  slot.set_chain(sum);
  return nullptr;
}

}  // namespace outboard::virtio
