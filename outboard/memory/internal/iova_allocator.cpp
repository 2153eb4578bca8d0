#include <outboard/memory/internal/iova_allocator.hpp>

#include <algorithm>
#include <iterator>

namespace outboard::memory {
namespace {

/// The first multiple of `alignment` at or above `iova`, if there is one.
std::optional<Iova> align_up(Iova iova, std::uint64_t alignment) {
  const auto sum = checked_add(raw(iova), alignment - 1);
  if (!sum) return std::nullopt;
  return Iova{*sum & ~(alignment - 1)};
}

}  // namespace

IovaAllocator::IovaAllocator(std::vector<IovaRange> valid) : valid_(std::move(valid)) {
  std::erase_if(valid_, [](const IovaRange& range) { return !range.well_formed(); });
  std::ranges::sort(valid_, {}, &IovaRange::start);
}

Result<IovaRange> IovaAllocator::allocate(std::uint64_t size, std::uint64_t alignment, Iova highest) {
  for (const IovaRange& range : valid_) {
    const Iova end = std::min(range.last(), highest);
    auto start = align_up(std::max(range.start, Iova{1}), alignment);
    while (start) {
      const IovaRange candidate{*start, size};
      if (!candidate.well_formed() || candidate.last() > end) break;
      // The one that begins last before the candidate's end is the first that could be in the way.
      const auto after = used_.upper_bound(candidate.last());
      if (after == used_.begin()) {
        used_.emplace(candidate.start, size);
        return candidate;
      }
      const auto before = std::prev(after);
      const IovaRange taken{before->first, before->second};
      if (!taken.overlaps(candidate)) {
        used_.emplace(candidate.start, size);
        return candidate;
      }
      if (taken.last() == Iova{UINT64_MAX}) break;
      start = align_up(taken.last() + 1, alignment);
    }
  }
  return Error(ENOSPC,
               "no " + std::to_string(size) + " bytes of I/O addresses are free up to " + std::to_string(raw(highest)));
}

}  // namespace outboard::memory
