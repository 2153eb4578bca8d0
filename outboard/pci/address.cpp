#include <outboard/pci/address.hpp>

#include <charconv>
#include <optional>

#include <fmt/format.h>

namespace outboard::pci {
namespace {

constexpr std::uint32_t max_bus = 0xff;
constexpr std::uint32_t max_device = 31;
constexpr std::uint32_t max_function = 7;

/// `least` to `most` hexadecimal digits and nothing else.
std::optional<std::uint32_t> digits(std::string_view text, std::size_t min_size, std::size_t max_size) {
  if (text.size() < min_size || text.size() > max_size) return std::nullopt;
  std::uint32_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (code != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<Address> parsed(std::string_view text) {
  const std::size_t dot = text.rfind('.');
  const std::size_t device_at = text.rfind(':');
  if (dot == std::string_view::npos || device_at == std::string_view::npos || dot < device_at) return std::nullopt;
  std::optional<std::uint32_t> domain = 0;
  std::string_view bus_text = text.substr(0, device_at);
  if (const std::size_t bus_at = bus_text.find(':'); bus_at != std::string_view::npos) {
    // Four digits, or more where a host bridge needs a domain beyond 65535.
    domain = digits(bus_text.substr(0, bus_at), 4, 8);
    bus_text = bus_text.substr(bus_at + 1);
  }
  const auto bus = digits(bus_text, 2, 2);
  const auto device = digits(text.substr(device_at + 1, dot - device_at - 1), 2, 2);
  const auto function = digits(text.substr(dot + 1), 1, 1);
  if (!domain || !bus || !device || !function) return std::nullopt;
  if (*bus > max_bus || *device > max_device || *function > max_function) return std::nullopt;
  return Address{*domain, static_cast<std::uint8_t>(*bus), static_cast<std::uint8_t>(*device),
                 static_cast<std::uint8_t>(*function)};
}

}  // namespace

Result<Address> Address::parse(std::string_view text) {
  if (const auto address = parsed(text)) return *address;
  return Error(EINVAL, fmt::format("'{}' is not the address of a PCI function", text))
      .cure("domain:bus:device.function in hexadecimal, such as 0000:00:04.0; 'outboard pci list' has them all");
}

std::string Address::text() const { return fmt::format("{:04x}:{:02x}:{:02x}.{:x}", domain, bus, device, function); }

}  // namespace outboard::pci
