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

/// What configuration space is divided into: the header, up to its end capabilities of the conventional part, behind that
/// the extended ones of PCI Express.
namespace config_size {
constexpr std::uint16_t header = 0x40, conventional = 0x100, express = 0x1000;
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

/// One bit, and what lspci calls it.
template <unsigned bit>
struct Flag : Field<bit> {
  constexpr explicit Flag(const char* the_name) : name(the_name) {}
  const char* name;
};

/// The bits of several fields of one register.
template <typename... Fields>
constexpr std::uint32_t mask_of(Fields...) {
  static_assert(((Fields::mask <= UINT32_MAX) && ...), "the registers of configuration space have at most 32 bits");
  return static_cast<std::uint32_t>((Fields::mask | ...));
}

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
