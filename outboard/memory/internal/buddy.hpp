#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

namespace outboard::memory {

/// A buddy allocator: divides a power of two of bytes into blocks whose size is a power of two and which are aligned to it. Two
/// free halves of a block are joined at once. It manages offsets only, no memory. One thread.
class Buddy {
 public:
  static constexpr std::uint64_t min_block = 64;

  /// `size`: a power of two, at least `smallest`.
  explicit Buddy(std::uint64_t size);

  /// The offset of a block of at least `size` bytes (more than 0, at most the whole); nullopt: there is none.
  std::optional<std::uint64_t> allocate(std::uint64_t size);
  /// Frees a block. False: no block is allocated at this offset.
  bool release(std::uint64_t offset);

 private:
  static unsigned order_of(std::uint64_t size);
  std::vector<std::set<std::uint64_t>> free_;  ///< by order: blocks of smallest << order bytes
  std::map<std::uint64_t, unsigned> allocated_;  ///< offset to order
};

}  // namespace outboard::memory
