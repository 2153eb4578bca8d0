#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>

#include <outboard/base/bytes.hpp>

namespace outboard::fuzz {

/// The bytes of a fuzzed input, taken from the front; zeroes when there are no more. Numbers are little-endian.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}
  bool empty() const { return rest_.empty(); }
  unsigned byte() { return number(1); }
  /// Of `bytes` bytes, at most four.
  std::uint32_t number(unsigned bytes) {
    std::uint32_t value = 0;
    for (unsigned i = 0; i < bytes && !rest_.empty(); ++i, rest_ = rest_.subspan(1))
      value |= std::uint32_t{rest_[0]} << (8 * i);
    return value;
  }
  void fill(MutableBytes into) {
    for (auto& each : into) each = static_cast<std::byte>(byte());
  }
  /// All that is left.
  Bytes rest() const { return std::as_bytes(rest_); }

 private:
  std::span<const std::uint8_t> rest_;
};

/// Ends the program, which is how a fuzzer hears of it, unless `condition` holds.
inline void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "not so: %s\n", what);
  std::abort();
}

}  // namespace outboard::fuzz
