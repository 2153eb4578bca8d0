#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include <outboard/base/result.hpp>

namespace outboard::pci {

/// Where a function is in its machine: domain (segment), bus, device, function. A value; any thread.
struct Address {
  std::uint32_t domain = 0;
  std::uint8_t bus = 0;
  std::uint8_t device = 0;    ///< 0...31
  std::uint8_t function = 0;  ///< 0...7

  /// Reads "0000:00:04.0", or "00:04.0" for domain 0: hexadecimal, as lspci and sysfs write it. EINVAL: it is not one; the
  /// error says what one looks like.
  static Result<Address> parse(std::string_view text);

  /// "0000:00:04.0", the name sysfs and the kernel's VFIO have for it.
  std::string text() const;

  auto operator<=>(const Address&) const = default;
};

}  // namespace outboard::pci
