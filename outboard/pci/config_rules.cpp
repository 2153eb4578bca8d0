#include <outboard/pci/config_rules.hpp>

#include <algorithm>
#include <array>
#include <utility>

#include <outboard/base/endian.hpp>
#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::pci {

namespace {

namespace cap = capability_id;
namespace ext = extended_capability_id;
using enum ConfigAction;
using enum ConfigTreatment;

constexpr std::uint32_t all = UINT32_MAX;
constexpr std::uint16_t at(ConfigOffset offset) { return raw(offset); }
constexpr ConfigStructure header{};
constexpr ConfigStructure standard(std::uint16_t id) { return {ConfigPart::capability, id}; }
constexpr ConfigStructure extended(std::uint16_t id) { return {ConfigPart::extended_capability, id}; }

constexpr std::uint32_t command_emulated = Command::io_space.mask | Command::memory_space.mask |
                                           Command::bus_master.mask | Command::parity_error_response.mask |
                                           Command::serr_enable.mask | Command::interrupt_disable.mask;
constexpr std::uint32_t command_bus_master = Command::bus_master.mask;

// Bits of AER: PCI Express Base, 7.8.4. Uncorrectable and correctable errors that an endpoint may report.
constexpr std::uint32_t uncorrectable = 0x03FFF031, correctable = 0x0000F1C1, aer_control = 0x0140;

/// A row of the header, whose columns are: offset, width | kernel virtual, write | exporter virtual, write | emulated write,
/// write one clears | action.
constexpr ConfigRule head(std::uint16_t offset, std::uint8_t width, OverlayMasks kernel, OverlayMasks exporter,
                          std::uint32_t emulated, std::uint32_t clears = 0, ConfigAction action = none) {
  return {.in = header,
          .offset = offset,
          .width = width,
          .kernel = kernel,
          .exporter = exporter,
          .emulated_write = emulated,
          .write_one_clears = clears,
          .action = action};
}

constexpr ConfigRule row(ConfigStructure in, std::uint16_t offset, std::uint8_t width, OverlayMasks kernel,
                         OverlayMasks exporter, std::uint32_t emulated, std::uint32_t clears = 0,
                         ConfigAction action = none) {
  ConfigRule rule = head(offset, width, kernel, exporter, emulated, clears, action);
  rule.in = in;
  return rule;
}

constexpr ConfigRule msi(std::uint8_t forms, std::uint16_t offset, std::uint8_t width, OverlayMasks kernel,
                         OverlayMasks exporter, std::uint32_t emulated, ConfigAction action = none) {
  ConfigRule rule = row(standard(cap::msi), offset, width, kernel, exporter, emulated, 0, action);
  rule.forms = forms;
  return rule;
}

/// AER keeps everything through a reset of the function.
constexpr ConfigRule aer(std::uint16_t offset, std::uint32_t write, std::uint32_t emulated, std::uint32_t clears) {
  ConfigRule rule =
      row(extended(ext::advanced_error_reporting), offset, 4, {0, write}, {0, write & ~clears}, emulated, clears);
  rule.sticky = all;
  return rule;
}

constexpr OverlayMasks device_only{0, 0}, scratch{all, all}, through{0, all};

constexpr std::uint16_t bar_at(unsigned index) { return at(BaseAddress::offset_of(index)); }

// PCI Local Bus 3.0, 6.1 (header), 6.7 (capabilities); PCI Express Base, chapter 7. The kernel's columns are those of
// Linux' vfio-pci. What the exporter keeps to itself: the addresses of BARs (the host's are nobody's business), Bus Master
// (held back until there is memory), MSI and MSI-X control (interrupts are bound by call, never by register). BIST could
// put a real device out of action and is not forwarded.
// clang-format off
constexpr ConfigRule rules_table[] = {
    //   offset                          width  kernel            exporter                    emulated, clears, action
    head(at(VendorId::offset),              2, {0xFFFF, 0},      device_only,                0),
    head(at(DeviceId::offset),              2, {0xFFFF, 0},      device_only,                0),
    head(at(Command::offset),               2, {0x0400, 0xFFFF}, {command_bus_master, 0xFFFF}, command_emulated, 0, command),
    head(at(StatusRegister::offset),        2, {0x0010, 0},      {0x0010, 0},                0, StatusRegister::write_one_clears),
    head(at(ClassAndRevision::offset),      4, device_only,      device_only,                0),
    head(at(CacheLineSize::offset),         1, {0, 0xFF},        {0, 0xFF},                  0xFF),
    head(at(LatencyTimer::offset),          1, {0, 0xFF},        {0, 0xFF},                  0xFF),
    head(at(HeaderType::offset),            1, device_only,      {HeaderType::multi_function.mask, 0}, 0),
    head(at(BuiltInSelfTest::offset),       1, {0, 0xFF},        device_only,                0),
    head(bar_at(0),                         4, scratch,          scratch,                    all, 0, base_address),
    head(bar_at(1),                         4, scratch,          scratch,                    all, 0, base_address),
    head(bar_at(2),                         4, scratch,          scratch,                    all, 0, base_address),
    head(bar_at(3),                         4, scratch,          scratch,                    all, 0, base_address),
    head(bar_at(4),                         4, scratch,          scratch,                    all, 0, base_address),
    head(bar_at(5),                         4, scratch,          scratch,                    all, 0, base_address),
    head(at(CardbusCis::offset),            4, device_only,      device_only,                0),
    head(at(SubsystemVendorId::offset),     2, device_only,      device_only,                0),
    head(at(SubsystemId::offset),           2, device_only,      device_only,                0),
    head(at(ExpansionRomBase::offset),      4, scratch,          scratch,                    all, 0, base_address),
    head(at(CapabilitiesPointer::offset),   1, {0xFF, 0},        {0xFF, 0},                  0),
    head(at(InterruptLine::offset),         1, {0xFF, 0xFF},     {0xFF, 0xFF},               0xFF),
    head(at(InterruptPin::offset),          1, {0xFF, 0},        {0xFF, 0},                  0),
    head(at(MinimumGrant::offset),          1, device_only,      device_only,                0),
    head(at(MaximumLatency::offset),        1, device_only,      device_only,                0),

    // Power Management. PME is not delivered to whoever drives the device from user space.
    row(standard(cap::power_management), 2, 2, {0xF800, 0},      {0xF800, 0},                0),
    row(standard(cap::power_management), 4, 2, {0x8100, 0x7EFC}, {0x8100, 0x0003},           0x0103, 0x8000, power_state),
    row(standard(cap::power_management), 6, 2, {0, 0xFFFF},      device_only,                0),

    row(standard(cap::vital_product_data), 2, 2, {0xFFFF, 0xFFFF}, {0, 0xFFFF},              0xFFFF, 0, vital_product_data),
    row(standard(cap::vital_product_data), 4, 4, scratch,          through,                  all),

    msi(0,                        0x02, 2, {0x00FF, 0x00FF}, {0xFFFF, 0x0071}, 0x0071, msi_control),
    msi(0,                        0x04, 4, scratch,          {all, 0xFFFFFFFC}, 0xFFFFFFFC),
    msi(msi_form::any_narrow,     0x08, 2, {0xFFFF, 0xFFFF}, {0xFFFF, 0xFFFF}, 0xFFFF),
    msi(msi_form::narrow_masking, 0x0C, 4, through,          through,          all),
    msi(msi_form::narrow_masking, 0x10, 4, device_only,      device_only,      0),
    msi(msi_form::any_wide,       0x08, 4, scratch,          scratch,          all),
    msi(msi_form::any_wide,       0x0C, 2, {0xFFFF, 0xFFFF}, {0xFFFF, 0xFFFF}, 0xFFFF),
    msi(msi_form::wide_masking,   0x10, 4, through,          through,          all),
    msi(msi_form::wide_masking,   0x14, 4, device_only,      device_only,      0),

    row(standard(cap::pci_x), 2, 2, {0, 0xFFFF}, {0, 0xFFFF}, 0),
    row(standard(cap::pci_x), 8, 4, through,     through,     0),

    // PCI Express. Phantom functions would send as somebody else; ARI belongs to the bus above.
    row(standard(cap::express), DeviceControl::in_capability,  2, {0xF0E0, 0xFDFF}, {0x8000, 0x7DFF}, 0xFDFF, 0, device_control),
    row(standard(cap::express), DeviceStatus::in_capability,   2, device_only,      device_only,      0, DeviceStatus::write_one_clears),
    row(standard(cap::express), LinkControl::in_capability,    2, device_only,      device_only,      0x01CB),
    row(standard(cap::express), DeviceControl2::in_capability, 2, {0, 0xFFDF},      {0, 0xFFDF},      0xFFDF),

    row(standard(cap::msix), MsixControl::in_capability, 2, device_only, {0xC000, 0xC000}, 0xC000, 0, msix_control),

    row(standard(cap::advanced_features), AdvancedFeaturesControl::in_capability, 1, {0x01, 0x01}, {0x01, 0}, 0x01, 0, advanced_features),

    //  offset write          emulated       clears
    aer(0x04,  uncorrectable, 0,             uncorrectable),
    aer(0x08,  uncorrectable, uncorrectable, 0),
    aer(0x0C,  uncorrectable, uncorrectable, 0),
    aer(0x10,  correctable,   0,             correctable),
    aer(0x14,  correctable,   correctable,   0),
    aer(0x18,  aer_control,   aer_control,   0),
    aer(0x1C,  0, 0, 0),
    aer(0x20,  0, 0, 0),
    aer(0x24,  0, 0, 0),
    aer(0x28,  0, 0, 0),

    // The selector lies at +4. The kernel lets +8 be written instead, which selects nothing.
    row(extended(ext::power_budgeting), 0x04, 1, device_only, {0, 0xFF},   0xFF),
    row(extended(ext::power_budgeting), 0x08, 1, {0, 0xFF},   device_only, 0),
};
// clang-format on

struct TreatmentRow {
  ConfigStructure structure;
  ConfigTreatment kernel, exporter;
};

/// What is not listed is hidden: nobody knows what writing to it would do. The exporter hides what speaks to the bus or the
/// IOMMU of the host.
constexpr TreatmentRow treatments[] = {
    {standard(cap::power_management), rules, rules},
    {standard(cap::agp), read_only, read_only},
    {standard(cap::vital_product_data), rules, rules},
    {standard(cap::msi), rules, rules},
    {standard(cap::pci_x), rules, rules},
    {standard(cap::hyper_transport), read_only, read_only},
    {standard(cap::vendor_specific), forwarded, forwarded},
    {standard(cap::express), rules, rules},
    {standard(cap::msix), rules, rules},
    {standard(cap::sata), read_only, read_only},
    {standard(cap::advanced_features), rules, rules},
    {extended(ext::advanced_error_reporting), rules, rules},
    {extended(ext::virtual_channel), read_only, read_only},
    {extended(ext::device_serial_number), read_only, read_only},
    {extended(ext::power_budgeting), rules, rules},
    {extended(ext::multi_function_virtual_channel), read_only, read_only},
    {extended(ext::virtual_channel_with_mfvc), read_only, read_only},
    {extended(ext::vendor_specific), forwarded, forwarded},
    {extended(ext::access_control_services), read_only, read_only},
    {extended(ext::alternative_routing_id), read_only, hidden},
    {extended(ext::address_translation_services), read_only, hidden},
    {extended(ext::single_root_io_virtualization), read_only, hidden},
    {extended(ext::multicast), read_only, read_only},
    {extended(ext::page_request_interface), read_only, hidden},
    {extended(ext::resizable_bar), read_only, read_only},
    {extended(ext::dynamic_power_allocation), read_only, read_only},
    {extended(ext::tph_requester), read_only, read_only},
    {extended(ext::latency_tolerance_reporting), read_only, read_only},
    {extended(ext::designated_vendor_specific), forwarded, forwarded},
};

template <typename T>
T load(Bytes image, std::size_t offset) {
  EndianInteger<T, std::endian::little> value;
  if (!range_within(offset, sizeof(T), image.size())) return 0;
  std::memcpy(&value, image.data() + offset, sizeof(T));
  return value;
}

std::uint16_t msi_length(std::uint16_t control) {
  switch (msi_form_of(control)) {
    case msi_form::narrow:
      return 10;
    case msi_form::wide:
      return 14;
    case msi_form::narrow_masking:
      return 20;
    default:
      return 24;
  }
}

/// An endpoint that is part of the root complex has no link registers, and ends before them.
std::uint16_t express_length(std::uint16_t capabilities) {
  const ExpressCapabilities express(capabilities);
  const bool linkless =
      express.get(ExpressCapabilities::device_port_type) == ExpressCapabilities::root_complex_integrated_endpoint;
  if (express.get(ExpressCapabilities::version) == 1) return linkless ? 12 : 20;
  return linkless ? 0x2C : 0x34;
}

std::uint16_t standard_length(std::uint16_t id, Bytes image, std::uint16_t base) {
  const auto second = load<std::uint16_t>(image, base + 2u);
  switch (id) {
    case cap::power_management:
    case cap::vital_product_data:
      return 8;
    case cap::agp:
    case cap::msix:
      return 12;
    case cap::msi:
      return msi_length(second);
    case cap::pci_x:
      return (second & 0x3000) != 0 ? 24 : 8;
    case cap::hyper_transport:
      return (second & 0xE000) == 0x2000 ? 28 : 24;  // the host interface is longer
    case cap::vendor_specific:
      return second & 0xFF;
    case cap::express:
      return express_length(second);
    case cap::sata:
      return (load<std::uint32_t>(image, base + 4u) & 0xF) == 0xF ? 16 : 8;
    case cap::advanced_features:
      return 6;
    default:
      return 0;
  }
}

/// PCI Express Base, 7.9.1: one block for each virtual channel, then the arbitration table.
std::uint16_t virtual_channel_length(Bytes image, std::uint16_t base) {
  const unsigned channels = 1 + (load<std::uint32_t>(image, base + 4u) & 7);
  const auto arbitration = load<std::uint32_t>(image, base + 8u);
  const unsigned phases = (arbitration & 8) != 0 ? 128 : (arbitration & 4) != 0 ? 64 : (arbitration & 2) != 0 ? 32 : 0;
  const unsigned blocks = 0x10 + channels * 0x0C;
  return static_cast<std::uint16_t>(phases == 0 ? blocks : (blocks + 15) / 16 * 16 + phases / 2);
}

std::uint16_t access_control_length(Bytes image, std::uint16_t base) {
  const auto capabilities = load<std::uint16_t>(image, base + 4u);
  if ((capabilities & 0x20) == 0) return 8;
  const unsigned bits = capabilities >> 8 == 0 ? 256 : ((capabilities >> 8) + 31u) / 32 * 32;
  return static_cast<std::uint16_t>(8 + bits / 8);
}

std::uint16_t tph_length(Bytes image, std::uint16_t base) {
  const auto capabilities = load<std::uint32_t>(image, base + 4u);
  const bool table_here = (capabilities >> 9 & 3) == 1;
  return static_cast<std::uint16_t>(table_here ? 12 + 2 * ((capabilities >> 16 & 0x7FF) + 1) : 12);
}

std::uint16_t extended_length(std::uint16_t id, Bytes image, std::uint16_t base) {
  switch (id) {
    case ext::advanced_error_reporting:
      return 0x2C;
    case ext::virtual_channel:
    case ext::multi_function_virtual_channel:
    case ext::virtual_channel_with_mfvc:
      return virtual_channel_length(image, base);
    case ext::device_serial_number:
      return 12;
    case ext::power_budgeting:
    case ext::page_request_interface:
      return 16;
    case ext::vendor_specific:
    case ext::designated_vendor_specific:
      return static_cast<std::uint16_t>(load<std::uint32_t>(image, base + 4u) >> 20);
    case ext::access_control_services:
      return access_control_length(image, base);
    case ext::alternative_routing_id:
    case ext::address_translation_services:
    case ext::latency_tolerance_reporting:
      return 8;
    case ext::single_root_io_virtualization:
      return 0x40;
    case ext::multicast:
      return 0x28;
    case ext::resizable_bar:
      return static_cast<std::uint16_t>(4 + 8 * (load<std::uint32_t>(image, base + 8u) >> 5 & 7));
    case ext::dynamic_power_allocation:
      return static_cast<std::uint16_t>(16 + (load<std::uint32_t>(image, base + 4u) & 0x1F) + 1);
    case ext::tph_requester:
      return tph_length(image, base);
    default:
      return 0;
  }
}

}  // namespace

