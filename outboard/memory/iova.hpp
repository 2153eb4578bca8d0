#pragma once

#include <compare>
#include <cstdint>
#include <optional>

#include <outboard/base/bytes.hpp>

namespace outboard::memory {

/// An I/O virtual address: a driver puts it into a ring, and a device looks it up in its address map. A separate type, so that
/// it is not confused with a host address, an offset or a length.
enum class Iova : std::uint64_t {};

constexpr std::uint64_t raw(Iova iova) { return static_cast<std::uint64_t>(iova); }
constexpr Iova operator+(Iova iova, std::uint64_t offset) { return Iova{raw(iova) + offset}; }
constexpr auto operator<=>(Iova a, Iova b) { return raw(a) <=> raw(b); }

/// `size` bytes from `start`. May end exactly at 2^64; a range beyond that is not well-formed.
struct IovaRange {
  Iova start{};
  std::uint64_t size = 0;

  constexpr bool well_formed() const { return size != 0 && raw(start) + (size - 1) >= raw(start); }
  /// The last address of a well-formed range.
  constexpr Iova last() const { return Iova{raw(start) + (size - 1)}; }
  constexpr bool contains(const IovaRange& other) const { return start <= other.start && other.last() <= last(); }
  constexpr bool overlaps(const IovaRange& other) const { return start <= other.last() && other.start <= last(); }
  friend constexpr bool operator==(const IovaRange&, const IovaRange&) = default;
};

/// What a *device* may do with memory.
enum class Access : std::uint8_t { read = 1, write = 2, read_write = 3 };
constexpr bool allows(Access granted, Access wanted) {
  return (static_cast<unsigned>(granted) & static_cast<unsigned>(wanted)) == static_cast<unsigned>(wanted);
}

}  // namespace outboard::memory
