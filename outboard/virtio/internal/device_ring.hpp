#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

#include <outboard/memory/internal/shared.hpp>
#include <outboard/virtio/internal/descriptor_words.hpp>
#include <outboard/virtio/internal/request_slot.hpp>
#include <outboard/virtio/queue_state.hpp>
#include <outboard/virtio/ring.hpp>

/// What the device's sides of both rings have in common.
///
/// Taking a buffer: look(), and while !exhausted(): parse(), then commit(). A buffer that is not committed can be
/// parsed again. Giving buffers back: fill(), expose(), then a full fence, then wants_notification(). Cursors are
/// private; what the driver writes is loaded once.
namespace outboard::virtio {

/// The properties of a ring, from the features and the device.
struct DeviceRingRules {
  std::uint16_t size = 0;  ///< entries
  bool event_idx = false;
  bool indirect = false;
  bool in_order = false;
  std::uint32_t chain_limit = 0;  ///< elements in one buffer
};

/// The host addresses of a ring's three parts. The whole of each part has been found to be mapped.
struct RingPointers {
  std::byte* descriptors = nullptr;
  std::byte* driver = nullptr;
  std::byte* device = nullptr;
};

/// What DeviceQueue needs of a ring.
template <typename Ring>
concept DeviceRing = requires(Ring& ring, const Ring& known, const DeviceRingRules& rules, const QueueState& from,
                              QueueState& to, RequestSlot& slot, InFlight& buffer, MemoryView& memory,
                              const RingPointers& pointers, std::span<const UsedBuffer> batch) {
  ring.start(rules, from);  // at the cursors of `from`; from.in_flight counts as popped: each is to be parsed again
  ring.bind(pointers);
  known.save(to);  // the cursors
  known.describe(slot, buffer);  // what lets another ring object parse the buffer again

  { known.exhausted() } -> std::same_as<bool>;  // everything seen by the last look() has been taken
  { ring.look() } -> std::same_as<const RingRule*>;  // null, or the rule that the driver broke
  { ring.parse(slot, memory) } -> std::same_as<const RingRule*>;  // copies the next buffer's chain
  { ring.parse_again(buffer, slot, memory) } -> std::same_as<const RingRule*>;  // of a buffer that was popped before
  ring.commit(slot);
  ring.commit_again(slot);
  known.prefetch();  // a guess what the next parse() will need

  ring.fill(batch);  // writes used entries, which are not published yet
  ring.expose();  // makes them visible, with one store
  { ring.wants_notification() } -> std::same_as<bool>;  // of what was exposed since the last call
  ring.arm();  // asks for a notification of the next buffer; then a full fence and look() again
  ring.suppress();  // tells the driver that kicks are not needed
  { known.next_used() } -> std::same_as<std::uint16_t>;
  { known.used_wrap() } -> std::same_as<bool>;
};

}  // namespace outboard::virtio
