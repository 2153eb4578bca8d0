#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

#include <outboard/base/result.hpp>

namespace outboard {

using Bytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

/// a + b; nothing if it overflows.
constexpr std::optional<std::uint64_t> checked_add(std::uint64_t a, std::uint64_t b) {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

/// a * b; nothing if it overflows.
constexpr std::optional<std::uint64_t> checked_multiply(std::uint64_t a, std::uint64_t b) {
  std::uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

/// Whether [offset, offset + length) lies within [0, size). Compares by subtraction, so a peer's values cannot overflow.
constexpr bool range_within(std::uint64_t offset, std::uint64_t length, std::uint64_t size) {
  return offset <= size && length <= size - offset;
}

/// The bytes of a layout struct of endian types, as they go on a wire.
template <typename T>
  requires std::is_trivially_copyable_v<T>
Bytes as_bytes_of(const T& value) {
  return std::as_bytes(std::span<const T, 1>(&value, 1));
}

template <typename T>
  requires std::is_trivially_copyable_v<T>
MutableBytes as_writable_bytes_of(T& value) {
  return std::as_writable_bytes(std::span<T, 1>(&value, 1));
}

/// Copies all of `from` to the beginning of `to`, which must not overlap it. Ends the process if `to` is smaller: the caller has
/// checked sizes that a peer chose. Always memcpy(): compilers make a loop of std::ranges::copy() of std::byte.
inline void copy_bytes(Bytes from, MutableBytes to) {
  if (from.size() > to.size()) [[unlikely]]
    std::abort();
  if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
}

/// Reads a peer's bytes from front to back. Every read is checked and copied; nothing is cast in place.
class ByteReader {
 public:
  explicit ByteReader(Bytes bytes) : rest_(bytes) {}

  std::size_t remaining() const { return rest_.size(); }
  Bytes rest() const { return rest_; }

  /// The next sizeof(T) bytes, copied. EINVAL: fewer are left.
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  Result<T> read() {
    if (rest_.size() < sizeof(T)) return too_short(sizeof(T));
    T value;
    std::memcpy(&value, rest_.data(), sizeof(T));
    rest_ = rest_.subspan(sizeof(T));
    return value;
  }

  /// The next `length` bytes, not copied. EINVAL: fewer are left.
  Result<Bytes> take(std::size_t length) {
    if (rest_.size() < length) return too_short(length);
    const Bytes taken = rest_.first(length);
    rest_ = rest_.subspan(length);
    return taken;
  }

 private:
  Error too_short(std::size_t wanted) const {
    return Error(EINVAL, "the message is too short: " + std::to_string(wanted) + " bytes wanted, " +
                             std::to_string(rest_.size()) + " left");
  }

  Bytes rest_;
};

/// Writes to a fixed piece of memory from front to back. Every write is checked.
class ByteWriter {
 public:
  explicit ByteWriter(MutableBytes bytes) : all_(bytes) {}

  std::size_t written() const { return written_; }
  std::size_t remaining() const { return all_.size() - written_; }

  /// ENOSPC: `bytes` do not fit, and nothing is written.
  Status write_bytes(Bytes bytes) {
    if (bytes.size() > remaining()) return Error(ENOSPC, "no room for " + std::to_string(bytes.size()) + " bytes");
    copy_bytes(bytes, all_.subspan(written_));
    written_ += bytes.size();
    return {};
  }

  template <typename T>
    requires std::is_trivially_copyable_v<T>
  Status write(const T& value) {
    return write_bytes(as_bytes_of(value));
  }

 private:
  MutableBytes all_;
  std::size_t written_ = 0;
};

}  // namespace outboard
