#pragma once

#include <map>
#include <vector>

#include <outboard/base/result.hpp>
#include <outboard/memory/iova.hpp>

namespace outboard::memory {

/// Allocates I/O addresses from the valid ranges of a device, lowest first, so that they stay within short DMA masks as long as
/// possible. Never allocates address 0, which some devices interpret as "none". One thread.
class IovaAllocator {
 public:
  explicit IovaAllocator(std::vector<IovaRange> valid);

  /// `alignment`: a power of two. `highest`: the last address that may be used. ENOSPC.
  Result<IovaRange> allocate(std::uint64_t size, std::uint64_t alignment, Iova highest);
  void release(IovaRange range) { used_.erase(range.start); }

 private:
  std::vector<IovaRange> valid_;  ///< sorted
  std::map<Iova, std::uint64_t> used_;  ///< start to size
};

}  // namespace outboard::memory
