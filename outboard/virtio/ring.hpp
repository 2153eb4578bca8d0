#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include <outboard/memory/iova.hpp>
#include <outboard/virtio/spec.hpp>

/// Arithmetic of virtqueues that both sides need: where the parts of a ring are, cursors, when to notify.
namespace outboard::virtio {

/// A ring has three parts, each with an address of its own.
enum class RingPart : std::uint8_t { descriptors, driver, device };
constexpr unsigned ring_parts = 3;

struct PartLayout {
  std::size_t size = 0;
  std::size_t alignment = 1;
};

/// Bytes and alignment of one part. The event fields are part of it whether or not EVENT_IDX was negotiated.
constexpr PartLayout ring_part(bool packed, RingPart part, std::size_t queue_size) {
  switch (part) {
    case RingPart::descriptors:
      return {spec::descriptor_table_size(queue_size), spec::descriptor_alignment};
    case RingPart::driver:
      if (packed) return {spec::event::size, spec::event::alignment};
      return {spec::avail::size(queue_size), spec::avail::alignment};
    case RingPart::device:
      if (packed) return {spec::event::size, spec::event::alignment};
      return {spec::used::size(queue_size), spec::used::alignment};
  }
  return {};
}

/// VIRTIO 1.4, 2.7: a split ring's size is a power of two; 2.8: a packed ring's need not be. Both at most 2^15.
constexpr bool legal_queue_size(bool packed, std::uint32_t size) {
  return size != 0 && size <= spec::max_queue_size && (packed || std::has_single_bit(size));
}

/// Whether a ring part lies at an aligned address and ends before 2^64.
constexpr bool legal_ring_address(memory::Iova address, const PartLayout& layout) {
  return raw(address) % layout.alignment == 0 && memory::IovaRange{address, layout.size}.well_formed();
}

/// VIRTIO 1.4, 2.7.10.1 and 2.7.7.1, for a batch: whether the index passed `event` on the way from `before` to `now`.
constexpr bool need_event(std::uint16_t event, std::uint16_t now, std::uint16_t before) {
  return static_cast<std::uint16_t>(now - event - 1) < static_cast<std::uint16_t>(now - before);
}

/// A place in a packed ring: a slot, and the wrap counter that is 1 on the first way round.
struct PackedCursor {
  std::uint16_t slot = 0;
  bool wrap = true;

  /// `count` slots on; at most the ring's size.
  constexpr PackedCursor plus(std::uint32_t count, std::uint32_t queue_size) const {
    const std::uint32_t sum = slot + count;
    if (sum < queue_size) return {static_cast<std::uint16_t>(sum), wrap};
    return {static_cast<std::uint16_t>(sum - queue_size), !wrap};
  }
  /// As an event suppression structure has it: bits 0...14 the slot, bit 15 the wrap counter.
  constexpr std::uint16_t off_wrap() const { return static_cast<std::uint16_t>(slot | (wrap ? spec::event::wrap : 0)); }
  friend constexpr bool operator==(const PackedCursor&, const PackedCursor&) = default;
};

/// VIRTIO 1.4, 2.8.1: the AVAIL and USED bits of a descriptor that the driver has made available on a turn with `wrap`.
constexpr std::uint16_t available_bits(bool wrap) { return wrap ? spec::descriptor::avail : spec::descriptor::used; }
/// The same bits of a descriptor that the device has used.
constexpr std::uint16_t used_bits(bool wrap) { return wrap ? spec::descriptor::avail | spec::descriptor::used : 0; }
constexpr std::uint16_t wrap_bits_mask = spec::descriptor::avail | spec::descriptor::used;

constexpr bool is_available(std::uint16_t flags, bool wrap) { return (flags & wrap_bits_mask) == available_bits(wrap); }
constexpr bool is_used(std::uint16_t flags, bool wrap) { return (flags & wrap_bits_mask) == used_bits(wrap); }

/// need_event() for a packed ring's event structure: `off_wrap` as the peer wrote it (any value), `now` the cursor
/// after the batch, `count` the descriptors the batch took.
constexpr bool packed_need_event(std::uint16_t off_wrap, PackedCursor now, std::uint16_t count,
                                 std::uint16_t queue_size) {
  auto event = static_cast<std::uint16_t>(off_wrap & spec::event::offset_mask);
  if (((off_wrap & spec::event::wrap) != 0) != now.wrap) event = static_cast<std::uint16_t>(event - queue_size);
  return need_event(event, now.slot, static_cast<std::uint16_t>(now.slot - count));
}

}  // namespace outboard::virtio
