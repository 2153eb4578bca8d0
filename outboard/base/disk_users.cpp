#include <outboard/base/disk_users.hpp>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include <fmt/format.h>

namespace outboard {
namespace {

namespace fs = std::filesystem;

/// A block device, or a partition of one.
struct Part {
  std::string name;    ///< "vda1"
  std::string number;  ///< "254:1"
};

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::vector<Part> parts_of(const std::string& sysfs, std::string_view disk) {
  const std::string folder = fmt::format("{}/class/block/{}", sysfs, disk);
  std::vector<Part> parts{{std::string(disk), first_line(folder + "/dev")}};
  std::error_code hidden;
  for (const auto& entry : fs::directory_iterator(folder, hidden)) {
    if (!fs::exists(entry.path() / "partition", hidden)) continue;
    parts.push_back({entry.path().filename().string(), first_line((entry.path() / "dev").string())});
  }
  return parts;
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

/// Some filesystems have a device number of their own, and say only by name what they are on.
bool is_on(const Part& part, const std::string& number, const std::string& source) {
  return (!part.number.empty() && part.number == number) || source == "/dev/" + part.name;
}

/// proc(5), /proc/PID/mountinfo: ID, parent, major:minor, root, mount point, options, ... - type, source, options.
void add_mounts(const fs::path& mountinfo, const std::vector<Part>& parts, std::set<std::string>& users) {
  std::ifstream file(mountinfo);
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string id, parent, number, root, point, word, source;
    fields >> id >> parent >> number >> root >> point;
    while (fields >> word && word != "-") {
    }
    fields >> word >> source;
    const auto mounted = [&](const Part& part) { return is_on(part, number, unescaped(source)); };
    if (std::ranges::any_of(parts, mounted)) users.insert(unescaped(point));
  }
}

/// Other processes may have a view of mounts of their own: containers do.
void add_mounts_of_all(const fs::path& proc, const std::vector<Part>& parts, std::set<std::string>& users) {
  std::set<std::string> seen;
  std::error_code hidden;
  const auto look = [&](const fs::path& process) {
    const auto space = fs::read_symlink(process / "ns" / "mnt", hidden).string();
    if (hidden || !seen.insert(space).second) return;
    add_mounts(process / "mountinfo", parts, users);
  };
  add_mounts(proc / "self" / "mountinfo", parts, users);
  for (const auto& entry : fs::directory_iterator(proc, hidden)) {
    const auto name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") == std::string::npos) look(entry.path());
  }
}

void add_swap(const fs::path& swaps, const std::vector<Part>& parts, std::set<std::string>& users) {
  std::ifstream file(swaps);
  for (std::string line; std::getline(file, line);) {
    const std::string path = unescaped(line.substr(0, line.find_first_of(" \t")));
    if (std::ranges::any_of(parts, [&](const Part& part) { return path == "/dev/" + part.name; })) users.insert("swap");
  }
}

void add_holders(const std::string& sysfs, const std::vector<Part>& parts, std::set<std::string>& users) {
  std::error_code hidden;
  for (const Part& part : parts) {
    for (const auto& entry : fs::directory_iterator(fmt::format("{}/class/block/{}/holders", sysfs, part.name), hidden))
      users.insert(entry.path().filename().string());
  }
}

}  // namespace

std::vector<std::string> users_of_disk(std::string_view disk, const std::string& sysfs, const std::string& proc) {
  const auto parts = parts_of(sysfs, disk);
  std::set<std::string> users;
  add_mounts_of_all(proc, parts, users);
  add_swap(proc + "/swaps", parts, users);
  add_holders(sysfs, parts, users);
  return {users.begin(), users.end()};
}

}  // namespace outboard
