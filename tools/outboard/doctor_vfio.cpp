#include <unistd.h>

#include <filesystem>
#include <system_error>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <tools/outboard/doctor.hpp>

/// The rows of `doctor` that are about real PCI devices, in the order in which they have to be mended.
namespace outboard::command {

namespace {

namespace fs = std::filesystem;
using State = Finding::State;

Finding iommu(const std::string& root) {
  Finding finding{"IOMMU", "real devices that can only reach the memory they were given", State::ok, {}, {}};
  std::error_code error;
  std::size_t groups = 0;
  for (const auto& entry : fs::directory_iterator(root + "/sys/kernel/iommu_groups", error))
    groups += entry.is_directory() ? 1 : 0;
  finding.detail = fmt::format("{} group{}", groups, groups == 1 ? "" : "s");
  if (groups > 0) return finding;
  finding.state = State::missing;
  finding.detail = "no groups in /sys/kernel/iommu_groups";
  finding.cure = "switch VT-d or AMD-Vi on in the firmware; boot with intel_iommu=on (AMD's is on by itself)";
  return finding;
}

/// A group's node is its number; noiommu-3 is one of a device without an IOMMU.
bool is_group(const std::string& name) {
  const std::string number = name.starts_with("noiommu-") ? name.substr(8) : name;
  return !number.empty() && number.find_first_not_of("0123456789") == std::string::npos;
}

/// Only looked at: to open a group keeps others out of it.
Finding group_nodes(const std::string& root) {
  Finding finding{"VFIO devices", "those that were handed over to VFIO", State::ok, {}, {}};
  std::vector<std::string> usable, denied;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root + "/dev/vfio", error)) {
    const std::string name = entry.path().filename().string();
    if (!is_group(name)) continue;
    (::access(entry.path().c_str(), R_OK | W_OK) == 0 ? usable : denied).push_back("/dev/vfio/" + name);
  }
  if (!denied.empty()) {
    finding.state = State::denied;
    finding.detail = fmt::format("not for this user: {}", fmt::join(denied, ", "));
    finding.cure = fmt::format("chown {} {}; for good, a udev rule: docs/vfio.md", ::getuid(), denied.front());
    return finding;
  }
  finding.detail = fmt::format("{}", fmt::join(usable, ", "));
  if (!usable.empty()) return finding;
  finding.state = State::missing;
  finding.detail = "no device is bound to vfio-pci";
  finding.cure = "outboard pci list, then: outboard pci bind BDF";
  return finding;
}

}  // namespace

std::vector<Finding> examine_vfio(const std::string& root) {
  return {
      iommu(root),
      module(root, "vfio-pci", "/sys/bus/pci/drivers/vfio-pci", "handing devices over to drivers in user space"),
      module(root, "vfio_iommu_type1", "/sys/module/vfio_iommu_type1", "DMA memory of such drivers"),
      device_node(root, "VFIO", "drivers for real PCI devices", "/dev/vfio/vfio", "modprobe vfio-pci"),
      device_node(root, "iommufd", "the newer interface to the same; not needed where the older one is there",
                  "/dev/iommu", "a kernel with CONFIG_IOMMUFD (Debian's has none), and modprobe iommufd"),
      group_nodes(root),
  };
}

}  // namespace outboard::command
