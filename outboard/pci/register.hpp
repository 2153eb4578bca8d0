#pragma once

#include <concepts>
#include <cstdint>

namespace outboard::pci {

/// A byte offset in configuration space (0...4095).
enum class ConfigOffset : std::uint16_t {};
constexpr std::uint16_t raw(ConfigOffset offset) { return static_cast<std::uint16_t>(offset); }
constexpr ConfigOffset operator+(ConfigOffset a, std::uint16_t b) {
  return ConfigOffset(static_cast<std::uint16_t>(raw(a) + b));
}

/// Bits low...high of a register, as the specification's table numbers them.
template <unsigned low, unsigned high = low>
struct Field {
  static_assert(low <= high && high < 64);
  static constexpr unsigned shift = low;
  static constexpr std::uint64_t value_mask =
      (high - low == 63) ? ~UINT64_C(0) : ((UINT64_C(1) << (high - low + 1)) - 1);
  static constexpr std::uint64_t mask = value_mask << low;
};

/// The value of a register of width T. A register type derives from it, names its fields and (in configuration space)
/// its `offset`; see registers.hpp. It does not know where it was read.
template <std::unsigned_integral T>
class Register {
 public:
  using value_type = T;

  constexpr Register() = default;
  constexpr explicit Register(T value) : value_(value) {}

  constexpr T value() const { return value_; }

  template <unsigned low, unsigned high>
  constexpr T get(Field<low, high>) const {
    static_assert(high < 8 * sizeof(T), "the register is narrower than that");
    return static_cast<T>((value_ >> low) & Field<low, high>::value_mask);
  }

 protected:
  T value_{};
};

/// The register with one field changed: `with(command, Command::bus_master, 1)`.
template <typename R, unsigned low, unsigned high>
constexpr R with(R value, Field<low, high>, typename R::value_type field) {
  using F = Field<low, high>;
  static_assert(high < 8 * sizeof(typename R::value_type), "the register is narrower than that");
  return R(static_cast<typename R::value_type>((value.value() & ~F::mask) | ((field & F::value_mask) << low)));
}

}  // namespace outboard::pci
