#pragma once

#include <cstdint>
#include <optional>

#include <outboard/base/bytes.hpp>

namespace outboard::command {

/// A pattern of bytes in which each sector of 512 bytes differs: it depends on a seed and the number of the
/// sector. Thread-safe.
class Pattern {
 public:
  static constexpr std::uint64_t sector_size = 512;

  explicit Pattern(std::uint64_t seed) : seed_(seed) {}

  /// Fills `into`, whole sectors from `offset` (a multiple of 512) on.
  void fill(std::uint64_t offset, MutableBytes into) const;
  /// The offset of the first sector that differs from the pattern.
  std::optional<std::uint64_t> first_difference(std::uint64_t offset, Bytes bytes) const;

 private:
  std::uint64_t seed_;
};

}  // namespace outboard::command
