#include <outboard/pci/internal/config_rules.hpp>

#include <algorithm>
#include <array>
#include <utility>

#include <outboard/base/endian.hpp>
#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/express_registers.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::pci {

namespace {

namespace cap = capability_id;
namespace ext = extended_capability_id;
using enum ConfigAction;
using enum ConfigTreatment;

constexpr std::uint32_t all = UINT32_MAX;
constexpr std::uint16_t at(ConfigOffset offset) { return raw(offset); }
constexpr ConfigStructure in_header{};
constexpr ConfigStructure standard(std::uint16_t id) { return {ConfigPart::capability, id}; }
constexpr ConfigStructure extended(std::uint16_t id) { return {ConfigPart::extended_capability, id}; }

/// The bits of a 16-bit register but for these.
template <typename... Fields>
constexpr std::uint32_t all_but(Fields... fields) {
  return 0xFFFF & ~mask_of(fields...);
}

constexpr std::uint32_t command_emulated =
    mask_of(Command::io_space, Command::memory_space, Command::bus_master, Command::parity_error_response,
            Command::serr_enable, Command::interrupt_disable);
constexpr std::uint32_t command_bus_master = mask_of(Command::bus_master);
constexpr std::uint32_t command_interrupts = mask_of(Command::interrupt_disable);
constexpr std::uint32_t has_list = mask_of(StatusRegister::capabilities_list);

using Pmc = PowerManagementCapabilities;
using Pmcsr = PowerManagementControl;
constexpr std::uint32_t pme_support =
    mask_of(Pmc::pme_from_d0, Pmc::pme_from_d1, Pmc::pme_from_d2, Pmc::pme_from_d3hot, Pmc::pme_from_d3cold);
constexpr std::uint32_t pme = mask_of(Pmcsr::pme_enable, Pmcsr::pme_status);
constexpr std::uint32_t power_bits = mask_of(Pmcsr::power_state);

constexpr std::uint32_t msi_bits = mask_of(MsiControl::enable, MsiControl::multiple_message_enable);
constexpr std::uint32_t msix_bits = mask_of(MsixControl::enable, MsixControl::function_mask);

constexpr std::uint32_t reset_bit = mask_of(DeviceControl::initiate_function_level_reset);
constexpr std::uint32_t request_sizes = mask_of(DeviceControl::max_payload_size, DeviceControl::max_read_request_size);
// Phantom functions would send as somebody else.
constexpr std::uint32_t express_bits = all_but(DeviceControl::phantom_functions);
// ARI belongs to the bus above.
constexpr std::uint32_t express_2_bits = all_but(DeviceControl2::ari_forwarding);
constexpr std::uint32_t link_bits =
    mask_of(LinkControl::aspm, LinkControl::read_completion_boundary, LinkControl::common_clock,
            LinkControl::extended_synch, LinkControl::clock_power_management);
constexpr std::uint32_t advanced_reset = mask_of(AdvancedFeaturesControl::initiate_function_level_reset);

constexpr std::uint32_t uncorrectable = UncorrectableErrorStatus::of_endpoints;
constexpr std::uint32_t correctable = CorrectableErrorStatus::of_endpoints;
constexpr std::uint32_t aer_control =
    mask_of(AdvancedErrorControl::ecrc_generation_enable, AdvancedErrorControl::ecrc_check_enable);
constexpr std::uint16_t header_log(unsigned dword) {
  return static_cast<std::uint16_t>(HeaderLog::in_capability + 4 * dword);
}

/// A row of the header, whose columns are: offset, width | kernel virtual, write | exporter virtual, write | emulated write,
/// write one clears | action.
constexpr ConfigRule head(std::uint16_t offset, std::uint8_t width, OverlayMasks kernel, OverlayMasks exporter,
                          std::uint32_t emulated, std::uint32_t clears = 0, ConfigAction action = none) {
  return {.in = in_header,
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
    head(at(Command::offset),               2, {command_interrupts, 0xFFFF}, {command_bus_master, 0xFFFF}, command_emulated, 0, command),
    head(at(StatusRegister::offset),        2, {has_list, 0},    {has_list, 0},              0, StatusRegister::write_one_clears),
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
    row(standard(cap::power_management), Pmc::in_capability, 2, {pme_support, 0}, {pme_support, 0}, 0),
    row(standard(cap::power_management), Pmcsr::in_capability, 2, {pme, 0xFFFF & ~(pme | power_bits)}, {pme, power_bits},
        mask_of(Pmcsr::power_state, Pmcsr::pme_enable), mask_of(Pmcsr::pme_status), power_state),
    row(standard(cap::power_management), Pmcsr::extensions_in_capability, 2, {0, 0xFFFF}, device_only, 0),

    row(standard(cap::vital_product_data), VpdAddress::in_capability, 2, {0xFFFF, 0xFFFF}, {0, 0xFFFF}, 0xFFFF, 0, vital_product_data),
    row(standard(cap::vital_product_data), VpdData::in_capability,    4, scratch,          through,     all),

    msi(0,                        MsiControl::in_capability, 2, {0x00FF, 0x00FF}, {0xFFFF, msi_bits}, msi_bits, msi_control),
    msi(0,                        msi32::address,       4, scratch,          {all, message_address_bits}, message_address_bits),
    msi(msi_form::any_narrow,     msi32::data,          2, {0xFFFF, 0xFFFF}, {0xFFFF, 0xFFFF}, 0xFFFF),
    msi(msi_form::narrow_masking, msi32::mask,          4, through,          through,          all),
    msi(msi_form::narrow_masking, msi32::pending,       4, device_only,      device_only,      0),
    msi(msi_form::any_wide,       msi64::upper_address, 4, scratch,          scratch,          all),
    msi(msi_form::any_wide,       msi64::data,          2, {0xFFFF, 0xFFFF}, {0xFFFF, 0xFFFF}, 0xFFFF),
    msi(msi_form::wide_masking,   msi64::mask,          4, through,          through,          all),
    msi(msi_form::wide_masking,   msi64::pending,       4, device_only,      device_only,      0),

    row(standard(cap::pci_x), PciXCommand::in_capability,    2, {0, 0xFFFF}, {0, 0xFFFF}, 0),
    row(standard(cap::pci_x), PciXEccControl::in_capability, 4, through,     through,     0),

    row(standard(cap::express), DeviceControl::in_capability,  2, {reset_bit | request_sizes, express_bits},
        {reset_bit, express_bits & ~reset_bit}, express_bits, 0, device_control),
    row(standard(cap::express), DeviceStatus::in_capability,   2, device_only, device_only, 0, DeviceStatus::write_one_clears),
    row(standard(cap::express), LinkControl::in_capability,    2, device_only, device_only, link_bits),
    row(standard(cap::express), DeviceControl2::in_capability, 2, {0, express_2_bits}, {0, express_2_bits}, express_2_bits),

    row(standard(cap::msix), MsixControl::in_capability, 2, device_only, {msix_bits, msix_bits}, msix_bits, 0, msix_control),

    row(standard(cap::advanced_features), AdvancedFeaturesControl::in_capability, 1, {advanced_reset, advanced_reset},
        {advanced_reset, 0}, advanced_reset, 0, advanced_features),

    //  offset                                     write          emulated       clears
    aer(UncorrectableErrorStatus::in_capability,   uncorrectable, 0,             uncorrectable),
    aer(UncorrectableErrorMask::in_capability,     uncorrectable, uncorrectable, 0),
    aer(UncorrectableErrorSeverity::in_capability, uncorrectable, uncorrectable, 0),
    aer(CorrectableErrorStatus::in_capability,     correctable,   0,             correctable),
    aer(CorrectableErrorMask::in_capability,       correctable,   correctable,   0),
    aer(AdvancedErrorControl::in_capability,       aer_control,   aer_control,   0),
    aer(header_log(0), 0, 0, 0),
    aer(header_log(1), 0, 0, 0),
    aer(header_log(2), 0, 0, 0),
    aer(header_log(3), 0, 0, 0),

    // The kernel lets the data be written instead of the selector, which selects nothing.
    row(extended(ext::power_budgeting), PowerBudgetingSelect::in_capability, 1, device_only, {0, 0xFF},   0xFF),
    row(extended(ext::power_budgeting), PowerBudgetingData::in_capability,   1, {0, 0xFF},   device_only, 0),
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
      return msi32::unmasked_length;
    case msi_form::wide:
      return msi64::unmasked_length;
    case msi_form::narrow_masking:
      return msi32::length;
    default:
      return msi64::length;
  }
}

/// An endpoint that is part of the root complex has no link registers, and ends before them.
std::uint16_t express_length(std::uint16_t capabilities) {
  const ExpressCapabilities express(capabilities);
  const bool linkless =
      express.get(ExpressCapabilities::device_port_type) == ExpressCapabilities::root_complex_integrated_endpoint;
  if (express.get(ExpressCapabilities::version) == 1)
    return linkless ? LinkCapabilities::in_capability : ExpressCapabilities::slot_in_capability;
  return linkless ? LinkCapabilities2::in_capability : ExpressCapabilities::slot_2_in_capability;
}

std::uint16_t standard_length(std::uint16_t id, Bytes image, std::uint16_t base) {
  const auto second = load<std::uint16_t>(image, base + 2u);
  switch (id) {
    case cap::power_management:
      return PowerManagementControl::capability_length;
    case cap::vital_product_data:
      return VpdAddress::capability_length;
    case cap::agp:
      return 12;
    case cap::msix:
      return MsixControl::capability_length;
    case cap::msi:
      return msi_length(second);
    case cap::pci_x:
      return PciXCommand(second).get(PciXCommand::version) != 0 ? PciXCommand::capability_length_with_ecc
                                                                : PciXCommand::capability_length;
    case cap::hyper_transport:
      return (second & 0xE000) == 0x2000 ? 28 : 24;  // the host interface is longer
    case cap::vendor_specific:
      return second & 0xFF;
    case cap::express:
      return express_length(second);
    case cap::sata:
      return (load<std::uint32_t>(image, base + 4u) & 0xF) == 0xF ? 16 : 8;
    case cap::advanced_features:
      return AdvancedFeaturesCapabilities::capability_length;
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
      return AdvancedErrorControl::capability_length;
    case ext::virtual_channel:
    case ext::multi_function_virtual_channel:
    case ext::virtual_channel_with_mfvc:
      return virtual_channel_length(image, base);
    case ext::device_serial_number:
      return 12;
    case ext::power_budgeting:
      return PowerBudgetingSelect::capability_length;
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
