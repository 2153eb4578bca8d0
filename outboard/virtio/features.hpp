#pragma once

#include <cstdint>
#include <initializer_list>

namespace outboard::virtio {

/// A feature bit's number. Device types define their own (0...23, 50...127) in their layout headers.
enum class Feature : unsigned char {
  // VIRTIO 1.4, 6 Reserved Feature Bits
  indirect_desc = 28,
  event_idx = 29,
  version_1 = 32,
  access_platform = 33,
  ring_packed = 34,
  in_order = 35,
  order_platform = 36,
  sr_iov = 37,
  notification_data = 38,
  notif_config_data = 39,
  ring_reset = 40,
  admin_vq = 41,
  suspend = 43,
};

/// A set of feature bits, 0...127.
class Features {
 public:
  static constexpr unsigned count = 128;  ///< bits that a set can hold
  static constexpr unsigned words = count / 32;  ///< 32-bit words, as registers address them

  constexpr Features() = default;
  /// The set of the bits that are named.
  constexpr Features(std::initializer_list<Feature> bits) {
    for (const Feature bit : bits) set(bit);
  }

  /// Whether `bit` is in the set.
  constexpr bool has(Feature bit) const { return ((half(bit) >> shift(bit)) & 1) != 0; }
  /// Puts `bit` in.
  constexpr void set(Feature bit) { half(bit) |= UINT64_C(1) << shift(bit); }
  /// Takes `bit` out.
  constexpr void clear(Feature bit) { half(bit) &= ~(UINT64_C(1) << shift(bit)); }
  /// This set and `bit`.
  constexpr Features with(Feature bit) const {
    Features more = *this;
    more.set(bit);
    return more;
  }
  /// This set, but for `bit`.
  constexpr Features without(Feature bit) const {
    Features fewer = *this;
    fewer.clear(bit);
    return fewer;
  }

  /// The 32-bit word a feature-select register addresses; 0 beyond the set.
  constexpr std::uint32_t word(std::uint32_t select) const {
    return select < words ? static_cast<std::uint32_t>(halves_[select / 2] >> (32 * (select % 2))) : 0;
  }
  /// Bits 0...63, for interfaces that have no more.
  constexpr std::uint64_t low() const { return halves_[0]; }
  /// Replaces the word `select`; ignored beyond the set.
  constexpr void set_word(std::uint32_t select, std::uint32_t value) {
    if (select >= words) return;
    const unsigned by = 32 * (select % 2);
    halves_[select / 2] = (halves_[select / 2] & ~(UINT64_C(0xffffffff) << by)) | (std::uint64_t{value} << by);
  }

  /// Whether no bit is in the set.
  constexpr bool empty() const { return halves_[0] == 0 && halves_[1] == 0; }
  /// Whether all bits of `other` are in this set.
  constexpr bool contains(const Features& other) const { return (other & *this) == other; }
  /// The bits that are in both.
  friend constexpr Features operator&(Features a, const Features& b) {
    a.halves_[0] &= b.halves_[0];
    a.halves_[1] &= b.halves_[1];
    return a;
  }
  /// The bits that are in either.
  friend constexpr Features operator|(Features a, const Features& b) {
    a.halves_[0] |= b.halves_[0];
    a.halves_[1] |= b.halves_[1];
    return a;
  }
  /// What is in `a` and not in `b`.
  friend constexpr Features operator-(Features a, const Features& b) {
    a.halves_[0] &= ~b.halves_[0];
    a.halves_[1] &= ~b.halves_[1];
    return a;
  }
  friend constexpr bool operator==(const Features&, const Features&) = default;

 private:
  constexpr std::uint64_t& half(Feature bit) { return halves_[static_cast<unsigned>(bit) / 64]; }
  constexpr std::uint64_t half(Feature bit) const { return halves_[static_cast<unsigned>(bit) / 64]; }
  static constexpr unsigned shift(Feature bit) { return static_cast<unsigned>(bit) % 64; }

  std::uint64_t halves_[2] = {0, 0};
};

}  // namespace outboard::virtio
