#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/registers.hpp>
#include <tools/outboard/lspci_text.hpp>

namespace outboard::command {

namespace {

std::string power_management(const ConfigImage& image, std::size_t at) {
  using Capabilities = pci::PowerManagementCapabilities;
  static constexpr std::array auxiliary_current{0, 55, 100, 160, 220, 270, 320, 375};  // mA
  const Capabilities capabilities = image.at<Capabilities>(at);
  const unsigned flags = capabilities.value();
  const unsigned state = image.at<pci::PowerManagementControl>(at).value();
  std::string pme = lspci_flags(flags, {{"D0", 11}, {"D1", 12}, {"D2", 13}, {"D3hot", 14}, {"D3cold", 15}});
  std::ranges::replace(pme, ' ', ',');
  return fmt::format("Power Management version {}\n", capabilities.get(Capabilities::version)) +
         fmt::format("\t\tFlags: {} AuxCurrent={}mA PME({})\n",
                     lspci_flags(flags, {{"PMEClk", 3}, {"DSI", 5}, {"D1", 9}, {"D2", 10}}),
                     auxiliary_current[flags >> 6 & 7], pme) +
         fmt::format("\t\tStatus: D{} {} DSel={} DScale={} {}\n", state & 3,
                     lspci_flags(state, {{"NoSoftRst", 3}, {"PME-Enable", 8}}), state >> 9 & 15, state >> 13 & 3,
                     lspci_flags(state, {{"PME", 15}}));
}

std::string msi(const ConfigImage& image, std::size_t at) {
  const pci::MsiControl control = image.at<pci::MsiControl>(at);
  const bool wide = control.get(pci::MsiControl::address_64bit) != 0;
  std::string text = fmt::format("MSI: {} Count={}/{} {}\n", lspci_flags(control.value(), {{"Enable", 0}}),
                                 1u << control.get(pci::MsiControl::multiple_message_enable),
                                 1u << control.get(pci::MsiControl::multiple_message_capable),
                                 lspci_flags(control.value(), {{"Maskable", 8}, {"64bit", 7}}));
  const std::size_t data = at + (wide ? pci::msi64::data : pci::msi64::upper_address);
  const std::string upper =
      wide ? fmt::format("{:08x}", image.number<std::uint32_t>(at + pci::msi64::upper_address)) : "";
  text += fmt::format("\t\tAddress: {}{:08x}  Data: {:04x}\n", upper,
                      image.number<std::uint32_t>(at + pci::msi64::address), image.number<std::uint16_t>(data));
  if (control.get(pci::MsiControl::per_vector_masking) != 0)
    text += fmt::format("\t\tMasking: {:08x}  Pending: {:08x}\n", image.number<std::uint32_t>(data + 4),
                        image.number<std::uint32_t>(data + 8));
  return text;
}

std::string msix(const ConfigImage& image, std::size_t at) {
  const pci::MsixControl control = image.at<pci::MsixControl>(at);
  const pci::MsixTable table = image.at<pci::MsixTable>(at);
  const pci::MsixPendingBits pending = image.at<pci::MsixPendingBits>(at);
  return fmt::format("MSI-X: {} Count={} {}\n", lspci_flags(control.value(), {{"Enable", 15}}),
                     control.get(pci::MsixControl::table_size) + 1, lspci_flags(control.value(), {{"Masked", 14}})) +
         fmt::format("\t\tVector table: BAR={} offset={:08x}\n", table.get(pci::MsixTable::bar),
                     table.value() & pci::MsixTable::offset_mask) +
         fmt::format("\t\tPBA: BAR={} offset={:08x}\n", pending.get(pci::MsixPendingBits::bar),
                     pending.value() & pci::MsixPendingBits::offset_mask);
}

/// VIRTIO 1.4, 4.1.4: struct virtio_pci_cap, and the multiplier behind the one for notifications.
std::string virtio(const ConfigImage& image, std::size_t at) {
  static constexpr std::size_t type = 3, bar = 4, offset = 8, length = 12, multiplier = 16;
  static constexpr std::array names{"<unknown>", "CommonCfg", "Notify", "ISR", "DeviceCfg"};
  static constexpr unsigned notify = 2;
  const unsigned kind = image.number<std::uint8_t>(at + type);
  std::string text = fmt::format("Vendor Specific Information: VirtIO: {}\n\t\tBAR={} offset={:08x} size={:08x}",
                                 names[kind < names.size() ? kind : 0], image.number<std::uint8_t>(at + bar),
                                 image.number<std::uint32_t>(at + offset), image.number<std::uint32_t>(at + length));
  if (kind == notify) text += fmt::format(" multiplier={:08x}", image.number<std::uint32_t>(at + multiplier));
  return text + "\n";
}

bool is_virtio(const ConfigImage& image) {
  static constexpr std::uint16_t vendor = 0x1AF4, first = 0x1000, last = 0x107F;
  const auto device = image.at<pci::DeviceId>().value();
  return image.at<pci::VendorId>().value() == vendor && device >= first && device <= last;
}

std::string vendor_specific(const ConfigImage& image, std::size_t at) {
  static constexpr unsigned shortest_virtio = 16;
  const unsigned length = image.number<std::uint8_t>(at + 2);
  if (is_virtio(image) && length >= shortest_virtio) return virtio(image, at);
  return fmt::format("Vendor Specific Information: Len={:02x} <?>\n", length);
}

std::string capability(const ConfigImage& image, const pci::Capability& capability) {
  const std::size_t at = pci::raw(capability.offset);
  switch (capability.id) {
    case pci::capability_id::null:
      return "Null\n";
    case pci::capability_id::power_management:
      return power_management(image, at);
    case pci::capability_id::msi:
      return msi(image, at);
    case pci::capability_id::vendor_specific:
      return vendor_specific(image, at);
    case pci::capability_id::express:
      return lspci_express(image, at);
    case pci::capability_id::msix:
      return msix(image, at);
    default:
      return fmt::format("Capability ID {:#02x} [{:04x}]\n", capability.id, image.number<std::uint16_t>(at + 2));
  }
}

std::string extended_capability(const ConfigImage& image, const pci::Capability& capability) {
  namespace id = pci::extended_capability_id;
  const std::size_t at = pci::raw(capability.offset);
  switch (capability.id) {
    case id::device_serial_number: {
      std::string text = "Device Serial Number";
      for (unsigned byte = 8; byte-- > 0;)
        text += fmt::format("{}{:02x}", byte == 7 ? ' ' : '-', image.number<std::uint8_t>(at + 4 + byte));
      return text + "\n";
    }
    case id::advanced_error_reporting:
      return "Advanced Error Reporting\n";
    case id::access_control_services:
      return "Access Control Services\n";
    case id::alternative_routing_id:
      return "Alternative Routing-ID Interpretation (ARI)\n";
    case id::single_root_io_virtualization:
      return "Single Root I/O Virtualization (SR-IOV)\n";
    default:
      return fmt::format("Extended Capability ID {:#02x}\n", capability.id);
  }
}

}  // namespace

std::string lspci_capabilities(const ConfigImage& image) {
  std::string text;
  for (const auto& [walk, extended] :
       {std::pair(image.capabilities(), false), std::pair(image.extended_capabilities(), true)}) {
    for (std::size_t i = 0; i < walk.found.size(); ++i) {
      const auto& found = walk.found[i];
      const bool last = i + 1 == walk.found.size();
      const std::string version =
          extended && !(last && (walk.looped || walk.broken)) ? fmt::format(" v{}", found.version) : "";
      text += fmt::format("\tCapabilities: [{:02x}{}] ", pci::raw(found.offset), version);
      if (last && walk.looped) {
        text += "<chain looped>\n";
      } else if (last && walk.broken) {
        text += "<chain broken>\n";
      } else {
        text += extended ? extended_capability(image, found) : capability(image, found);
      }
    }
  }
  return text;
}

}  // namespace outboard::command
