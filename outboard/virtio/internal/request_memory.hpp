#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <outboard/virtio/internal/memory_view.hpp>
#include <outboard/virtio/internal/request_slots.hpp>

namespace outboard::virtio {

/// Receives memory_lost() when the file behind a buffer has shrunk during an access.
class LostMemory {
 public:
  virtual ~LostMemory() = default;
  virtual void memory_lost() = 0;
};

/// The memory of a queue's requests: copies, pieces for a back end, and the pins that keep pieces mapped. It implements the
/// calls of Request of the same names. Called on the queue's loop.
class RequestMemory {
 public:
  /// How often the memory for pieces, or for a buffer, is looked up again when the map changes meanwhile.
  static constexpr unsigned map_attempts = 4;

  RequestMemory(const memory::AddressMap& map, RequestSlots& slots, LostMemory& lost)
      : view_(map), slots_(slots), lost_(lost) {}

  /// The map as the queue sees it now.
  MemoryView& view() { return view_; }

  Status copy_in(RequestSlot& slot, MutableBytes into);
  Status skip_in(RequestSlot& slot, std::uint64_t length);
  Status copy_out(RequestSlot& slot, Bytes from);
  Status copy_out_last(RequestSlot& slot, Bytes from);
  Status zero_out(RequestSlot& slot, std::uint64_t length);
  Result<std::span<const iovec>> pieces_in(RequestSlot& slot, std::uint64_t length);
  Result<std::span<const iovec>> pieces_out(RequestSlot& slot, std::uint64_t length);
  void pieces_written(RequestSlot& slot, std::uint64_t length);
  /// EFAULT: see Request::unpin().
  Status unpin(RequestSlot& slot) { return slot.has_pins() ? unpin_pieces(slot) : Status(); }

  /// Calls `released` once no piece that is pinned touches the range: at once, or at the end of a later unpin().
  void when_unpinned(memory::IovaRange removed, Loop::Task released);
  /// Drops all `released` callbacks.
  void forget_unmaps() { unmaps_.clear(); }

 private:
  struct Unmap {
    memory::IovaRange removed;
    Loop::Task released;
  };
  using Cursor = RequestProgress::Cursor;

  std::byte* find_in_element(const RequestSlot& slot, const Cursor& cursor, std::uint64_t length) const;
  Status step(const RequestSlot& slot, Cursor& cursor, std::uint64_t size);
  template <typename Each>
  Status walk(RequestSlot& slot, memory::Access access, Cursor& cursor, std::uint64_t length, Each&& each);
  template <typename Each>
  Status walk_mappings(memory::IovaRange range, memory::Access access, Each&& each);
  Status find_pieces(RequestSlot& slot, memory::Access access, Cursor& cursor, std::uint64_t length,
                     std::vector<iovec>& pieces);
  static std::byte* take_from_copy(RequestSlot& slot, memory::Access access, Cursor& cursor, std::uint64_t length);
  Status copy_to(RequestSlot& slot, Cursor& cursor, Bytes from);
  Status memory_lost();
  void pin(RequestSlot& slot, memory::Access access);
  Status unpin_pieces(RequestSlot& slot);
  void note_pieces(const RequestSlot& slot) const;
  bool is_lost(const RequestSlot& slot) const;
  bool is_pinned(memory::IovaRange range) const;
  void release_unmaps();

  MemoryView view_;
  RequestSlots& slots_;
  LostMemory& lost_;
  std::uint32_t pinned_ = 0;  ///< pins of all slots
  std::vector<Unmap> unmaps_;  ///< that wait for pins
};

}  // namespace outboard::virtio
