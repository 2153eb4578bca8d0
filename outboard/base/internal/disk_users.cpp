#include <outboard/base/internal/disk_users.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <system_error>

#include <fmt/format.h>

#include <outboard/base/internal/process.hpp>

namespace outboard {
namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code hidden;
  for (const auto& entry : fs::directory_iterator(folder, hidden)) names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  return names;
}

/// mountinfo and swaps write a space, a tab, a newline and a backslash as \ooo.
std::string unescaped(const std::string& text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned code = 0;
    const char* begin = text.data() + i + 1;
    const bool octal = text[i] == '\\' && i + 3 < text.size() &&
                       std::from_chars(begin, begin + 3, code, 8).ptr == begin + 3 && code < 256;
    result += octal ? static_cast<char>(code) : text[i];
    if (octal) i += 3;
  }
  return result;
}

struct Mount {
  std::string number;  ///< of the file system; some have one of their own
  std::string point;
  std::string type;
  std::string source;
};

/// proc(5), /proc/PID/mountinfo: ID, parent, major:minor, root, mount point, options, ... - type, source, options.
void read_mounts(const fs::path& mountinfo, std::vector<Mount>& mounts) {
  std::ifstream file(mountinfo);
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string id, parent, number, root, point, word, source;
    fields >> id >> parent >> number >> root >> point;
    while (fields >> word && word != "-") {
    }
    std::string type;
    fields >> type >> source;
    mounts.push_back({number, unescaped(point), type, unescaped(source)});
  }
}

std::vector<Mount> mounts_of_self(const fs::path& proc) {
  std::vector<Mount> mounts;
  read_mounts(proc / "self" / "mountinfo", mounts);
  return mounts;
}

/// Other processes may have a view of mounts of their own: containers do.
std::vector<Mount> mounts_of_all(const fs::path& proc) {
  std::vector<Mount> mounts = mounts_of_self(proc);
  std::set<std::string> seen;
  std::error_code hidden;
  for (const std::string& name : names_in(proc)) {
    if (!parse_pid(name)) continue;
    const auto space = fs::read_symlink(proc / name / "ns" / "mnt", hidden).string();
    if (!hidden && seen.insert(space).second) read_mounts(proc / name / "mountinfo", mounts);
  }
  return mounts;
}

/// Whether `path` is `folder` or below it.
bool is_below(const std::string& path, const std::string& folder) {
  if (folder == "/") return path.starts_with('/');
  return path.starts_with(folder) && (path.size() == folder.size() || path[folder.size()] == '/');
}

/// The mount that a path leads to: the innermost, and of those at one point the last. Null: none.
const Mount* mount_of(const std::string& path, const std::vector<Mount>& mounts) {
  const Mount* found = nullptr;
  for (const Mount& mount : mounts) {
    if (is_below(path, mount.point) && (found == nullptr || mount.point.size() >= found->point.size())) found = &mount;
  }
  return found;
}

bool is_node(const DeviceNode& device, const std::string& path) { return path == "/dev/" + device.name; }

/// proc(5), /proc/swaps: the first field is the path.
std::vector<std::string> swaps(const fs::path& proc) {
  std::vector<std::string> paths;
  std::ifstream file(proc / "swaps");
  for (std::string line; std::getline(file, line);)
    paths.push_back(unescaped(line.substr(0, line.find_first_of(" \t"))));
  return paths;
}

bool is_partition(const fs::path& folder) {
  std::error_code hidden;
  return fs::exists(folder / "partition", hidden);
}

std::string backing_file(const fs::path& loop) { return first_line(loop / "loop" / "backing_file"); }

/// What stands on one disk.
class Stack {
 public:
  Stack(std::string_view disk, const std::string& sysfs, const std::string& proc)
      : blocks_(fs::path(sysfs) / "class" / "block"), own_(mounts_of_self(proc)) {
    add(std::string(disk));
    // Each turn may find what stands on what the one before has found.
    for (std::size_t before = 0; before != devices_.size();) {
      before = devices_.size();
      add_loops();
    }
  }

  const std::vector<DeviceNode>& devices() const { return devices_; }
  const std::set<std::string>& above() const { return above_; }

