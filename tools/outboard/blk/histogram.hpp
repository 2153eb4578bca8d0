#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace outboard::command {

/// A histogram of durations in nanoseconds, with 64 buckets for each power of two: a value is known to 1/64, from 0 to 2^64.
/// Recording increments one counter and allocates nothing. One thread.
class Histogram {
 public:
  void record(std::uint64_t value) {
    ++counts_[bucket_of(value)];
    ++total_;
    highest_ = std::max(highest_, value);
  }

  std::uint64_t count() const { return total_; }
  std::uint64_t highest() const { return highest_; }

  /// The smallest value that at least `fraction` (0...1) of all recorded values do not exceed, rounded up to the end of its
  /// bucket; 0: nothing was recorded.
  std::uint64_t quantile(double fraction) const;

 private:
  static constexpr unsigned linear_bits = 6;  // values below 2^6 have a bucket each
  static constexpr std::size_t per_power = std::size_t{1} << linear_bits;
  static constexpr std::size_t buckets = per_power * (64 - linear_bits + 1);

  static constexpr std::size_t bucket_of(std::uint64_t value) {
    if (value < per_power) return value;
    const unsigned shift = static_cast<unsigned>(std::bit_width(value)) - linear_bits - 1;
    return per_power * (shift + 1) + ((value >> shift) - per_power);
  }
  static constexpr std::uint64_t highest_in(std::size_t bucket) {
    if (bucket < per_power) return bucket;
    const std::size_t shift = bucket / per_power - 1;
    const std::uint64_t first = (per_power + bucket % per_power) << shift;
    return first + ((std::uint64_t{1} << shift) - 1);
  }

  std::array<std::uint64_t, buckets> counts_{};
  std::uint64_t total_ = 0;
  std::uint64_t highest_ = 0;
};

}  // namespace outboard::command
