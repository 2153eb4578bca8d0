#include <outboard/virtio/internal/request_memory.hpp>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

namespace outboard::virtio {

using memory::Access;
using memory::IovaRange;
using memory::Lookup;

namespace {

using Cursor = RequestProgress::Cursor;

Error no_memory() {
  return Error(EFAULT, "the driver's buffer is not (or no longer) in memory that the device may access");
}
Error too_few(std::uint64_t wanted, std::uint64_t left, const char* part) {
  return Error(EINVAL, "the buffer is too small: " + std::to_string(wanted) + " bytes wanted, " + std::to_string(left) +
                           " " + part + " left");
}

/// Moves a cursor `size` bytes on inside its element, or to the start of the next.
void advance(const ChainElement& element, Cursor& cursor, std::uint64_t size) {
  cursor.offset += static_cast<std::uint32_t>(size);
  cursor.done += size;
  if (cursor.offset == element.length) cursor = {cursor.element + 1, 0, cursor.done};
}

/// Moves a cursor on over elements; so many bytes are left in its part.
void pass_over(const RequestSlot& slot, Cursor& cursor, std::uint64_t length) {
  if (slot.bounce) {
    cursor.done += length;
    return;
  }
  while (length != 0) {
    const ChainElement& element = slot.chain[cursor.element];
    const std::uint64_t size = std::min<std::uint64_t>(length, element.length - cursor.offset);
    advance(element, cursor, size);
    length -= size;
  }
}

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

// Copies.

/// The usual case: where the next `length` bytes are, if they lie in one element whose memory is known; else null.
inline std::byte* RequestMemory::find_in_element(const RequestSlot& slot, const Cursor& cursor,
                                                 std::uint64_t length) const {
  const ChainElement& element = slot.chain[cursor.element];
  // With a copy of the buffer, or a long chain, there is Care::storage.
  const bool known =
      element.host != nullptr && slot.generation == view_.generation() && slot.care != RequestSlot::Care::storage;
  return known && length <= element.length - cursor.offset ? element.host + cursor.offset : nullptr;
}

/// Moves a cursor over bytes of one element that have been accessed. EFAULT: they were not the driver's (any more).
inline Status RequestMemory::step(const RequestSlot& slot, Cursor& cursor, std::uint64_t size) {
  const ChainElement& element = slot.chain[cursor.element];
  if (view_.poisoned({element.address + cursor.offset, size})) [[unlikely]]
    return memory_lost();
  advance(element, cursor, size);
  return {};
}

/// Calls `each(std::byte*, memory::Iova, size)` for the next `length` bytes of a part and moves the cursor on; the caller has
/// checked that so many are left. Not for a buffer that the device works on a copy of.
template <typename Each>
Status RequestMemory::walk(RequestSlot& slot, Access access, Cursor& cursor, std::uint64_t length, Each&& each) {
  while (length != 0) {
    const ChainElement& element = slot.chain[cursor.element];
    const std::uint64_t size = std::min<std::uint64_t>(length, element.length - cursor.offset);
    if (size == 0) {  // an empty element, whose address means nothing
      cursor = {cursor.element + 1, 0, cursor.done};
      continue;
    }
    const memory::Iova at = element.address + cursor.offset;
    std::byte* host = slot.generation == view_.generation() ? element.host : nullptr;
    if (host == nullptr) host = view_.host(element.address, element.length, access);
    if (host != nullptr) [[likely]] {
      each(host + cursor.offset, at, size);
    } else {
      OUTBOARD_CHECK(walk_mappings({at, size}, access, each));
    }
    OUTBOARD_CHECK(step(slot, cursor, size));
    length -= size;
  }
  return {};
}

/// The same for a range that is in no single mapping. Nothing is touched if some of it is not mapped.
template <typename Each>
Status RequestMemory::walk_mappings(IovaRange range, Access access, Each&& each) {
  if (view_.look_again(range, access) != Lookup::ok) return no_memory();
  view_.translate(range, access, [&](const memory::Segment& segment) {
    each(segment.data, range.start, segment.size);
    range.start = range.start + segment.size;
  });
  return {};
}

/// The next `length` bytes of a part, in the copy that the device works on.
std::byte* RequestMemory::take_from_copy(RequestSlot& slot, Access access, Cursor& cursor, std::uint64_t length) {
  const std::uint64_t part = access == Access::write ? slot.readable_bytes : 0;
  return slot.bounce->bytes.data() + part + std::exchange(cursor.done, cursor.done + length);
}

Status RequestMemory::memory_lost() {
  lost_.memory_lost();
  return no_memory();
}

Status RequestMemory::copy_in(RequestSlot& slot, MutableBytes into) {
  const std::uint64_t left = slot.readable_bytes - slot.read.done;
  if (into.size() > left) return too_few(into.size(), left, "readable");
  if (into.empty()) return {};  // and there may be no memory to name
  if (const std::byte* const from = find_in_element(slot, slot.read, into.size())) [[likely]] {
    memory::copy_short(into.data(), from, into.size());
    std::atomic_signal_fence(std::memory_order_seq_cst);  // as below
    return step(slot, slot.read, into.size());
  }
  std::byte* to = into.data();
  const auto copy = [&](const std::byte* from, memory::Iova /*at*/, std::uint64_t size) {
    std::memcpy(to, from, size);
    to += size;
  };
  if (slot.bounce) [[unlikely]] {
    copy(take_from_copy(slot, Access::read, slot.read, into.size()), {}, into.size());
    return {};
  }
  const Status status = walk(slot, Access::read, slot.read, into.size(), copy);
  std::atomic_signal_fence(
      std::memory_order_seq_cst);  // the copy is what counts: shared bytes are not read again for it
  return status;
}

Status RequestMemory::skip_in(RequestSlot& slot, std::uint64_t length) {
  const std::uint64_t left = slot.readable_bytes - slot.read.done;
  if (length > left) return too_few(length, left, "readable");
  pass_over(slot, slot.read, length);
  return {};
}

Status RequestMemory::copy_out(RequestSlot& slot, Bytes from) {
  const std::uint64_t left = slot.writable_bytes - slot.write.done;
  if (from.size() > left) return too_few(from.size(), left, "writable");
  return copy_to(slot, slot.write, from);
}

/// Whatever lies before. The copy that a device works on has no holes, and all of it is written back.
Status RequestMemory::copy_out_last(RequestSlot& slot, Bytes from) {
  const std::uint64_t left = slot.writable_bytes - slot.write.done;
  if (from.size() > left) return too_few(from.size(), left, "writable");
  if (slot.bounce) OUTBOARD_CHECK(zero_out(slot, left - from.size()));
  if (slot.bounce || from.size() == left) return copy_to(slot, slot.write, from);
  Cursor end = slot.write;
  pass_over(slot, end, left - from.size());
  return copy_to(slot, end, from);
}

Status RequestMemory::copy_to(RequestSlot& slot, Cursor& cursor, Bytes from) {
  if (from.empty()) return {};
  if (std::byte* const to = find_in_element(slot, cursor, from.size())) [[likely]] {
    view_.writes().copy(to, slot.chain[cursor.element].address + cursor.offset, from);
    return step(slot, cursor, from.size());
  }
  if (slot.bounce) [[unlikely]] {
    std::memcpy(take_from_copy(slot, Access::write, cursor, from.size()), from.data(), from.size());
    return {};
  }
  const std::byte* bytes = from.data();
  return walk(slot, Access::write, cursor, from.size(), [&](std::byte* to, memory::Iova at, std::uint64_t size) {
    view_.writes().copy(to, at, {bytes, size});
    bytes += size;
  });
}

Status RequestMemory::zero_out(RequestSlot& slot, std::uint64_t length) {
  const std::uint64_t left = slot.writable_bytes - slot.write.done;
  if (length > left) return too_few(length, left, "writable");
  if (slot.bounce) [[unlikely]] {
    if (length != 0) std::memset(take_from_copy(slot, Access::write, slot.write, length), 0, length);
    return {};
  }
  return walk(slot, Access::write, slot.write, length,
              [&](std::byte* to, memory::Iova at, std::uint64_t size) { view_.writes().zero(to, at, size); });
}

// Pieces.

/// Where the next `length` bytes from `cursor` on are, which are pinned, and the cursor moved on. All of it is found on one
/// map, the one that is pinned: what was found on an earlier map may be unmapped in this process before the back end has
/// used it.
Status RequestMemory::find_pieces(RequestSlot& slot, Access access, Cursor& cursor, std::uint64_t length,
                                  std::vector<iovec>& pieces) {
  if (slot.bounce) [[unlikely]] {
    pieces.clear();
    if (length != 0) pieces.push_back({take_from_copy(slot, access, cursor, length), length});
    return {};
  }
  const Cursor start = cursor;
  for (unsigned attempt = 0; attempt <= map_attempts; ++attempt) {
    const std::uint64_t generation = view_.generation();
    pieces.clear();
    const Status found =
        walk(slot, access, cursor, length,
             [&](std::byte* host, memory::Iova /*at*/, std::uint64_t size) { add_piece(pieces, host, size); });
    if (found && view_.generation() == generation) {
      pin(slot, access);
      return {};
    }
    cursor = start;
    if (!found) return found;
  }
  return no_memory();  // the map changes all the time
}

Result<std::span<const iovec>> RequestMemory::pieces_in(RequestSlot& slot, std::uint64_t length) {
  const std::uint64_t left = slot.readable_bytes - slot.read.done;
  if (length > left) return too_few(length, left, "readable");
  OUTBOARD_CHECK(find_pieces(slot, Access::read, slot.read, length, slot.readable_pieces));
  return std::span<const iovec>(slot.readable_pieces);
}

Result<std::span<const iovec>> RequestMemory::pieces_out(RequestSlot& slot, std::uint64_t length) {
  const std::uint64_t left = slot.writable_bytes - slot.write.done;
  if (length > left) return too_few(length, left, "writable");
  Cursor cursor = slot.write;  // a copy: nothing has been written yet
  OUTBOARD_CHECK(find_pieces(slot, Access::write, cursor, length, slot.writable_pieces));
  slot.pieces_left = length;
  return std::span<const iovec>(slot.writable_pieces);
}

void RequestMemory::pieces_written(RequestSlot& slot, std::uint64_t length) {
  length = std::min(length, slot.pieces_left);
  slot.pieces_left -= length;
  pass_over(slot, slot.write, length);
}

// Pins.

/// Pins the map in use for pieces that were found on it. Pieces that were handed out before stay pinned too.
void RequestMemory::pin(RequestSlot& slot, Access access) {
  auto& pin = slot.pins[access == Access::write ? 1 : 0];
  MemoryView::Epoch* const before = std::exchange(pin, view_.pin());
  if (before == pin) {
    view_.unpin(before);
    return;
  }
  if (before != nullptr) slot.earlier_pins.push_back({before, access});
  ++pinned_;
  if (slot.care == RequestSlot::Care::none) slot.care = RequestSlot::Care::pins;
}

/// Whether the file behind a piece has shrunk.
bool RequestMemory::is_lost(const RequestSlot& slot) const {
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

/// The back end may have written to any of the pieces, also where it failed.
void RequestMemory::note_pieces(const RequestSlot& slot) const {
  for (std::uint32_t i = slot.chain.readable_count(); i < slot.chain.count(); ++i) {
    const ChainElement& element = slot.chain[i];
    if (element.length != 0) view_.writes().note({element.address, element.length});
  }
}

/// Looks first whether the file behind a piece has shrunk while the back end worked on it.
Status RequestMemory::unpin_pieces(RequestSlot& slot) {
  const bool lost = is_lost(slot);
  if (slot.pins[1] != nullptr && view_.writes().has_log()) [[unlikely]]
    note_pieces(slot);
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
  if (slot.care == RequestSlot::Care::pins) slot.care = RequestSlot::Care::none;
  if (!unmaps_.empty()) release_unmaps();
  if (lost) [[unlikely]]
    return memory_lost();
  return {};
}

bool RequestMemory::is_pinned(IovaRange range) const {
  if (pinned_ == 0) return false;
  for (const RequestSlot& slot : slots_.all()) {
    if (!slot.has_pins()) continue;
    for (std::uint32_t e = 0; e < slot.chain.count(); ++e) {
      const bool in_use = slot.pins[slot.chain.access(e) == Access::write ? 1 : 0] != nullptr;
      if (in_use && slot.chain[e].length != 0 && range.overlaps({slot.chain[e].address, slot.chain[e].length}))
        return true;
    }
  }
  return false;
}

void RequestMemory::when_unpinned(IovaRange removed, Loop::Task released) {
  if (removed.size == 0 || !is_pinned(removed)) return released();
  unmaps_.push_back({removed, std::move(released)});
}

void RequestMemory::release_unmaps() {
  std::erase_if(unmaps_, [&](Unmap& unmap) {
    if (is_pinned(unmap.removed)) return false;
    unmap.released();
    return true;
  });
}

}  // namespace outboard::virtio
