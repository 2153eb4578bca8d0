#pragma once

#include <cstdint>
#include <span>

#include <outboard/base/bytes.hpp>

/// How each register of configuration space behaves, as data: the one definition of the type 0 header's and each
/// capability's layout. Three policies read the same rows; see ConfigPolicy.
namespace outboard::pci {

/// In whose place configuration space answers.
enum class ConfigPolicy : std::uint8_t {
  emulated,       ///< a function made in software: every bit is ours, there is no hardware behind
  exporter,       ///< laid over a pci::Handle, for a client that may be a virtual machine
  kernel_mirror,  ///< what Linux' vfio-pci shows of a device and lets through to it
};

enum class ConfigPart : std::uint8_t { header, capability, extended_capability };

/// A structure of configuration space: the header, or a capability by its id.
struct ConfigStructure {
  ConfigPart part = ConfigPart::header;
  std::uint16_t id = 0;
  friend constexpr bool operator==(const ConfigStructure&, const ConfigStructure&) = default;
};

/// Registers that act when they are written, beside taking bits.
enum class ConfigAction : std::uint8_t {
  none,
  command,             ///< decoding, bus mastering, INTx disable
  base_address,        ///< sizing: all-ones reads back the size
  power_state,         ///< PMCSR
  vital_product_data,  ///< address and flag
  msi_control,         ///< enable; Multiple Message Enable is clamped
  msix_control,        ///< enable, function mask
  device_control,      ///< bit 15 starts a function level reset, and reads as 0
  advanced_features,   ///< bit 0 starts a function level reset, and reads as 0
};

/// Bits of a register over a device. A virtual bit is kept by us, the others are the device's; a bit that is not writable
/// is dropped.
struct OverlayMasks {
  std::uint32_t virt = 0;
  std::uint32_t write = 0;
};

/// One row: a register, or the part of one whose bits belong together. Offsets are from the start of the structure.
struct ConfigRule {
  ConfigStructure in;
  std::uint16_t offset = 0;
  std::uint8_t width = 1;  ///< 1, 2 or 4 bytes
  OverlayMasks kernel{}, exporter{};
  std::uint32_t emulated_write = 0;  ///< bits that may take what is written, where the function has them
  std::uint32_t write_one_clears = 0;  ///< emulated and exporter; the kernel leaves it to the hardware
  std::uint32_t sticky = 0;  ///< emulated: what a reset keeps
  ConfigAction action = ConfigAction::none;
  std::uint8_t forms = 0;  ///< of an MSI capability: the layouts that have it (MsiForm); 0: all
};

/// The layouts of an MSI capability: bits of ConfigRule::forms.
namespace msi_form {
constexpr std::uint8_t narrow = 1, wide = 2, narrow_masking = 4, wide_masking = 8;
constexpr std::uint8_t any_narrow = narrow | narrow_masking, any_wide = wide | wide_masking;
}  // namespace msi_form

/// All rows; those of one structure lie together, in the order of their offsets.
std::span<const ConfigRule> config_rules();
/// The rows of one structure; empty where it has none.
std::span<const ConfigRule> config_rules(ConfigStructure structure);

/// What becomes of a capability as a whole.
enum class ConfigTreatment : std::uint8_t {
  hidden,  ///< not in the list
  rules,  ///< as its rows say
  read_only,  ///< shown as the device has it
  forwarded,  ///< read and written as the device has it
};

/// EMULATED functions have what they add; `policy` is one of the other two.
ConfigTreatment treatment_of(ConfigPolicy policy, ConfigStructure structure);

/// Bytes that the capability at `at` of a configuration space takes, its header included. 0: not known. What the bytes say
/// is the device's word: the length is not checked against what follows.
std::uint16_t capability_length(ConfigStructure structure, Bytes image, std::uint16_t at);

/// The form of the MSI capability with this Message Control.
std::uint8_t msi_form_of(std::uint16_t control);

}  // namespace outboard::pci
