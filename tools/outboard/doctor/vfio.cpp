#include <unistd.h>

#include <filesystem>
#include <system_error>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <tools/outboard/doctor/doctor.hpp>

/// The findings about real PCI devices, in the order in which to fix them.
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
  finding.cure = "turn on VT-d or AMD-Vi in the firmware; on Intel, boot with intel_iommu=on";
  return finding;
}

bool is_number(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

/// The nodes of what is bound, by their names below /dev/vfio: a group's is its number (noiommu-3 is one of a device without
/// an IOMMU), a device's own is devices/vfio0.
struct Nodes {
  std::vector<std::string> groups, without_iommu, devices;
};

Nodes nodes_of(const std::string& root) {
  Nodes nodes;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root + "/dev/vfio", error)) {
    const std::string name = entry.path().filename().string();
    if (is_number(name)) nodes.groups.push_back(name);
    if (name.starts_with("noiommu-") && is_number(name.substr(8))) nodes.without_iommu.push_back(name);
  }
  for (const auto& entry : fs::directory_iterator(root + "/dev/vfio/devices", error)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("vfio") && is_number(name.substr(4))) nodes.devices.push_back("devices/" + name);
  }
  return nodes;
}

/// Whether devices are opened by nodes of their own: if the kernel has them, and IOMMUFD.
bool is_by_device(const std::string& root, const Nodes& nodes) {
  std::error_code error;
  return !nodes.devices.empty() && (nodes.groups.empty() || fs::exists(root + "/dev/iommu", error));
}

/// What only groups need is not missing if devices have nodes of their own.
Finding for_groups(Finding finding, bool by_device) {
  if (!by_device || finding.state != Finding::State::missing) return finding;
  finding.state = Finding::State::ok;
  finding.detail += ", and not needed: devices have nodes of their own";
  finding.cure = {};
  return finding;
}

/// Checks permissions without opening: an open node is in use for others.
Finding bound_devices(const std::string& root, const Nodes& nodes) {
  Finding finding{"VFIO devices", "functions that are bound to VFIO", State::ok, {}, {}};
  std::vector<std::string> ways = is_by_device(root, nodes) ? nodes.devices : nodes.groups, usable, denied;
  ways.insert(ways.end(), nodes.without_iommu.begin(), nodes.without_iommu.end());
  for (const std::string& name : ways) {
    const std::string node = "/dev/vfio/" + name;
    (::access((root + node).c_str(), R_OK | W_OK) == 0 ? usable : denied).push_back(node);
  }
  if (!denied.empty()) {
    finding.state = State::denied;
    finding.detail = fmt::format("no permission to open {}", fmt::join(denied, ", "));
    finding.cure =
        gain_right(fmt::format("chown {} {}; permanently, with a udev rule: docs/vfio.md", ::getuid(), denied.front()),
                   fmt::format("start the container with --device {}", denied.front()));
    return finding;
  }
  finding.detail = fmt::format("{}", fmt::join(usable, ", "));
  if (!usable.empty()) return finding;
  finding.state = State::missing;
  finding.detail = "no device is bound to vfio-pci";
  finding.cure = "outboard pci list; outboard pci bind BDF --yes";
  return finding;
}

}  // namespace

std::vector<Finding> examine_vfio(const std::string& root) {
  const Nodes nodes = nodes_of(root);
  const bool by_device = is_by_device(root, nodes);
  return {
      iommu(root),
      module(root, "vfio-pci", "CONFIG_VFIO_PCI", "/sys/bus/pci/drivers/vfio-pci", "drivers in user space"),
      for_groups(module(root, "vfio_iommu_type1", "CONFIG_VFIO_IOMMU_TYPE1", "/sys/module/vfio_iommu_type1",
                        "DMA memory of such drivers"),
                 by_device),
      for_groups(device_node(root, "VFIO", "drivers for real PCI devices", "/dev/vfio/vfio",
                             load_module(root, "vfio", "CONFIG_VFIO")),
                 by_device),
      device_node(root, "iommufd", "the newer interface of VFIO; not needed if /dev/vfio/vfio works", "/dev/iommu",
                  "a kernel with CONFIG_IOMMUFD (Debian's has none); modprobe iommufd"),
      bound_devices(root, nodes),
  };
}

}  // namespace outboard::command
