#include <outboard/vduse/internal/vq_state.hpp>

#include <cstddef>

#include <fmt/format.h>

#include <outboard/memory/internal/shared.hpp>
#include <outboard/virtio/internal/device_queue.hpp>
#include <outboard/virtio/ring.hpp>
#include <outboard/virtio/spec.hpp>

namespace outboard::vduse {

namespace {

using virtio::PackedCursor;
using virtio::QueueState;
using virtio::RingPart;

constexpr RingPart ring_parts[] = {RingPart::descriptors, RingPart::driver, RingPart::device};

memory::IovaRange range_of(const QueueState& ring, bool packed, RingPart part) {
  const memory::Iova at[] = {ring.descriptors, ring.driver, ring.device};
  return {at[static_cast<unsigned>(part)], virtio::ring_part(packed, part, ring.size).size};
}

bool parts_overlap(const QueueState& ring, bool packed) {
  const auto descriptors = range_of(ring, packed, RingPart::descriptors);
  const auto driver = range_of(ring, packed, RingPart::driver);
  const auto device = range_of(ring, packed, RingPart::device);
  return descriptors.overlaps(driver) || descriptors.overlaps(device) || driver.overlaps(device);
}

Status check_place(const QueueState& ring, bool packed) {
  for (const RingPart part : ring_parts) {
    const auto range = range_of(ring, packed, part);
    if (!virtio::legal_ring_address(range.start, virtio::ring_part(packed, part, ring.size)))
      return Error(EINVAL, fmt::format("a part of its ring is at {:#x}", raw(range.start)));
  }
  if (parts_overlap(ring, packed)) return Error(EINVAL, "the parts of its ring overlap");
  return {};
}

bool is_same_packed_state(const spec::VqStatePacked& one, const spec::VqStatePacked& other) {
  return one.last_avail_counter == other.last_avail_counter && one.last_avail_idx == other.last_avail_idx &&
         one.last_used_counter == other.last_used_counter && one.last_used_idx == other.last_used_idx;
}

Status set_packed_position(QueueState& ring, const spec::VqStatePacked& state) {
  const bool nothing_in_flight =
      state.last_used_idx == state.last_avail_idx && (state.last_used_counter != 0) == (state.last_avail_counter != 0);
  if (!nothing_in_flight) return Error(EINVAL, "it begins with buffers in flight, and does not say which");
  ring.next_avail = ring.next_used = state.last_avail_idx;
  ring.avail_wrap = ring.used_wrap = state.last_avail_counter != 0;
  return {};
}

bool can_rewind_packed(const QueueState& stopped) {
  PackedCursor at{stopped.next_used, stopped.used_wrap};
  for (const auto& buffer : stopped.in_flight) {
    if (buffer.head != at.slot) return false;
    at = at.plus(buffer.descriptors, stopped.size);
  }
  return at == PackedCursor{stopped.next_avail, stopped.avail_wrap};
}

bool can_rewind_split(const memory::AddressMap& map, const QueueState& stopped) {
  const auto ring = virtio::locate_ring(*map.current(), false, stopped);
  if (!ring) return false;
  for (std::size_t i = 0; i < stopped.in_flight.size(); ++i) {
    const auto slot = static_cast<std::uint16_t>(stopped.next_used + i) % stopped.size;
    const memory::Shared<le16> entry(ring->driver + virtio::spec::avail::ring + slot * sizeof(le16));
    if (entry.load(std::memory_order_relaxed) != stopped.in_flight[i].head) return false;
  }
  return true;
}

}  // namespace

Result<QueueState> ring_of(const spec::VqInfo& info, bool packed, std::uint16_t max_size) {
  if (!virtio::legal_queue_size(packed, info.num) || info.num > max_size)
    return Error(EINVAL, fmt::format("its size is {}", info.num));
  QueueState ring{.size = static_cast<std::uint16_t>(info.num),
                  .descriptors = memory::Iova{info.desc_addr},
                  .driver = memory::Iova{info.driver_addr},
                  .device = memory::Iova{info.device_addr},
                  .enabled = true,
                  .in_flight = {}};
  OUTBOARD_CHECK(check_place(ring, packed));
  if (packed) {
    OUTBOARD_CHECK(set_packed_position(ring, info.state.packed));
  } else {
    ring.next_avail = ring.next_used = info.state.split.avail_index;
  }
  return ring;
}

bool is_same_ring(const spec::VqInfo& one, const spec::VqInfo& other, bool packed) {
  const bool same_place = one.num == other.num && one.desc_addr == other.desc_addr &&
                          one.driver_addr == other.driver_addr && one.device_addr == other.device_addr;
  if (!same_place) return false;
  return packed ? is_same_packed_state(one.state.packed, other.state.packed)
                : one.state.split.avail_index == other.state.split.avail_index;
}

bool is_mapped(memory::AddressMap& map, const QueueState& ring, bool packed) {
  for (const RingPart part : ring_parts) map.resolve(range_of(ring, packed, part), memory::Access::read);
  return virtio::locate_ring(*map.current(), packed, ring).has_value();
}

bool can_rewind(const memory::AddressMap& map, const QueueState& stopped, bool packed) {
  if (stopped.in_flight.empty()) return true;
  return packed ? can_rewind_packed(stopped) : can_rewind_split(map, stopped);
}

spec::VqState rewound_state(const QueueState& stopped, bool packed) {
  spec::VqState state{.packed = {}};  // all of its bytes go to the kernel
  if (packed) {
    state.packed = {.last_avail_counter = stopped.used_wrap,
                    .last_avail_idx = stopped.next_used,
                    .last_used_counter = stopped.used_wrap,
                    .last_used_idx = stopped.next_used};
  } else {
    state.split.avail_index = stopped.next_used;
  }
  return state;
}

}  // namespace outboard::vduse
