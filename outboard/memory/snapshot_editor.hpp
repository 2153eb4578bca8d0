#pragma once

#include <outboard/memory/address_map.hpp>

namespace outboard::memory {

/// Makes the next snapshot out of the current one; what does not change is shared between them. For AddressMap.
class SnapshotEditor {
 public:
  explicit SnapshotEditor(const Snapshot& from) : next_(from) {}

  bool overlaps(IovaRange range) const;
  /// Whether `range` holds part of a mapping, but not all of it.
  bool cuts(IovaRange range) const;

  /// Precondition: overlaps nothing.
  void insert(Mapping mapping);
  /// Removes the mappings inside; precondition: cuts none. Returns how many there were.
  std::size_t remove(IovaRange range);

  Snapshot take() && { return std::move(next_); }

 private:
  using Chunk = Snapshot::Chunk;
  std::size_t chunk_for(Iova iova) const;
  void replace(std::size_t first, std::size_t last, Chunk mappings);
  Snapshot next_;
};

}  // namespace outboard::memory
