#include <outboard/vfio/internal/usage.hpp>

#include <linux/if.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <system_error>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <outboard/base/internal/disk_users.hpp>

namespace outboard::vfio {
namespace {

namespace fs = std::filesystem;

/// The names in a folder of /sys/class whose device is below `parent`, sorted.
std::vector<std::string> members_below(const fs::path& class_folder, const fs::path& parent) {
  std::vector<std::string> names;
  std::error_code code;
  const std::string prefix = parent.string() + "/";
  for (fs::directory_iterator at(class_folder, code), end; !code && at != end; at.increment(code)) {
    std::error_code gone;
    const fs::path device = fs::canonical(at->path(), gone);
    if (!gone && device.string().starts_with(prefix)) names.push_back(at->path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

/// The path nvme0c0n1 of a disk with several paths is hidden, and is used as nvme0n1.
std::string disk_of_path(const std::string& name) {
  if (!name.starts_with("nvme")) return name;
  const std::size_t controller = name.find('c', 4), space = name.find('n', 4);
  if (controller == std::string::npos || space == std::string::npos || controller > space) return name;
  return name.substr(0, controller) + name.substr(space);
}

/// What holds a disk without a name in sysfs (ZFS, a driver of somebody else) has it open exclusively.
bool is_claimed(const std::string& disk, const fs::path& dev) {
  const auto claim = claim_disk(disk, dev.string());
  return !claim && claim.error().code() == EBUSY;
}

/// The nodes of a function's devices other than disks: that of an NVMe controller, of a serial port, of a graphics card. What
/// VFIO itself makes is looked at by whoever gives the function back.
std::vector<DeviceNode> other_nodes_below(const fs::path& device, const fs::path& blocks) {
  std::vector<DeviceNode> nodes;
  std::error_code code;
  for (fs::recursive_directory_iterator at(device, code), end; !code && at != end; at.increment(code)) {
    if (at->path().filename() != "dev") continue;
    const fs::path folder = at->path().parent_path();
    std::error_code hidden;
    if (fs::exists(blocks / folder.filename(), hidden) || link_name(folder / "subsystem") == "vfio-dev") continue;
    if (const auto number = read_attribute(at->path()))
      nodes.push_back({folder.filename().string(), *number, DeviceNode::Kind::character});
  }
  return nodes;
}

Usage usage_by_process(const DeviceOpener& opener, std::string_view kind) {
  return {fmt::format("the {} {}", kind, opener.device),
          fmt::format("open in process {} ({})", opener.process.pid, opener.process.command), "end that process first"};
}

std::string cure_of(const std::vector<std::string>& users, const std::string& disk) {
  const std::string& first = users.front();
  if (first.starts_with('/')) return fmt::format("umount {}", first);
  if (first == "swap") return fmt::format("swapoff /dev/{}", disk);
  if (first.starts_with("loop")) return fmt::format("losetup -d /dev/{}", first);
  return fmt::format("close {} first: dmsetup remove, vgchange -an, mdadm --stop, whatever made it", first);
}

std::optional<Usage> usage_of_disk(const std::string& disk, const Sysfs& sysfs, const fs::path& proc,
                                   const fs::path& dev) {
  const auto users = users_of_disk(disk, sysfs.root(), proc);
  if (!users.empty())
    return Usage{fmt::format("the disk {}", disk), fmt::format("in use: {}", fmt::join(users, ", ")),
                 cure_of(users, disk)};
  if (dev.empty()) return std::nullopt;
  // A virtual machine, a database or dd has a disk open without a claim on it: it is nobody's but by its descriptors.
  const auto openers = openers_of(devices_on_disk(disk, sysfs.root(), proc), proc, dev);
  if (!openers.empty()) return usage_by_process(openers.front(), "disk");
  if (is_claimed(disk, dev))
    return Usage{fmt::format("the disk {}", disk), "open exclusively by something",
                 fmt::format("close what uses it: fuser -v /dev/{}; zpool export", disk)};
  return std::nullopt;
}

std::optional<Usage> usage_of_interface(const std::string& name, const fs::path& folder) {
  const auto text = read_attribute(folder / "flags").value_or("");
  unsigned flags = 0;
  if (text.starts_with("0x")) std::from_chars(text.data() + 2, text.data() + text.size(), flags, 16);
  if ((flags & IFF_UP) != 0)
    return Usage{fmt::format("the network interface {}", name), "up", fmt::format("ip link set {} down", name)};
  if (const std::string master = link_name(folder / "master"); !master.empty())
    return Usage{fmt::format("the network interface {}", name), fmt::format("a part of {}", master),
                 fmt::format("ip link set {} nomaster", name)};
  return std::nullopt;
}

}  // namespace

std::vector<Usage> usages_of(const Sysfs& sysfs, pci::Address address, const fs::path& proc, const fs::path& dev) {
  std::vector<Usage> usages;
  std::error_code code;
  const fs::path device = fs::canonical(sysfs.function_folder(address), code);
  if (code) return usages;
  const fs::path blocks = sysfs.root() / "class" / "block", interfaces = sysfs.root() / "class" / "net";
  for (const std::string& name : members_below(blocks, device)) {
    if (fs::exists(blocks / name / "partition", code)) continue;  // its disk has been asked
    if (auto usage = usage_of_disk(disk_of_path(name), sysfs, proc, dev)) usages.push_back(std::move(*usage));
  }
  if (!dev.empty()) {
    const auto openers = openers_of(other_nodes_below(device, blocks), proc, dev);
    if (!openers.empty()) usages.push_back(usage_by_process(openers.front(), "device"));
  }
  for (const std::string& name : members_below(interfaces, device)) {
    if (auto usage = usage_of_interface(name, interfaces / name)) usages.push_back(std::move(*usage));
  }
  return usages;
}

}  // namespace outboard::vfio
