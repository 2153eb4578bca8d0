#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include <outboard/virtio/internal/device_ring.hpp>

namespace outboard::virtio {

/// Where the parts of a ring are, if each of them is contiguous in host memory that the device may use as a ring needs
/// it.
std::optional<RingPointers> locate_ring(const memory::Snapshot& snapshot, bool packed, const QueueState& ring);

/// The host memory that one queue's ring lies in. Belongs to the queue's loop.
class RingMemory {
 public:
  /// Looks for the ring on the newest map. Null: some part is not mapped, or is mapped with too few rights.
  std::optional<RingPointers> find(MemoryView& view, bool packed, const QueueState& ring);
  void forget();

  /// The device has stored into the ring. Notes all that it writes there.
  void note_stores(const MemoryView& view) const {
    if (view.writes().has_log()) [[unlikely]]
      note_written_parts(view.writes());
  }

  /// Whether the last find() found the ring.
  bool found() const { return memory_[0] != nullptr; }
  /// The generation of the map that find() looked at.
  std::uint64_t generation() const { return generation_; }
  /// Whether the file behind a part has shrunk (see HostMemory::poisoned). The ring has been found.
  bool poisoned() const {
    for (std::size_t i = 0; i < ring_parts; ++i) {
      if (memory_[i]->poisoned(bytes_[i].data(), bytes_[i].size())) [[unlikely]]
        return true;
    }
    return false;
  }

 private:
  void note_written_parts(const memory::DeviceWrites& writes) const;

  std::uint64_t generation_ = 0;
  std::array<std::shared_ptr<memory::HostMemory>, ring_parts> memory_;
  std::array<Bytes, ring_parts> bytes_;  ///< the parts, in that memory
  std::array<memory::IovaRange, ring_parts> written_{};  ///< where the device writes; size 0: nowhere in that part
};

}  // namespace outboard::virtio
