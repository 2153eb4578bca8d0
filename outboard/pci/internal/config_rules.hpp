#pragma once

#include <cstdint>
#include <span>

#include <outboard/base/bytes.hpp>

/// The behaviour of each register of configuration space, as data. Its offset and fields are in registers.hpp. Three policies
/// use the same rows; see ConfigPolicy.
namespace outboard::pci {

/// Whose configuration space it is.
enum class ConfigPolicy : std::uint8_t {
  emulated,  ///< of a function made in software, without hardware: every bit is virtual
  exporter,  ///< an overlay on a pci::Handle, for a client that may be a virtual machine
  kernel_mirror,  ///< the behaviour of Linux' vfio-pci
};

enum class ConfigPart : std::uint8_t { header, capability, extended_capability };

/// A structure of configuration space: the header, or a capability by its id.
struct ConfigStructure {
  ConfigPart part = ConfigPart::header;
  std::uint16_t id = 0;
  friend constexpr bool operator==(const ConfigStructure&, const ConfigStructure&) = default;
};

/// Registers whose write has an effect beside storing bits.
enum class ConfigAction : std::uint8_t {
  none,
  command,  ///< decoding, bus mastering, INTx disable
  base_address,  ///< sizing: all-ones reads back the size
  power_state,  ///< PMCSR
  vital_product_data,  ///< address and flag
  msi_control,  ///< enable; Multiple Message Enable is clamped
  msix_control,  ///< enable, function mask
  device_control,  ///< bit 15 starts a function level reset, and reads as 0
  advanced_features,  ///< bit 0 starts a function level reset, and reads as 0
};

/// Bits of a register in an overlay. Virtual bits are stored in the overlay, the others are the device's; writes to bits that
/// are not writable are dropped.
struct OverlayMasks {
  std::uint32_t virt = 0;
  std::uint32_t write = 0;
};

/// One row: a register, or a part of it. Offsets are from the start of the structure.
struct ConfigRule {
  ConfigStructure in;
  std::uint16_t offset = 0;
  std::uint8_t width = 1;  ///< 1, 2 or 4 bytes
  OverlayMasks kernel{}, exporter{};
  std::uint32_t emulated_write = 0;  ///< writable bits, if the function has them
  std::uint32_t write_one_clears = 0;  ///< emulated and exporter; the kernel leaves it to the hardware
  std::uint32_t sticky = 0;  ///< emulated: bits that a reset keeps
  ConfigAction action = ConfigAction::none;
  std::uint8_t forms = 0;  ///< of an MSI capability: the layouts that have it (MsiForm); 0: all
};

/// The layouts of an MSI capability: bits of ConfigRule::forms.
namespace msi_form {
constexpr std::uint8_t narrow = 1, wide = 2, narrow_masking = 4, wide_masking = 8;
constexpr std::uint8_t any_narrow = narrow | narrow_masking, any_wide = wide | wide_masking;
}  // namespace msi_form

/// All rows; those of one structure are adjacent, in the order of their offsets.
std::span<const ConfigRule> config_rules();
/// The rows of one structure; empty: it has none.
std::span<const ConfigRule> config_rules(ConfigStructure structure);

/// How a policy treats a capability as a whole.
enum class ConfigTreatment : std::uint8_t {
  hidden,  ///< not in the list
  rules,  ///< by its rows
  read_only,  ///< reads are passed through
  forwarded,  ///< reads and writes are passed through
};

/// EMULATED functions have what they add; `policy` is one of the other two.
ConfigTreatment treatment_of(ConfigPolicy policy, ConfigStructure structure);

/// The size of the capability at `at` of a configuration space, including its header; 0: unknown. It is the size that the
/// device states, not checked against what follows.
std::uint16_t capability_length(ConfigStructure structure, Bytes image, std::uint16_t at);

/// The form of the MSI capability with this Message Control.
std::uint8_t msi_form_of(std::uint16_t control);

}  // namespace outboard::pci
