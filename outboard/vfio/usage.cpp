#include <outboard/vfio/usage.hpp>

#include <fcntl.h>
#include <linux/if.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <system_error>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <outboard/base/disk_users.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/base/file_holder.hpp>

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
bool is_claimed(const fs::path& node) {
  const UniqueFd fd(::open(node.c_str(), O_RDONLY | O_EXCL | O_NONBLOCK | O_CLOEXEC));
  return !fd && errno == EBUSY;
}

/// A disk and its partitions, as their nodes are called.
std::vector<std::string> nodes_of(const std::string& disk, const Sysfs& sysfs) {
  std::vector<std::string> names{disk};
  std::error_code code;
  for (fs::directory_iterator at(sysfs.root() / "class" / "block" / disk, code), end; !code && at != end;
       at.increment(code)) {
    std::error_code hidden;
    if (fs::exists(at->path() / "partition", hidden)) names.push_back(at->path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

/// A virtual machine, a database or dd has a disk open without a claim on it: it is nobody's but by its descriptors.
std::optional<Usage> usage_by_process(const std::string& disk, const Sysfs& sysfs, const fs::path& proc,
                                      const fs::path& dev) {
  for (const std::string& name : nodes_of(disk, sysfs)) {
    if (const auto holder = holder_of((dev / name).string(), proc.string()))
      return Usage{fmt::format("the disk {}", name),
                   fmt::format("open in process {} ({})", holder->pid, holder->command), "end that process first"};
  }
  return std::nullopt;
}

std::string cure_of(const std::vector<std::string>& users, const std::string& disk) {
  const std::string& first = users.front();
  if (first.starts_with('/')) return fmt::format("umount {}", first);
  if (first == "swap") return fmt::format("swapoff /dev/{}", disk);
  return fmt::format("close {} first: dmsetup remove, vgchange -an, mdadm --stop, whatever made it", first);
}

std::optional<Usage> usage_of_disk(const std::string& disk, const Sysfs& sysfs, const fs::path& proc,
                                   const fs::path& dev) {
  const auto users = users_of_disk(disk, sysfs.root(), proc);
  if (!users.empty())
    return Usage{fmt::format("the disk {}", disk), fmt::format("in use: {}", fmt::join(users, ", ")),
                 cure_of(users, disk)};
  if (dev.empty()) return std::nullopt;
  if (auto usage = usage_by_process(disk, sysfs, proc, dev)) return usage;
  if (is_claimed(dev / disk))
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
  for (const std::string& name : members_below(interfaces, device)) {
    if (auto usage = usage_of_interface(name, interfaces / name)) usages.push_back(std::move(*usage));
  }
  return usages;
}

}  // namespace outboard::vfio
