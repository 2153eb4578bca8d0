#include <algorithm>
#include <iterator>

#include <outboard/memory/internal/snapshot_editor.hpp>

namespace outboard::memory {

std::size_t Snapshot::index_of(Iova iova) const {
  const auto after = std::ranges::upper_bound(chunks_, iova, {}, &ChunkRef::first);
  if (after == chunks_.begin()) return nowhere;
  const auto chunk = std::prev(after);
  const Chunk& mappings = *chunk->chunk;
  const auto place =
      std::prev(std::ranges::upper_bound(mappings, iova, {}, [](const Mapping& m) { return m.range.start; }));
  if (place->range.last() < iova) return nowhere;
  return static_cast<std::size_t>(chunk - chunks_.begin()) * chunk_capacity +
         static_cast<std::size_t>(place - mappings.begin());
}

std::size_t Snapshot::next(std::size_t index) const {
  const std::size_t chunk = index / chunk_capacity;
  return index % chunk_capacity + 1 < chunks_[chunk].chunk->size() ? index + 1 : (chunk + 1) * chunk_capacity;
}

Lookup Snapshot::check(IovaRange range, Access access) const {
  bool remote = false;
  const Lookup found = walk(range, access, nullptr, [&](const Mapping& mapping, Iova, std::uint64_t) {
    remote |= !mapping.memory;
    return Lookup::ok;
  });
  return found == Lookup::ok && remote ? Lookup::remote : found;
}

std::byte* Snapshot::contiguous(IovaRange range, Access access) const {
  if (!range.well_formed()) return nullptr;
  const Mapping* mapping = find(range.start);
  const bool usable = mapping != nullptr && mapping->memory && mapping->range.contains(range);
  return usable && allows(mapping->access, access) ? mapping->host(range.start) : nullptr;
}

/// The chunk that holds `iova`, or would: the last that begins at or before it, else the first.
std::size_t SnapshotEditor::chunk_for(Iova iova) const {
  const auto after = std::ranges::upper_bound(next_.chunks_, iova, {}, &Snapshot::ChunkRef::first);
  return after == next_.chunks_.begin() ? 0 : static_cast<std::size_t>(after - next_.chunks_.begin()) - 1;
}

bool SnapshotEditor::overlaps(IovaRange range) const {
  if (next_.chunks_.empty()) return false;
  // The last mapping that begins in or before the range is the only one that can reach into it from the left, and any
  // that begins inside begins at or before the range's end.
  const Chunk& mappings = *next_.chunks_[chunk_for(range.last())].chunk;
  const auto after =
      std::ranges::upper_bound(mappings, range.last(), {}, [](const Mapping& m) { return m.range.start; });
  return after != mappings.begin() && std::prev(after)->range.overlaps(range);
}

bool SnapshotEditor::cuts(IovaRange range) const {
  for (const Iova end : {range.start, range.last()}) {
    const Mapping* mapping = next_.find(end);
    if (mapping != nullptr && !range.contains(mapping->range)) return true;
  }
  return false;
}

/// Puts `mappings`, cut into chunks, where chunks [first, last) are.
void SnapshotEditor::replace(std::size_t first, std::size_t last, Chunk mappings) {
  std::vector<Snapshot::ChunkRef> refs;
  constexpr std::size_t capacity = Snapshot::chunk_capacity;
  // What does not fit into one is cut evenly, which leaves room on both sides, except at the end of the map: addresses
  // are often given out in ascending order, and full chunks stay behind then. No chunk is ever longer than its capacity:
  // a position counts on it.
  const bool at_end = last == next_.chunks_.size();
  while (!mappings.empty()) {
    const std::size_t pieces = (mappings.size() + capacity - 1) / capacity;
    const std::size_t size = at_end ? std::min(mappings.size(), capacity) : (mappings.size() + pieces - 1) / pieces;
    const auto cut = mappings.begin() + static_cast<std::ptrdiff_t>(size);
    Chunk rest(std::make_move_iterator(cut), std::make_move_iterator(mappings.end()));
    mappings.erase(cut, mappings.end());
    const Iova start = mappings.front().range.start;
    refs.push_back({start, std::make_shared<const Chunk>(std::move(mappings))});
    mappings = std::move(rest);
  }
  auto& chunks = next_.chunks_;
  const auto at = chunks.erase(chunks.begin() + static_cast<std::ptrdiff_t>(first),
                               chunks.begin() + static_cast<std::ptrdiff_t>(last));
  chunks.insert(at, std::make_move_iterator(refs.begin()), std::make_move_iterator(refs.end()));
}

void SnapshotEditor::insert(Mapping mapping) {
  ++next_.count_;
  if (next_.chunks_.empty()) return replace(0, 0, {std::move(mapping)});
  const std::size_t chunk = chunk_for(mapping.range.start);
  const Chunk& old = *next_.chunks_[chunk].chunk;
  Chunk changed;
  changed.reserve(old.size() + 1);
  const auto at =
      std::ranges::upper_bound(old, mapping.range.start, {}, [](const Mapping& m) { return m.range.start; });
  changed.assign(old.begin(), at);
  changed.push_back(std::move(mapping));
  changed.insert(changed.end(), at, old.end());
  replace(chunk, chunk + 1, std::move(changed));
}

std::size_t SnapshotEditor::remove(IovaRange range) {
  if (next_.chunks_.empty()) return 0;
  std::size_t first = chunk_for(range.start);
  std::size_t last = chunk_for(range.last()) + 1;
  // Small neighbours are taken along, so that a map that was full of holes does not stay a long table of short chunks.
  const auto small = [&](std::size_t chunk) {
    return next_.chunks_[chunk].chunk->size() <= Snapshot::chunk_capacity / 4;
  };
  if (first > 0 && small(first - 1)) --first;
  if (last < next_.chunks_.size() && small(last)) ++last;
  Chunk kept;
  std::size_t before = 0;
  for (std::size_t chunk = first; chunk < last; ++chunk) {
    const Chunk& mappings = *next_.chunks_[chunk].chunk;
    before += mappings.size();
    std::ranges::copy_if(mappings, std::back_inserter(kept),
                         [&](const Mapping& m) { return !range.contains(m.range); });
  }
  const std::size_t removed = before - kept.size();
  if (removed == 0) return 0;
  next_.count_ -= removed;
  replace(first, last, std::move(kept));
  return removed;
}

}  // namespace outboard::memory
