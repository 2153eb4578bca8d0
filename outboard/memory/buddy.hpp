#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

namespace outboard::memory {

/// Carves a power of two of bytes into blocks whose size is a power of two and which are aligned to it. A free block is
/// joined with its other half as soon as that is free too. Knows offsets only. One thread.
class Buddy {
 public:
  static constexpr std::uint64_t smallest = 64;

  /// `size`: a power of two, at least `smallest`.
  explicit Buddy(std::uint64_t size);

  /// The offset of a block of at least `size` bytes (`size` > 0, at most the whole), or nothing.
  std::optional<std::uint64_t> allocate(std::uint64_t size);
  /// Whether there was such a block.
  bool release(std::uint64_t offset);

 private:
  static unsigned order_of(std::uint64_t size);
  std::vector<std::set<std::uint64_t>> free_;  ///< by order: blocks of smallest << order bytes
  std::map<std::uint64_t, unsigned> allocated_;  ///< offset to order
};

}  // namespace outboard::memory
