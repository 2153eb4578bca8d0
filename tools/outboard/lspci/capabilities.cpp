#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/virtio_pci/registers.hpp>
#include <tools/outboard/lspci/text.hpp>

namespace outboard::command {

namespace {

namespace spec = virtio_pci::spec;

std::string power_management(const ConfigImage& image, std::size_t at) {
  using Capabilities = pci::PowerManagementCapabilities;
  static constexpr std::array auxiliary_current{0, 55, 100, 160, 220, 270, 320, 375};  // mA
  using Control = pci::PowerManagementControl;
  const auto capabilities = image.at<Capabilities>(at);
  const auto control = image.at<Control>(at);
  std::string pme = lspci_flags(capabilities, Capabilities::pme_from_d0, Capabilities::pme_from_d1,
                                Capabilities::pme_from_d2, Capabilities::pme_from_d3hot, Capabilities::pme_from_d3cold);
  std::ranges::replace(pme, ' ', ',');
  return fmt::format("Power Management version {}\n", capabilities.get(Capabilities::version)) +
         fmt::format("\t\tFlags: {} AuxCurrent={}mA PME({})\n",
                     lspci_flags(capabilities, Capabilities::pme_clock, Capabilities::device_specific_initialization,
                                 Capabilities::d1_support, Capabilities::d2_support),
                     auxiliary_current[capabilities.get(Capabilities::aux_current)], pme) +
         fmt::format("\t\tStatus: D{} {} DSel={} DScale={} {}\n", control.get(Control::power_state),
                     lspci_flags(control, Control::no_soft_reset, Control::pme_enable),
                     control.get(Control::data_select), control.get(Control::data_scale),
                     lspci_flags(control, Control::pme_status));
}

std::string msi(const ConfigImage& image, std::size_t at) {
  using Control = pci::MsiControl;
  const auto control = image.at<Control>(at);
  const bool wide = control.get(Control::address_64bit) != 0;
  std::string text = fmt::format("MSI: {} Count={}/{} {}\n", lspci_flags(control, Control::enable),
                                 1u << control.get(Control::multiple_message_enable),
                                 1u << control.get(Control::multiple_message_capable),
                                 lspci_flags(control, Control::per_vector_masking, Control::address_64bit));
  const std::string upper =
      wide ? fmt::format("{:08x}", image.number<std::uint32_t>(at + pci::msi64::upper_address)) : "";
  text +=
      fmt::format("\t\tAddress: {}{:08x}  Data: {:04x}\n", upper, image.number<std::uint32_t>(at + pci::msi64::address),
                  image.number<std::uint16_t>(at + (wide ? pci::msi64::data : pci::msi32::data)));
  if (control.get(Control::per_vector_masking) != 0)
    text += fmt::format("\t\tMasking: {:08x}  Pending: {:08x}\n",
                        image.number<std::uint32_t>(at + (wide ? pci::msi64::mask : pci::msi32::mask)),
                        image.number<std::uint32_t>(at + (wide ? pci::msi64::pending : pci::msi32::pending)));
  return text;
}

std::string msix(const ConfigImage& image, std::size_t at) {
  using Control = pci::MsixControl;
  const auto control = image.at<Control>(at);
  const auto table = image.at<pci::MsixTable>(at);
  const auto pending = image.at<pci::MsixPendingBits>(at);
  return fmt::format("MSI-X: {} Count={} {}\n", lspci_flags(control, Control::enable),
                     control.get(Control::table_size) + 1, lspci_flags(control, Control::function_mask)) +
         fmt::format("\t\tVector table: BAR={} offset={:08x}\n", table.get(pci::MsixTable::bar),
                     table.value() & pci::MsixTable::offset_mask) +
         fmt::format("\t\tPBA: BAR={} offset={:08x}\n", pending.get(pci::MsixPendingBits::bar),
                     pending.value() & pci::MsixPendingBits::offset_mask);
}

/// What lspci calls a structure of virtio; it knows no others.
std::string_view structure_name(spec::Structure type) {
  switch (type) {
    case spec::Structure::common:
      return "CommonCfg";
    case spec::Structure::notify:
      return "Notify";
    case spec::Structure::isr:
      return "ISR";
    case spec::Structure::device:
      return "DeviceCfg";
    default:
      return "<unknown>";
  }
}

/// VIRTIO 1.4, 4.1.4: struct virtio_pci_cap, and the multiplier behind the one for notifications.
std::string virtio(const ConfigImage& image, std::size_t at) {
  using C = spec::Capability;
  const auto type = static_cast<spec::Structure>(image.number<std::uint8_t>(at + offsetof(C, cfg_type)));
  std::string text = fmt::format("Vendor Specific Information: VirtIO: {}\n\t\tBAR={} offset={:08x} size={:08x}",
                                 structure_name(type), image.number<std::uint8_t>(at + offsetof(C, bar)),
                                 image.number<std::uint32_t>(at + offsetof(C, offset)),
                                 image.number<std::uint32_t>(at + offsetof(C, length)));
  if (type == spec::Structure::notify)
    text += fmt::format(" multiplier={:08x}", image.number<std::uint32_t>(at + spec::notify_off_multiplier));
  return text + "\n";
}

bool is_virtio(const ConfigImage& image) {
  const auto device = image.at<pci::DeviceId>().value();
  return image.at<pci::VendorId>().value() == spec::vendor_id && device >= spec::first_transitional_device &&
         device <= spec::last_modern_device;
}

std::string vendor_specific(const ConfigImage& image, std::size_t at) {
  const unsigned length = image.number<std::uint8_t>(at + offsetof(spec::Capability, cap_len));
  if (is_virtio(image) && length >= sizeof(spec::Capability)) return virtio(image, at);
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