std::span<const ConfigRule> config_rules() { return rules_table; }

std::span<const ConfigRule> config_rules(ConfigStructure structure) {
  const auto found = std::ranges::equal_range(
      rules_table, structure,
      [](const auto& a, const auto& b) { return std::pair(a.part, a.id) < std::pair(b.part, b.id); }, &ConfigRule::in);
  return {found.begin(), found.end()};
}

ConfigTreatment treatment_of(ConfigPolicy policy, ConfigStructure structure) {
  const auto found = std::ranges::find(treatments, structure, &TreatmentRow::structure);
  if (found == std::end(treatments)) return hidden;
  return policy == ConfigPolicy::kernel_mirror ? found->kernel : found->exporter;
}

std::uint16_t capability_length(ConfigStructure structure, Bytes image, std::uint16_t base) {
  return structure.part == ConfigPart::extended_capability ? extended_length(structure.id, image, base)
                                                           : standard_length(structure.id, image, base);
}

std::uint8_t msi_form_of(std::uint16_t control) {
  const MsiControl value(control);
  const bool wide = value.get(MsiControl::address_64bit) != 0;
  if (value.get(MsiControl::per_vector_masking) != 0) return wide ? msi_form::wide_masking : msi_form::narrow_masking;
  return wide ? msi_form::wide : msi_form::narrow;
}

}  // namespace outboard::pci
