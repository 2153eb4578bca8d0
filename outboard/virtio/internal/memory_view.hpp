#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include <outboard/memory/address_map.hpp>

namespace outboard::virtio {

/// What one queue sees of its device's address map: a snapshot, the mappings found last, and the snapshots that running
/// I/O still needs. Belongs to the queue's loop.
class MemoryView {
 public:
  /// A snapshot that I/O may be running on. The count is the queue's own, so a pin costs an increment.
  struct Epoch {
    std::shared_ptr<const memory::Snapshot> snapshot;
    std::uint32_t pins = 0;
  };

  explicit MemoryView(const memory::AddressMap& map);

  /// Whether the map has moved on since refresh().
  bool stale() const { return map_->generation() != generation_; }
  /// Takes the newest snapshot. The one before is kept while something pins it.
  void refresh();
  /// The snapshot in use; a host address is good for the one it was found in.
  std::uint64_t generation() const { return generation_; }
  const memory::Snapshot& snapshot() const { return *epoch_->snapshot; }
  /// How the device writes to this memory.
  const memory::DeviceWrites& writes() const { return *writes_; }

  /// The host address of a range that lies in one mapping; null for anything else. The host address is not the I/O address;
  /// `at + length` may wrap.
  std::byte* host(memory::Iova at, std::uint32_t length, memory::Access access) {
    const std::uint64_t offset = raw(at) - recent_[0].start;
    if (offset < recent_[0].size && length <= recent_[0].size - offset && allows(recent_[0].access, access))
        [[likely]] {
      return recent_[0].host + offset;
    }
    return host_elsewhere(at, length, access);
  }

  /// As Snapshot::translate.
  template <typename Each>
  memory::Lookup translate(memory::IovaRange range, memory::Access access, Each&& each) {
    return snapshot().translate(range, access, &hint_, std::forward<Each>(each));
  }
  /// What a translation of the range would say, on the newest map there is; asks the map's resolver about a hole.
  memory::Lookup look_again(memory::IovaRange range, memory::Access access);

  /// Whether some memory of the range is no longer the driver's (see HostMemory::poisoned).
  bool poisoned(memory::IovaRange range) const {
    for (const Recent& recent : recent_) {
      const std::uint64_t offset = raw(range.start) - recent.start;
      if (offset < recent.size && range.size <= recent.size - offset) [[likely]]
        return recent.memory->poisoned(recent.host + offset, range.size);
    }
    return poisoned(snapshot(), range);
  }
  /// The same of memory that was found in `epoch`, and is pinned.
  bool poisoned(const Epoch& epoch, memory::IovaRange range) const {
    return &epoch == epoch_.get() ? poisoned(range) : poisoned(*epoch.snapshot, range);
  }

  Epoch* pin() {
    ++epoch_->pins;
    return epoch_.get();
  }
  void unpin(Epoch* epoch) {
    if (--epoch->pins == 0 && epoch != epoch_.get()) retire(epoch);
  }

 private:
  /// A mapping, taken apart for one compare.
  struct Recent {
    std::uint64_t start = 0;
    std::uint64_t size = 0;
    std::byte* host = nullptr;
    memory::HostMemory* memory = nullptr;
    memory::Access access = memory::Access::read;
  };

  std::byte* host_elsewhere(memory::Iova at, std::uint32_t length, memory::Access access);
  static bool poisoned(const memory::Snapshot& snapshot, memory::IovaRange range);
  void retire(const Epoch* epoch);

  const memory::AddressMap* map_;
  const memory::DeviceWrites* writes_;  ///< of the map, whose snapshots keep it
  std::uint64_t generation_ = 0;
  std::array<Recent, 2> recent_{};  ///< the one hit last comes first
  std::size_t hint_ = 0;
  std::unique_ptr<Epoch> epoch_;
  std::vector<std::unique_ptr<Epoch>> older_;  ///< with pins
};

}  // namespace outboard::virtio
