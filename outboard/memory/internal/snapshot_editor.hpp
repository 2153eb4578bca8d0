#pragma once

#include <outboard/memory/address_map.hpp>

namespace outboard::memory {

/// Makes the next snapshot from the current one; the two share the chunks that do not change. For AddressMap.
class SnapshotEditor {
 public:
  explicit SnapshotEditor(const Snapshot& from) : next_(from) {}

  bool overlaps(IovaRange range) const;
  /// Whether `range` holds part of a mapping, but not all of it.
  bool cuts(IovaRange range) const;

  /// Adds a mapping. Precondition: it overlaps no other one.
  void insert(Mapping mapping);
  /// Removes the mappings inside `range` and returns their number. Precondition: the range cuts no mapping.
  std::size_t remove(IovaRange range);

  Snapshot take() && { return std::move(next_); }

 private:
  using Chunk = Snapshot::Chunk;
  std::size_t chunk_for(Iova iova) const;
  void replace(std::size_t first, std::size_t last, Chunk mappings);
  Snapshot next_;
};

}  // namespace outboard::memory
