#pragma once

#include <bit>
#include <concepts>
#include <cstdint>

namespace outboard {

namespace detail {
template <std::unsigned_integral T>
constexpr T byte_swap(T value) {
  if constexpr (sizeof(T) == 1) return value;
  if constexpr (sizeof(T) == 2) return __builtin_bswap16(value);
  if constexpr (sizeof(T) == 4) return __builtin_bswap32(value);
  if constexpr (sizeof(T) == 8) return __builtin_bswap64(value);
}
}  // namespace detail

/// An unsigned integer in the byte order `order`, for a field on a wire or in shared
/// memory. Converts to and from the host's order by assignment. Trivially copyable, so it may be memcpy'd.
/// Naturally aligned; use it in packed layouts only where the specification aligns the field too.
template <std::unsigned_integral T, std::endian order>
class EndianInteger {
 public:
  using value_type = T;

  constexpr EndianInteger() = default;
  constexpr EndianInteger(T value) : stored_(convert(value)) {}  // NOLINT(google-explicit-constructor)
  constexpr operator T() const { return convert(stored_); }      // NOLINT(google-explicit-constructor)

  /// The bits as they lie in memory; for atomic access to the whole field.
  static constexpr EndianInteger from_stored(T stored) {
    EndianInteger result;
    result.stored_ = stored;
    return result;
  }
  constexpr T stored() const { return stored_; }

  constexpr EndianInteger& operator|=(T bits) { return *this = static_cast<T>(T{*this} | bits); }
  constexpr EndianInteger& operator&=(T bits) { return *this = static_cast<T>(T{*this} & bits); }

 private:
  static constexpr T convert(T value) { return order == std::endian::native ? value : detail::byte_swap(value); }

  T stored_{};
};

using le16 = EndianInteger<std::uint16_t, std::endian::little>;
using le32 = EndianInteger<std::uint32_t, std::endian::little>;
using le64 = EndianInteger<std::uint64_t, std::endian::little>;
using be16 = EndianInteger<std::uint16_t, std::endian::big>;
using be32 = EndianInteger<std::uint32_t, std::endian::big>;
using be64 = EndianInteger<std::uint64_t, std::endian::big>;

}  // namespace outboard