  /// Some filesystems have a device number of their own, and say only by name what they are on.
  bool carries(const Mount& mount) const {
    return std::ranges::any_of(devices_, [&](const DeviceNode& device) {
      return (!device.number.empty() && device.number == mount.number) || is_node(device, mount.source);
    });
  }
  bool carries(const std::string& path) const {
    return std::ranges::any_of(devices_, [&](const DeviceNode& device) { return is_node(device, path); });
  }
  bool carries_path(const std::string& path) const {
    const Mount* mount = mount_of(path, own_);
    return mount != nullptr && carries(*mount);
  }

 private:
  bool has(const std::string& name) const {
    return std::ranges::any_of(devices_, [&](const DeviceNode& device) { return device.name == name; });
  }

  /// A device with its partitions and, in turn, their holders.
  void add(const std::string& name) { add(name, blocks_ / name); }
  void add(const std::string& name, const fs::path& folder) {
    if (has(name)) return;
    devices_.push_back({name, first_line(folder / "dev")});
    for (const std::string& entry : names_in(folder)) {
      if (is_partition(folder / entry)) add(entry, folder / entry);
    }
    for (const std::string& holder : names_in(folder / "holders")) {
      above_.insert(holder);
      add(holder);
    }
  }

  /// A loop device is nobody's holder.
  void add_loops() {
    for (const std::string& name : names_in(blocks_)) {
      if (!name.starts_with("loop") || has(name)) continue;
      const std::string file = backing_file(blocks_ / name);
      if (file.empty() || !(carries(file) || carries_path(file))) continue;
      above_.insert(name);
      add(name);
    }
  }

  fs::path blocks_;
  std::vector<Mount> own_;
  std::vector<DeviceNode> devices_;
  std::set<std::string> above_;
};

std::string number_of(dev_t device) { return fmt::format("{}:{}", major(device), minor(device)); }

/// Which of the devices an open file is; null: none.
const DeviceNode* find(const struct stat& open_one, const std::vector<DeviceNode>& devices,
                       const std::vector<std::optional<struct stat>>& nodes) {
  const bool block = S_ISBLK(open_one.st_mode), character = S_ISCHR(open_one.st_mode);
  const std::string number = number_of(open_one.st_rdev);
  for (std::size_t i = 0; i < devices.size(); ++i) {
    const bool same_kind = devices[i].kind == DeviceNode::Kind::block ? block : character;
    if (same_kind && number == devices[i].number) return &devices[i];
    // A node that is no device: on a machine that is played.
    if (!block && !character && nodes[i] && is_same_file(*nodes[i], open_one)) return &devices[i];
  }
  return nullptr;
}

}  // namespace

std::vector<DeviceNode> devices_on_disk(std::string_view disk, const std::string& sysfs, const std::string& proc) {
  return Stack(disk, sysfs, proc).devices();
}

namespace {

std::vector<std::string> users_of(const Stack& stack, const std::string& proc) {
  std::set<std::string> users = stack.above();
  for (const Mount& mount : mounts_of_all(proc)) {
    if (stack.carries(mount)) users.insert(mount.point);
  }
  for (const std::string& swap : swaps(proc)) {
    if (stack.carries(swap)) users.insert("swap");
  }
  return {users.begin(), users.end()};
}

/// A block device and what the kernel says of it.
struct Folder {
  DeviceNode device;
  fs::path path;
};

Folder folder_in(const fs::path& path) { return {{path.filename().string(), first_line(path / "dev")}, path}; }

/// See devices_claimed_with().
std::vector<Folder> claimed_with(std::string_view device, const std::string& sysfs) {
  if (device.empty()) return {};
  std::error_code hidden;
  // That of a partition lies in that of its disk.
  const fs::path own = fs::canonical(fs::path(sysfs) / "class" / "block" / device, hidden);
  if (hidden) return {};
  std::vector<Folder> folders{folder_in(own)};
  if (is_partition(own)) folders.push_back(folder_in(own.parent_path()));
  for (const std::string& entry : names_in(own)) {
    if (is_partition(own / entry)) folders.push_back(folder_in(own / entry));
  }
  return folders;
}

/// The types of file systems that have a disk each: proc(5), /proc/filesystems, without those that are marked "nodev".
std::set<std::string> types_with_a_disk(const fs::path& proc) {
  std::set<std::string> types;
  std::ifstream file(proc / "filesystems");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with('\t')) types.insert(line.substr(1));
  }
  return types;
}

/// What may claim disks.
struct Claims {
  std::vector<Mount> mounts;
  std::set<std::string> types;
  std::vector<std::string> swaps;

