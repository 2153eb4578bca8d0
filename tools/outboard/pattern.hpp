#pragma once

#include <cstdint>
#include <optional>

#include <outboard/base/bytes.hpp>

namespace outboard::command {

/// Bytes that tell where on a disk they belong: each sector of 512 bytes is a different sequence, made from a seed and the
/// sector's number. Thread-safe.
class Pattern {
 public:
  static constexpr std::uint64_t sector_size = 512;

  explicit Pattern(std::uint64_t seed) : seed_(seed) {}

  /// `into`: whole sectors, from `offset` (a multiple of 512) on.
  void fill(std::uint64_t offset, MutableBytes into) const;
  /// The offset of the first sector that is not as fill() would have made it.
  std::optional<std::uint64_t> first_difference(std::uint64_t offset, Bytes bytes) const;

 private:
  std::uint64_t seed_;
};

}  // namespace outboard::command
