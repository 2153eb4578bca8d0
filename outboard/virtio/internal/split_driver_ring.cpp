#include <outboard/virtio/internal/split_driver_ring.hpp>

#include <cstddef>
#include <utility>

#include <outboard/virtio/ring.hpp>
#include <outboard/virtio/spec.hpp>

namespace outboard::virtio {

namespace {

constexpr std::memory_order relaxed = std::memory_order_relaxed;

void store_descriptor(std::byte* table, std::size_t index, const spec::Descriptor& descriptor) {
  memory::store16(table + index * sizeof descriptor, descriptor);
}

}  // namespace

SplitDriverRing::SplitDriverRing(const DriverRingLayout& layout)
    : layout_(layout),
      mask_(static_cast<std::uint16_t>(layout.size - 1)),
      free_(layout.size),
      next_(std::make_unique<std::uint16_t[]>(layout.size)),
      buffers_(layout.size, layout.in_order),
      avail_flags_(layout.driver + spec::avail::flags),
      avail_idx_(layout.driver + spec::avail::idx),
      used_event_(layout.driver + spec::avail::used_event(layout.size)),
      used_flags_(layout.device + spec::used::flags),
      used_idx_(layout.device + spec::used::idx),
      avail_event_(layout.device + spec::used::avail_event(layout.size)) {
  for (std::uint16_t i = 0; i < layout.size; ++i) next_[i] = static_cast<std::uint16_t>((i + 1) & mask_);
  disarm();
  // An event index that the device has just passed: the first interrupt comes when it is asked for.
  if (layout_.event_idx) used_event_.store(0xffff, relaxed);
}

void SplitDriverRing::add(const DriverChain& chain) {
  const std::uint16_t head = free_head_;
  const auto count = static_cast<std::uint16_t>(chain.indirect ? 1 : chain.elements());
  std::uint16_t last = head;
  if (chain.indirect) {
    add_indirect(chain, head);
  } else {
    last = add_direct(chain);
  }
  free_head_ = next_[last];
  free_ = static_cast<std::uint16_t>(free_ - count);
  buffers_.add(head, count, last, chain.writable_bytes, chain.cookie);

  // Row S17: published, with the descriptors, by the store of idx.
  memory::Shared<le16>(layout_.driver + spec::avail::ring + spec::avail::entry_size * (next_avail_ & mask_))
      .store(head, relaxed);
  ++next_avail_;
}

std::uint16_t SplitDriverRing::add_direct(const DriverChain& chain) {
  // VIRTIO 1.4, 2.7.5.2 (IN_ORDER): "driver MUST set next to 0 for the last descriptor in the table (where x =
  // queue_size - 1) and to x + 1 for the rest of the descriptors."  The links then never change, so slots are taken in
  // ring order.
  std::uint16_t slot = free_head_, last = slot;
  chain.for_each([&](const Element& element, bool device_writes, bool is_last) {
    const unsigned flags = (device_writes ? spec::descriptor::write : 0U) | (is_last ? 0U : spec::descriptor::next);
    store_descriptor(layout_.descriptors, slot,
                     {memory::raw(element.address), element.length, static_cast<std::uint16_t>(flags), next_[slot]});
    last = slot;
    slot = next_[slot];
  });
  return last;
}

void SplitDriverRing::add_indirect(const DriverChain& chain, std::uint16_t slot) {
  std::byte* table = layout_.table(slot);
  std::uint16_t entry = 0;
  chain.for_each([&](const Element& element, bool device_writes, bool is_last) {
    const unsigned flags = (device_writes ? spec::descriptor::write : 0U) | (is_last ? 0U : spec::descriptor::next);
    const auto next = static_cast<std::uint16_t>(is_last ? 0 : entry + 1);
    store_descriptor(table, entry++,
                     {memory::raw(element.address), element.length, static_cast<std::uint16_t>(flags), next});
  });
  // VIRTIO 1.4, 2.7.5.3.1: "A driver MUST NOT set both VIRTQ_DESC_F_INDIRECT and VIRTQ_DESC_F_NEXT in flags."
  store_descriptor(layout_.descriptors, slot,
                   {memory::raw(layout_.table_iova(slot)), static_cast<std::uint32_t>(entry * sizeof(spec::Descriptor)),
                    spec::descriptor::indirect, 0});
}

bool SplitDriverRing::publish() {
  if (!buffers_.has_unpublished()) return false;
  const std::uint16_t before = std::exchange(published_, next_avail_);
  buffers_.publish();
  // Row S11. VIRTIO 1.4, 2.7.13.3.1: "The driver MUST perform a suitable memory barrier before the idx update to ensure
  // the device sees the most up-to-date copy." Pairs with the device's acquire of avail.idx.
  avail_idx_.store(next_avail_, std::memory_order_release);
  // Row S12. 2.7.13.4.1: "The driver MUST perform a suitable memory barrier before reading flags or avail_event."
  // Pairs with the fence with which the device arms: one of the two sees what the other has written.
  memory::full_fence();
  if (layout_.event_idx) return need_event(avail_event_.load(relaxed), next_avail_, before);
  return (used_flags_.load(relaxed) & spec::used::no_notify) == 0;
}

/// Whether something is used; false too where the index makes no sense, which leaves used_seen_ != next_used_ false.
bool SplitDriverRing::read_used_index() {
  // Row S14. Pairs with the device's release of used.idx: entries and payload up to it are read after it.
  used_seen_ = used_idx_.load(std::memory_order_acquire);
  // Backwards is a jump too: by nearly 2^16.
  return static_cast<std::uint16_t>(used_seen_ - next_used_) <= buffers_.available();
}

Taken SplitDriverRing::take(DriverQueue::Used& used) {
  if (used_seen_ == next_used_) {
    // An entry that stands for a batch is published together with all of the batch.
    if (buffers_.used() || !read_used_index()) return Taken::bad;
    if (used_seen_ == next_used_) return Taken::none;
  }
  if (!buffers_.used()) {
    // Row S15: read once, then checked, then used.
    std::byte* at = layout_.device + spec::used::ring + spec::used::entry_size * (next_used_ & mask_);
    const std::uint32_t id = memory::Shared<le32>(at + offsetof(spec::UsedElement, id)).load(relaxed);
    const std::uint32_t length = memory::Shared<le32>(at + offsetof(spec::UsedElement, len)).load(relaxed);
    if (!buffers_.accept(id, length)) return Taken::bad;
  }
  const DriverBuffers::Retired retired = buffers_.retire();
  ++next_used_;
  free_ = static_cast<std::uint16_t>(free_ + retired.descriptors);
  if (!layout_.in_order) {  // last in, first out: what was used last is in the cache
    next_[retired.last] = free_head_;
    free_head_ = retired.id;
  }
  used = {.cookie = retired.cookie, .length = retired.length};
  return Taken::one;
}

bool SplitDriverRing::arm() {
  // Row S16, and the fence that pairs with the device's between used.idx and used_event: whatever is used after the
  // second look is announced. VIRTIO 1.4, 2.7.14.
  if (layout_.event_idx) {
    used_event_.store(next_used_, std::memory_order_release);
  } else {
    avail_flags_.store(0, std::memory_order_release);
  }
  memory::full_fence();
  return buffers_.used() || used_idx_.load(std::memory_order_acquire) != next_used_;
}

void SplitDriverRing::disarm() {
  // VIRTIO 1.4, 2.7.7.1: "If the VIRTIO_F_EVENT_IDX feature bit is negotiated [...] The driver MUST set flags to 0."
  // There, not moving the event index is what keeps interrupts away. Row S18.
  if (!layout_.event_idx) avail_flags_.store(spec::avail::no_interrupt, relaxed);
}

}  // namespace outboard::virtio
