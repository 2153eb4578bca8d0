#include <algorithm>
#include <charconv>
#include <fstream>

#include <fmt/format.h>

#include <outboard/vduse/internal/netlink_spec.hpp>
#include <tools/outboard/doctor/doctor.hpp>

/// The findings about VDUSE, in the order in which to fix them.
namespace outboard::command {

namespace {

using State = Finding::State;

Finding management_device(const std::string& root, vduse::Netlink& netlink) {
  Finding finding{"vDPA netlink", "putting VDUSE devices on the bus", State::ok, "management device 'vduse'", {}};
  const auto devices = netlink.management_devices();
  const auto is_vduse = [](const vduse::ManagementDevice& device) {
    return device.bus.empty() && device.name == vduse::spec::netlink::management_device;
  };
  if (devices && std::ranges::any_of(*devices, is_vduse)) return finding;
  finding.state = State::missing;
  finding.detail = devices ? "there is no management device 'vduse'" : devices.error().message();
  finding.cure = fmt::format("{}; in a container: attach from outside, in the initial network namespace",
                             load_module(root, "vduse", "CONFIG_VDPA_USER"));
  return finding;
}

/// The effective capabilities of this process.
std::uint64_t capabilities(const std::string& root) {
  std::ifstream status(root + "/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    static constexpr std::string_view label = "CapEff:\t";
    if (!line.starts_with(label)) continue;
    std::uint64_t bits = 0;
    std::from_chars(line.data() + label.size(), line.data() + line.size(), bits, 16);
    return bits;
  }
  return 0;
}

Finding net_admin(const std::string& root) {
  static constexpr unsigned cap_net_admin = 12;
  Finding finding{"CAP_NET_ADMIN", "attaching VDUSE devices, and making network devices", State::ok, "effective", {}};
  if ((capabilities(root) >> cap_net_admin & 1) != 0) return finding;
  finding.state = State::denied;
  finding.detail = "not effective";
  finding.cure = gain_right("run as root; or serve with --no-attach what root has made: outboard vduse create --help",
                            "start the container with --cap-add NET_ADMIN and in the host's network namespace, or "
                            "attach from outside: outboard serve blk --no-attach, vdpa dev add");
  return finding;
}

Finding sys_resource(const std::string& root) {
  static constexpr unsigned cap_sys_resource = 24;
  Finding finding{
      "CAP_SYS_RESOURCE", "disks of this kernel that do not hang when memory is short", State::ok, "effective", {}};
  if ((capabilities(root) >> cap_sys_resource & 1) != 0) return finding;
  finding.state = State::denied;
  finding.detail = "not effective";
  finding.cure =
      gain_right("run as root, or give a server on vduse:NAME this capability alone; or serve the image with --direct",
                 "start the container with --cap-add SYS_RESOURCE; or serve the image with --direct");
  return finding;
}

}  // namespace

std::vector<Finding> examine_vduse(const std::string& root, vduse::Netlink& netlink) {
  return {
      module(root, "vduse", "CONFIG_VDPA_USER", "/sys/class/vduse",
             "devices for this kernel, its containers and its VMs"),
      module(root, "virtio_vdpa", "CONFIG_VIRTIO_VDPA", "/sys/bus/vdpa/drivers/virtio_vdpa",
             "VDUSE devices as disks of this kernel"),
      module(root, "vhost_vdpa", "CONFIG_VHOST_VDPA", "/sys/bus/vdpa/drivers/vhost_vdpa",
             "VDUSE devices for QEMU and other programs"),
      device_node(root, "VDUSE", "making VDUSE devices", "/dev/vduse/control",
                  load_module(root, "vduse", "CONFIG_VDPA_USER")),
      management_device(root, netlink),
      net_admin(root),
      sys_resource(root),
  };
}

}  // namespace outboard::command
