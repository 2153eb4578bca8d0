#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include <outboard/base/result.hpp>

namespace outboard::pci {

/// The address of a function: domain (segment), bus, device, function. A value; any thread.
struct Address {
  std::uint32_t domain = 0;
  std::uint8_t bus = 0;
  std::uint8_t device = 0;    ///< 0...31
  std::uint8_t function = 0;  ///< 0...7

  /// Parses "0000:00:04.0", or "00:04.0" for domain 0: hexadecimal, as lspci and sysfs write it. EINVAL: not an address; the
  /// error shows one.
  static Result<Address> parse(std::string_view text);

  /// "0000:00:04.0": the name in sysfs and in the kernel's VFIO.
  std::string text() const;

  auto operator<=>(const Address&) const = default;
};

}  // namespace outboard::pci
