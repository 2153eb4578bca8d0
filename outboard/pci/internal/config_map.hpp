#pragma once

#include <cstdint>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/pci/internal/config_rules.hpp>
#include <outboard/pci/register.hpp>

namespace outboard::pci {

/// config_rules() compiled for one function: how each byte of its configuration space is presented to another party, and the
/// initial values of the virtual bits. Immutable.
///
/// Bytes of no capability (gaps and hidden capabilities) are passed through under `kernel_mirror`, as the kernel does; under
/// `exporter` they read as 0, and writes to them are dropped.
class ConfigMap {
 public:
  /// One byte. Virtual bits are stored here; the others are the device's.
  struct Byte {
    std::uint8_t virt = 0;
    std::uint8_t write = 0;
    std::uint8_t write_one_clears = 0;  ///< of the device's bits; exporter only
    bool forwarded = false;  ///< written to the device unchanged, without a read before
    std::uint16_t owner = 0;  ///< index into structures(); gap_owner
    std::uint16_t unit = 0;  ///< an access is cut where this changes
    ConfigAction action = ConfigAction::none;
  };
  /// A structure that is visible, and its bytes.
  struct Placed {
    ConfigStructure structure;
    std::uint16_t at = 0;
    std::uint16_t length = 0;
  };
  static constexpr std::uint16_t gap_owner = 0xFFFF;

  /// `image`: all of the function's configuration space, 256 to 4096 bytes (shorter is filled up with zeros). `policy` is
  /// exporter or kernel_mirror. The capabilities are not trusted: a list that loops is cut, and bytes that two capabilities
  /// claim belong to the first one.
  ConfigMap(ConfigPolicy policy, Bytes image);

  ConfigPolicy policy() const { return policy_; }
  std::size_t size() const { return bytes_.size(); }
  const Byte& at(std::size_t offset) const { return bytes_[offset]; }
  /// The initial values of the virtual bits of each byte.
  Bytes initial() const { return initial_; }
  const std::vector<Placed>& structures() const { return structures_; }
  /// The offset of the first capability with this id, if it is visible.
  const Placed* find(ConfigStructure structure) const;
  /// A capability list of the function loops, or leads nowhere.
  bool broken_list() const { return broken_list_; }

 private:
  void place(ConfigStructure structure, std::uint16_t at, std::uint16_t length, ConfigTreatment treatment);
  void apply_rules(const Placed& placed, std::uint16_t owner);
  void apply_rule(const ConfigRule& rule, std::uint16_t base, std::uint16_t owner, std::uint16_t unit);
  void set_virtual(std::size_t offset, std::uint32_t width, std::uint32_t value);
  void link_standard();
  void link_extended(Bytes image);

  ConfigPolicy policy_;
  std::vector<Byte> bytes_;
  std::vector<std::byte> initial_;
  std::vector<Placed> structures_;
  std::uint16_t units_ = 0;
  bool broken_list_ = false;
};

}  // namespace outboard::pci