  /// Those that say by name what they are on: btrfs. A type may have another word behind a dot: "fuseblk.ntfs".
  bool is_on(const Mount& mount, const DeviceNode& device) const {
    if (!device.number.empty() && mount.number == device.number) return true;
    // A file system that has the number of another device is on that one, whatever it calls it.
    if (!mount.number.starts_with("0:")) return false;
    return is_node(device, mount.source) && types.contains(mount.type.substr(0, mount.type.find('.')));
  }
  std::set<std::string> on(const Folder& folder) const {
    std::set<std::string> found;
    for (const std::string& holder : names_in(folder.path / "holders")) found.insert(holder);
    for (const Mount& mount : mounts) {
      if (is_on(mount, folder.device)) found.insert(mount.point);
    }
    const auto is_it = [&](const std::string& swap) { return is_node(folder.device, swap); };
    if (std::ranges::any_of(swaps, is_it)) found.insert("swap");
    return found;
  }
};

}  // namespace

std::vector<std::string> users_of_disk(std::string_view disk, const std::string& sysfs, const std::string& proc) {
  return users_of(Stack(disk, sysfs, proc), proc);
}

std::vector<DeviceNode> devices_claimed_with(std::string_view device, const std::string& sysfs) {
  std::vector<DeviceNode> devices;
  for (const Folder& folder : claimed_with(device, sysfs)) devices.push_back(folder.device);
  return devices;
}

std::vector<std::string> claimants_of(std::string_view device, const std::string& sysfs, const std::string& proc) {
  const Claims claims{.mounts = mounts_of_all(proc), .types = types_with_a_disk(proc), .swaps = swaps(proc)};
  std::vector<std::string> found;
  for (const Folder& folder : claimed_with(device, sysfs)) {
    const std::string& name = folder.device.name;
    for (const std::string& who : claims.on(folder))
      found.push_back(name == device ? who : fmt::format("{} (on {})", who, name));
  }
  return found;
}

std::vector<std::string> loops_on(std::string_view device, const std::string& sysfs) {
  const fs::path blocks = fs::path(sysfs) / "class" / "block";
  std::vector<std::string> loops;
  for (const std::string& name : names_in(blocks)) {
    if (name.starts_with("loop") && backing_file(blocks / name) == fmt::format("/dev/{}", device))
      loops.push_back(name);
  }
  return loops;
}

bool is_on_disk(dev_t number, std::string_view disk, const std::string& sysfs, const std::string& proc) {
  const std::string text = number_of(number);
  const Stack stack(disk, sysfs, proc);
  const auto is_it = [&](const auto& one) { return one.number == text; };
  if (std::ranges::any_of(stack.devices(), is_it)) return true;
  return std::ranges::any_of(mounts_of_all(proc),
                             [&](const Mount& mount) { return is_it(mount) && stack.carries(mount); });
}

bool path_is_on_disk(const std::string& path, std::string_view disk, const std::string& sysfs,
                     const std::string& proc) {
  return Stack(disk, sysfs, proc).carries_path(path);
}

std::vector<DeviceOpener> openers_of(const std::vector<DeviceNode>& devices, const std::string& proc,
                                     const std::string& dev) {
  std::vector<std::optional<struct stat>> nodes(devices.size());
  for (std::size_t i = 0; i < devices.size(); ++i) {
    struct stat found{};
    if (::stat(fmt::format("{}/{}", dev, devices[i].name).c_str(), &found) == 0) nodes[i] = found;
  }
  std::vector<DeviceOpener> openers;
  for (const std::string& name : names_in(proc)) {
    const auto pid = parse_pid(name);
    if (!pid || *pid == ::getpid()) continue;
    const fs::path process = fs::path(proc) / name;
    for (const std::string& descriptor : names_in(process / "fd")) {
      struct stat open_one{};
      if (!stat_without_sync(process / "fd" / descriptor, open_one)) continue;
      const DeviceNode* device = find(open_one, devices, nodes);
      if (device == nullptr) continue;
      openers.push_back({{*pid, process_name(*pid, proc)}, device->name});
      break;
    }
  }
  return openers;
}

Result<UniqueFd> claim_disk(std::string_view disk, const std::string& dev) {
  const std::string node = fmt::format("{}/{}", dev, disk);
  UniqueFd fd(::open(node.c_str(), O_RDONLY | O_EXCL | O_NONBLOCK | O_CLOEXEC));
  if (!fd) return Error::from_errno("claiming the disk").on(node);
  return fd;
}

}  // namespace outboard
