#include <tools/outboard/lspci/text.hpp>

#include <algorithm>

#include <fmt/format.h>

#include <outboard/pci/registers.hpp>

namespace outboard::command {

namespace {

using pci::BaseAddress;

std::string control_line(pci::Command command) {
  using C = pci::Command;
  return "\tControl: " +
         lspci_flags(command, C::io_space, C::memory_space, C::bus_master, C::special_cycles,
                     C::memory_write_and_invalidate, C::vga_palette_snoop, C::parity_error_response, C::idsel_stepping,
                     C::serr_enable, C::fast_back_to_back, C::interrupt_disable) +
         "\n";
}

std::string status_line(pci::StatusRegister status) {
  using S = pci::StatusRegister;
  static constexpr std::array speeds{"fast", "medium", "slow", "??"};
  return "\tStatus: " +
         lspci_flags(status, S::capabilities_list, S::capable_of_66_mhz, S::user_definable, S::fast_back_to_back,
                     S::master_data_parity_error) +
         fmt::format(" DEVSEL={} ", speeds[status.get(S::devsel_timing)]) +
         lspci_flags(status, S::signaled_target_abort, S::received_target_abort, S::received_master_abort,
                     S::signaled_system_error, S::detected_parity_error, S::interrupt) +
         "\n";
}

/// lspci counts a latency of 1/4 microsecond as 250 ns.
std::string latency_line(const ConfigImage& image) {
  const pci::Command command = image.at<pci::Command>();
  if (command.get(pci::Command::bus_master) == 0) return {};
  std::string text = fmt::format("\tLatency: {}", image.at<pci::LatencyTimer>().value());
  const unsigned min_grant = image.at<pci::MinimumGrant>().value() * 250u;
  const unsigned max_latency = image.at<pci::MaximumLatency>().value() * 250u;
  if (min_grant != 0 || max_latency != 0) {
    const std::string low = min_grant != 0 ? fmt::format("{}ns min", min_grant) : "";
    const std::string high = max_latency != 0 ? fmt::format("{}ns max", max_latency) : "";
    text += fmt::format(" ({}{}{})", low, min_grant != 0 && max_latency != 0 ? ", " : "", high);
  }
  if (const unsigned line = image.at<pci::CacheLineSize>().value(); line != 0)
    text += fmt::format(", Cache Line Size: {} bytes", line * 4);
  return text + "\n";
}

std::string interrupt_text(const ConfigImage& image) {
  const unsigned pin = image.at<pci::InterruptPin>().value();
  if (pin == 0) return {};
  return fmt::format("\tInterrupt: pin {} routed to IRQ {}\n", static_cast<char>('A' + pin - 1),
                     image.at<pci::InterruptLine>().value());
}

/// " [size=16K]", in the largest unit that gives a whole number.
std::string size_note(std::uint64_t size) {
  if (size == 0) return {};
  unsigned unit = 0;
  while (unit < 4 && size % 1024 == 0) {
    size /= 1024;
    ++unit;
  }
  return fmt::format(" [size={}{}]", size, std::string_view(&" KMGT"[unit], unit == 0 ? 0 : 1));
}

std::string memory_bar(const ConfigImage& image, unsigned index, BaseAddress low, bool enabled) {
  static constexpr std::array types{"32-bit", "low-1M", "64-bit", "type 3"};
  const unsigned type = low.get(BaseAddress::type);
  std::uint64_t address = low.value() & ~BaseAddress::memory_flags;
  if (type == BaseAddress::type_64bit && index + 1 < BaseAddress::count)
    address |= std::uint64_t{image.base_address(index + 1).value()} << 32;
  const std::string where = address != 0 ? fmt::format("{:08x}", address) : "<unassigned>";
  return fmt::format("Memory at {} ({}, {}prefetchable){}", where, types[type],
                     low.get(BaseAddress::prefetchable) != 0 ? "" : "non-", enabled ? "" : " [disabled]");
}

std::string io_bar(BaseAddress low, bool enabled) {
  const std::uint32_t address = low.value() & ~BaseAddress::io_flags;
  const std::string where = address != 0 ? fmt::format("{:04x}", address) : enabled ? "0000" : "<unassigned>";
  return fmt::format("I/O ports at {}{}", where, enabled ? "" : " [disabled]");
}

std::string region_lines(const ConfigImage& image) {
  const pci::Command command = image.at<pci::Command>();
  std::string text;
  for (unsigned index = 0; index < BaseAddress::count; ++index) {
    const BaseAddress low = image.base_address(index);
    const std::uint64_t size = image.region_size(index);
    if (low.value() == 0 && size == 0) continue;
    const bool io = low.get(BaseAddress::io_space) != 0;
    text += fmt::format("\tRegion {}: {}{}\n", index,
                        io ? io_bar(low, command.get(pci::Command::io_space) != 0)
                           : memory_bar(image, index, low, command.get(pci::Command::memory_space) != 0),
                        size_note(size));
    if (!io && low.get(BaseAddress::type) == BaseAddress::type_64bit) ++index;
  }
  return text;
}

std::string rom_line(const ConfigImage& image) {
  const pci::ExpansionRomBase rom = image.at<pci::ExpansionRomBase>();
  const std::uint64_t size = image.region_size(pci::region::rom);
  const std::uint32_t address = rom.value() & pci::ExpansionRomBase::address_bits;
  if (rom.value() == 0 && size == 0) return {};
  const bool enabled =
      rom.get(pci::ExpansionRomBase::enable) != 0 && image.at<pci::Command>().get(pci::Command::memory_space) != 0;
  return fmt::format("\tExpansion ROM at {}{}{}\n", address != 0 ? fmt::format("{:08x}", address) : "<unassigned>",
                     enabled ? "" : " [disabled]", size_note(size));
}

std::string subsystem_line(const ConfigImage& image, const PciNames& names) {
  const auto vendor = image.at<pci::SubsystemVendorId>().value(), device = image.at<pci::SubsystemId>().value();
  if (vendor == 0 || vendor == pci::VendorId::absent) return {};
  return fmt::format("\tSubsystem: {}\n", names.subsystem(image.at<pci::VendorId>().value(),
                                                          image.at<pci::DeviceId>().value(), vendor, device));
}

/// lspci leaves the domain out where it is 0.
std::string slot_text(pci::Address address) {
  const std::string text = address.text();
  return address.domain == 0 ? text.substr(text.find(':') + 1) : text;
}

}  // namespace

std::string lspci_flags(std::span<const LspciFlag> flags) {
  std::string text;
  for (const auto& flag : flags)
    text += fmt::format("{}{}{}", text.empty() ? "" : " ", flag.name, flag.set ? '+' : '-');
  return text;
}

std::string lspci_headline(const ConfigImage& image, const PciNames& names) {
  const pci::ClassAndRevision code = image.at<pci::ClassAndRevision>();
  std::string text = fmt::format(
      "{} {}: {}", slot_text(image.address()),
      names.device_class(static_cast<std::uint16_t>(code.get(pci::ClassAndRevision::base_class_and_subclass))),
      names.device(image.at<pci::VendorId>().value(), image.at<pci::DeviceId>().value()));
  if (const unsigned revision = code.get(pci::ClassAndRevision::revision); revision != 0)
    text += fmt::format(" (rev {:02x})", revision);
  const unsigned number = code.get(pci::ClassAndRevision::interface);
  const auto interface = names.interface(code.get(pci::ClassAndRevision::class_code));
  if (number != 0 || interface)
    text += fmt::format(" (prog-if {:02x}{})", number, interface ? " [" + *interface + "]" : "");
  return text;
}

std::string lspci_text(const ConfigImage& image, const PciNames& names) {
  return lspci_headline(image, names) + "\n" + subsystem_line(image, names) + control_line(image.at<pci::Command>()) +
         status_line(image.at<pci::StatusRegister>()) + latency_line(image) + interrupt_text(image) +
         region_lines(image) + rom_line(image) + lspci_capabilities(image);
}

std::string lspci_hex(const ConfigImage& image, std::size_t length) {
  std::string text;
  const Bytes bytes = image.bytes().first(std::min(length, image.size()));
  for (std::size_t row = 0; row < bytes.size(); row += 16) {
    text += fmt::format("{:02x}:", row);
    for (const std::byte byte : bytes.subspan(row, std::min<std::size_t>(16, bytes.size() - row)))
      text += fmt::format(" {:02x}", std::to_integer<unsigned>(byte));
    text += '\n';
  }
  return text;
}

}  // namespace outboard::command
