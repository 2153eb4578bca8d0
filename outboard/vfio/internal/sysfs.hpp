#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <outboard/base/result.hpp>
#include <outboard/pci/address.hpp>

namespace outboard::vfio {

/// What sysfs says about a function. Read at one moment; drivers and nodes come and go.
struct FunctionFacts {
  pci::Address address;
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;
  std::uint16_t subsystem_vendor = 0;
  std::uint16_t subsystem = 0;
  std::uint32_t class_code = 0;  ///< 24 bits: base class, subclass, interface
  std::uint8_t revision = 0;
  std::string driver;             ///< empty: none is bound
  std::optional<unsigned> group;  ///< IOMMU group; absent: the device is behind no IOMMU
  bool no_iommu_group = false;    ///< the group is one that VFIO made for a device without an IOMMU
  std::string cdev;               ///< "vfio3", the name below /dev/vfio/devices; empty: none
  std::optional<int> numa_node;   ///< absent: the machine does not say

  /// Whether a driver of VFIO (vfio-pci, or one of its variants for a device: mlx5_vfio_pci) is bound.
  bool bound_to_vfio() const;
};

/// Reads what the kernel says about PCI functions below `root`. Identity only: nothing is written, and no register of a
/// device is read. Missing, too long and unreadable attributes are errors if a function cannot be identified without them
/// (vendor, device, class), else absent. Any thread.
class Sysfs {
 public:
  using FunctionFacts = vfio::FunctionFacts;

  explicit Sysfs(std::filesystem::path root = "/sys") : root_(std::move(root)) {}

  const std::filesystem::path& root() const { return root_; }

  /// ENODEV: there is no such function. EIO: an attribute it must have is not what the kernel writes.
  Result<FunctionFacts> function(pci::Address address) const;

  /// All functions of the machine, sorted by address; empty where there is no PCI bus. Names that are not addresses and
  /// functions that went away meanwhile are left out.
  Result<std::vector<FunctionFacts>> functions() const;

  /// The functions of an IOMMU group, sorted by address. ENODEV: there is no such group. Members that are not PCI
  /// functions are left out.
  Result<std::vector<FunctionFacts>> group_members(unsigned group) const;

  /// The folder of a function: ROOT/bus/pci/devices/0000:00:04.0.
  std::filesystem::path function_folder(pci::Address address) const;

  /// A numeric attribute of a function, decimal or 0x-hexadecimal ("sriov_numvfs"); absent when it is not there or is no
  /// number.
  std::optional<std::uint64_t> number(pci::Address address, const std::string& attribute) const;

 private:
  Result<std::vector<FunctionFacts>> facts_of_folder(const std::filesystem::path& folder) const;
  bool is_no_iommu_group(unsigned group) const;

  std::filesystem::path root_;
};

/// The content of a small file of sysfs or procfs without the line's end: at most one page, which is what an attribute
/// holds. Absent: it cannot be read, or is longer.
std::optional<std::string> read_attribute(const std::filesystem::path& path);

/// The last component of what a link names ("../../bus/pci/drivers/nvme": "nvme"); the target need not exist. Empty: no
/// link.
std::string link_name(const std::filesystem::path& path);

}  // namespace outboard::vfio
