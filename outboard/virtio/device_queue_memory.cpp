#include <algorithm>
#include <cstring>
#include <utility>

#include <outboard/virtio/device_queue.hpp>
#include <outboard/virtio/indirect_table.hpp>

/// What a DeviceQueue does about memory: where its ring is, where a request's elements are, and who may take them away.
namespace outboard::virtio {

using memory::Access;
using memory::Iova;
using memory::IovaRange;
using memory::Lookup;

namespace {

/// What the device does to a part of a ring.
Access part_access(bool packed, RingPart part) {
  if (part == RingPart::device) return Access::write;
  return packed && part == RingPart::descriptors ? Access::read_write : Access::read;
}

struct Part {
  IovaRange range;
  Access access;
};

std::array<Part, ring_parts> parts_of(bool packed, const QueueState& ring) {
  const auto part = [&](RingPart which, Iova at) {
    return Part{{at, ring_part(packed, which, ring.size).size}, part_access(packed, which)};
  };
  return {part(RingPart::descriptors, ring.descriptors), part(RingPart::driver, ring.driver),
          part(RingPart::device, ring.device)};
}

}  // namespace

std::optional<RingPointers> locate_ring(const memory::Snapshot& snapshot, bool packed, const QueueState& ring) {
  const auto parts = parts_of(packed, ring);
  std::array<std::byte*, ring_parts> at{};
  for (std::size_t i = 0; i < ring_parts; ++i) {
    at[i] = snapshot.contiguous(parts[i].range, parts[i].access);
    if (at[i] == nullptr) return std::nullopt;
    // The I/O address was checked; memory that lies askew behind it cannot be accessed as a ring has to be.
    const std::size_t needed = std::min<std::size_t>(
        ring_part(packed, RingPart{static_cast<std::uint8_t>(i)}, ring.size).alignment, alignof(std::uint64_t));
    if (reinterpret_cast<std::uintptr_t>(at[i]) % needed != 0) return std::nullopt;
  }
  return RingPointers{at[0], at[1], at[2]};
}

void DeviceQueue::refresh_memory() {
  // The old ring is there until it is let go of; what is in the batch could not be published again in another.
  publish_batch();
  view_.refresh();
  bind_ring();
}

void DeviceQueue::bind_ring() {
  auto found = locate_ring(view_.snapshot(), packed_, setup_);
  if (!found) {
    for (const Part& part : parts_of(packed_, setup_)) view_.look_again(part.range, part.access);
    found = locate_ring(view_.snapshot(), packed_, setup_);
  }
  bound_generation_ = view_.generation();
  if (!found) return unbind_ring();
  const auto parts = parts_of(packed_, setup_);
  const std::byte* const at[] = {found->descriptors, found->driver, found->device};
  for (std::size_t i = 0; i < ring_parts; ++i) {
    ring_memory_[i] = view_.snapshot().find(parts[i].range.start)->memory;
    ring_bytes_[i] = Bytes(at[i], parts[i].range.size);
  }
  const bool was_away = !bound_;
  bound_ = true;
  if (packed_) {
    packed_ring_.bind(*found);
  } else {
    split_.bind(*found);
  }
  update_serving();
  if (was_away && !paused_) ring_is_back();
}

/// Parked: nothing is popped or published, and answers wait.
void DeviceQueue::unbind_ring() {
  bound_ = false;
  update_serving();
  ring_memory_ = {};
}

void DeviceQueue::ring_is_back() {
  if (packed_) {
    packed_ring_.suppress();
  } else {
    split_.suppress();
  }
  for (RequestSlot* slot : std::exchange(waiting_, {})) put_in_batch(*slot);
  if (in_order_) give_back_in_order();
  schedule_flush();
}

bool DeviceQueue::ring_poisoned() const {
  for (std::size_t i = 0; i < ring_parts; ++i) {
    if (ring_memory_[i]->poisoned(ring_bytes_[i].data(), ring_bytes_[i].size())) [[unlikely]]
      return true;
  }
  return false;
}

void DeviceQueue::map_changed(IovaRange removed, Loop::Task released) {
  if (removed.size != 0) unmapped_at_ = env_.loop->clock().now();
  if (phase_ == Phase::idle) {
    view_.refresh();
  } else {
    refresh_memory();
  }
  if (removed.size == 0 || !pinned(removed)) {
    released();
  } else {
    unmaps_.push_back({removed, std::move(released)});
  }
  stalled_ = is_fetching_;
  if (phase_ == Phase::running) kick();
}

/// A client that rearranges its memory takes all of it away and gives it back in pieces, while the driver, who knows
/// nothing of it, goes on. A hole that is found in such a time is looked at again before it counts as the driver's
/// fault.
bool DeviceQueue::hold_for_map(const RingRule& rule) {
  if (&rule != &ring_rule::unmapped || unmapped_at_ == TimePoint{}) return false;
  const Duration since = env_.loop->clock().now() - unmapped_at_;
  if (since >= remap_grace) return false;
  stall();
  hold_timer_ = env_.loop->after(remap_grace - since, [this] {
    stalled_ = is_fetching_;
    process();
  });
  return true;
}

/// Finds the memory that a compare did not. Null, or the rule that an element breaks: nothing of the buffer is touched
/// then. Where faults are contained what there is is found all the same.
const RingRule* DeviceQueue::resolve(RequestSlot& slot) {
  const RingRule* broken = nullptr;
  for (std::uint32_t i = 0; i < slot.chain.count(); ++i) {
    ChainElement& element = slot.chain[i];
    if (element.length == 0) continue;  // its address means nothing
    element.host = view_.host(element.address, element.length, slot.chain.access(i));
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
  const Lookup found = view_.look_again({element.address, element.length}, slot.chain.access(index));
  if (found != Lookup::remote) return rule_of(found);
  if (slot.chain.readable_bytes() + slot.chain.writable_bytes() > max_bounce) return &ring_rule::bounce_too_large;
  if (!slot.bounce) slot.bounce = std::make_unique<Bounce>();
  return nullptr;
}

/// Whether the queue may hold this buffer too. A buffer that does not fit waits until others have been answered.
bool DeviceQueue::has_room_for(const RequestSlot& slot) const {
  if (tokens_ == 0 && transfers_ == 0) return true;
  const std::uint64_t bounce = slot.bounce ? slot.chain.readable_bytes() + slot.chain.writable_bytes() : 0;
  return slot.chain.spilled() <= max_spilled - std::min(spilled_, max_spilled) && bounce <= max_queue_bounce - bounced_;
}

// The bytes of a request.

namespace {

Error no_memory() {
  return Error(EFAULT, "the driver's buffer is not (or no longer) in memory that the device may access");
}
Error too_few(std::uint64_t wanted, std::uint64_t left, const char* part) {
  return Error(EINVAL, "the buffer is too small: " + std::to_string(wanted) + " bytes wanted, " + std::to_string(left) +
                           " " + part + " left");
}

/// Moves a cursor `size` bytes on inside its element.
void step(ChainCursor& cursor, std::uint64_t size) {
  cursor.offset += static_cast<std::uint32_t>(size);
  cursor.done += size;
}

/// Moves a cursor on over elements; so many bytes are left in its part.
void pass_over(const RequestSlot& slot, ChainCursor& cursor, std::uint64_t length) {
  if (slot.bounce) {
    cursor.done += length;
    return;
  }
  while (length != 0) {
    const std::uint64_t size = std::min<std::uint64_t>(length, slot.chain[cursor.element].length - cursor.offset);
    if (size == 0) cursor = {cursor.element + 1, 0, cursor.done};
    step(cursor, size);
    length -= size;
  }
}

}  // namespace

/// The file behind memory that was just accessed has shrunk.
Error DeviceQueue::lost_memory() {
  if (abandoned_.load(std::memory_order_relaxed)) return no_memory();
  if (env_.contains_faults) {
    say_fault(ring_rule::poisoned);
  } else {
    break_queue(ring_rule::poisoned);
  }
  return no_memory();
}

/// Calls `each(std::byte*, size)` for the next `length` bytes of a part and moves the cursor on; the caller has
/// checked that so many are left.
template <typename Each>
Status DeviceQueue::walk(RequestSlot& slot, Access access, ChainCursor& cursor, std::uint64_t length, Each&& each) {
  const bool writable = access == Access::write;
  if (length == 0) return {};  // and there may be no memory to name
  if (slot.bounce) {
    each(slot.bounce->bytes.data() + (writable ? slot.chain.readable_bytes() : 0) + cursor.done, length);
    cursor.done += length;
    return {};
  }
  while (length != 0) {
    const ChainElement& element = slot.chain[cursor.element];
    const std::uint64_t size = std::min<std::uint64_t>(length, element.length - cursor.offset);
    if (size == 0) {
      cursor = {cursor.element + 1, 0, cursor.done};
      continue;
    }
    std::byte* host = slot.generation == view_.generation() ? element.host : nullptr;
    if (host == nullptr) host = view_.host(element.address, element.length, access);
    if (host != nullptr) [[likely]] {
      each(host + cursor.offset, size);
    } else {
      OUTBOARD_CHECK(walk_pieces({element.address + cursor.offset, size}, access, each));
    }
    if (view_.poisoned({element.address + cursor.offset, size})) [[unlikely]]
      return lost_memory();
    step(cursor, size);
    length -= size;
  }
  return {};
}

/// The same for a range that is in no single mapping. Nothing is touched when some of it is not there.
template <typename Each>
Status DeviceQueue::walk_pieces(IovaRange range, Access access, Each&& each) {
  if (view_.look_again(range, access) != Lookup::ok) return no_memory();
  view_.translate(range, access, [&](const memory::Segment& segment) { each(segment.data, segment.size); });
  return {};
}

Status DeviceQueue::copy_in(RequestSlot& slot, MutableBytes into) {
  const std::uint64_t left = slot.chain.readable_bytes() - slot.read.done;
  if (into.size() > left) return too_few(into.size(), left, "readable");
  std::byte* to = into.data();
  const Status status =
      walk(slot, Access::read, slot.read, into.size(), [&](const std::byte* from, std::uint64_t size) {
        std::memcpy(to, from, size);
        to += size;
      });
  std::atomic_signal_fence(
      std::memory_order_seq_cst);  // the copy is what counts: shared bytes are not read again for it
  return status;
}

Status DeviceQueue::skip_in(RequestSlot& slot, std::uint64_t length) {
  const std::uint64_t left = slot.chain.readable_bytes() - slot.read.done;
  if (length > left) return too_few(length, left, "readable");
  pass_over(slot, slot.read, length);
  return {};
}

Status DeviceQueue::copy_out(RequestSlot& slot, Bytes from) {
  const std::uint64_t left = slot.chain.writable_bytes() - slot.write.done;
  if (from.size() > left) return too_few(from.size(), left, "writable");
  const std::byte* bytes = from.data();
  return walk(slot, Access::write, slot.write, from.size(), [&](std::byte* to, std::uint64_t size) {
    std::memcpy(to, bytes, size);
    bytes += size;
  });
}

/// In memory of our own nothing can be missing, and all of it goes back.
Status DeviceQueue::copy_out_last(RequestSlot& slot, Bytes from) {
  const std::uint64_t left = slot.chain.writable_bytes() - slot.write.done;
  if (from.size() > left) return too_few(from.size(), left, "writable");
  if (slot.bounce) OUTBOARD_CHECK(zero_out(slot, left - from.size()));
  if (slot.bounce || from.size() == left) return copy_out(slot, from);
  ChainCursor end = slot.write;
  pass_over(slot, end, left - from.size());
  const std::byte* bytes = from.data();
  return walk(slot, Access::write, end, from.size(), [&](std::byte* to, std::uint64_t size) {
    std::memcpy(to, bytes, size);
    bytes += size;
  });
}

Status DeviceQueue::zero_out(RequestSlot& slot, std::uint64_t length) {
  const std::uint64_t left = slot.chain.writable_bytes() - slot.write.done;
  if (length > left) return too_few(length, left, "writable");
  return walk(slot, Access::write, slot.write, length,
              [](std::byte* to, std::uint64_t size) { std::memset(to, 0, size); });
}

namespace {

/// Adds a piece, to the last one where it goes on from there.
void add_piece(std::vector<iovec>& pieces, std::byte* at, std::uint64_t size) {
  if (!pieces.empty()) {
    iovec& last = pieces.back();
    if (static_cast<std::byte*>(last.iov_base) + last.iov_len == at) {
      last.iov_len += size;
      return;
    }
  }
  pieces.push_back({at, size});
}

}  // namespace

/// Where the next `length` bytes from `cursor` on are, which are pinned, and the cursor moved on. All of it is found on one
/// map, the one that is pinned: what was found on the map before may be unmapped here before the back end has used it.
Status DeviceQueue::find_pieces(RequestSlot& slot, Access access, ChainCursor& cursor, std::uint64_t length,
                                std::vector<iovec>& pieces) {
  const ChainCursor start = cursor;
  for (unsigned attempt = 0; attempt <= map_attempts; ++attempt) {
    const std::uint64_t generation = view_.generation();
    pieces.clear();
    const Status found =
        walk(slot, access, cursor, length, [&](std::byte* at, std::uint64_t size) { add_piece(pieces, at, size); });
    if (found && view_.generation() == generation) {
      pin(slot, access);
      return {};
    }
    cursor = start;
    if (!found) return found;
  }
  return no_memory();  // which changes all the time
}

Result<std::span<const iovec>> DeviceQueue::pieces_in(RequestSlot& slot, std::uint64_t length) {
  const std::uint64_t left = slot.chain.readable_bytes() - slot.read.done;
  if (length > left) return too_few(length, left, "readable");
  OUTBOARD_CHECK(find_pieces(slot, Access::read, slot.read, length, slot.readable_pieces));
  return std::span<const iovec>(slot.readable_pieces);
}

Result<std::span<const iovec>> DeviceQueue::pieces_out(RequestSlot& slot, std::uint64_t length) {
  const std::uint64_t left = slot.chain.writable_bytes() - slot.write.done;
  if (length > left) return too_few(length, left, "writable");
  ChainCursor cursor = slot.write;  // a copy: nothing has been written yet
  OUTBOARD_CHECK(find_pieces(slot, Access::write, cursor, length, slot.writable_pieces));
  slot.pieces_left = length;
  return std::span<const iovec>(slot.writable_pieces);
}

void DeviceQueue::pieces_written(RequestSlot& slot, std::uint64_t length) {
  length = std::min(length, slot.pieces_left);
  slot.pieces_left -= length;
  pass_over(slot, slot.write, length);
}

// Pins.

/// Pins the map in use for pieces that were found on it. Pieces that were handed out before stay pinned too.
void DeviceQueue::pin(RequestSlot& slot, Access access) {
  if (slot.bounce) return;  // what is handed out is ours
  auto& pin = slot.pins[access == Access::write ? 1 : 0];
  MemoryView::Epoch* const before = std::exchange(pin, view_.pin());
  if (before == pin) {
    view_.unpin(before);
    return;
  }
  if (before != nullptr) slot.earlier_pins.push_back({before, access});
  ++pinned_;
  slot.plain = false;
}

/// Whether the file behind a piece has shrunk.
bool DeviceQueue::lost(const RequestSlot& slot) const {
  for (std::uint32_t i = 0; i < slot.chain.count(); ++i) {
    const ChainElement& element = slot.chain[i];
    if (element.length == 0) continue;
    const Access access = slot.chain.access(i);
    const auto lost_in = [&](const MemoryView::Epoch* pin) {
      return pin != nullptr && view_.poisoned(*pin, {element.address, element.length});
    };
    if (lost_in(slot.pins[access == Access::write ? 1 : 0])) return true;
    for (const auto& earlier : slot.earlier_pins) {
      if (earlier.access == access && lost_in(earlier.epoch)) return true;
    }
  }
  return false;
}

/// Looks first whether the file behind a piece has shrunk while the back end worked on it.
Status DeviceQueue::unpin(RequestSlot& slot) {
  if (slot.pins[0] == nullptr && slot.pins[1] == nullptr) return {};
  const bool is_lost = lost(slot);
  for (auto& pin : slot.pins) {
    if (pin == nullptr) continue;
    view_.unpin(std::exchange(pin, nullptr));
    --pinned_;
  }
  for (const auto& earlier : slot.earlier_pins) {
    view_.unpin(earlier.epoch);
    --pinned_;
  }
  slot.earlier_pins.clear();
  if (!unmaps_.empty()) release_unmaps();
  if (is_lost) [[unlikely]]
    return lost_memory();
  return {};
}

bool DeviceQueue::pinned(IovaRange range) const {
  if (pinned_ == 0) return false;
  for (std::uint32_t i = 0; i < slot_count_; ++i) {
    const RequestSlot& slot = slots_[i];
    if (slot.pins[0] == nullptr && slot.pins[1] == nullptr) continue;
    for (std::uint32_t e = 0; e < slot.chain.count(); ++e) {
      const bool in_use = slot.pins[slot.chain.access(e) == Access::write ? 1 : 0] != nullptr;
      if (in_use && slot.chain[e].length != 0 && range.overlaps({slot.chain[e].address, slot.chain[e].length}))
        return true;
    }
  }
  return false;
}

void DeviceQueue::release_unmaps() {
  std::erase_if(unmaps_, [&](Waiting& waiting) {
    if (pinned(waiting.removed)) return false;
    waiting.released();
    return true;
  });
}

}  // namespace outboard::virtio
