#include <tests/support/sysfs_tree.hpp>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <fmt/format.h>

namespace outboard::testing {
namespace {

namespace fs = std::filesystem;

void make_room_for(const fs::path& path) {
  fs::remove_all(path);
  fs::create_directories(path.parent_path());
}

}  // namespace

SysfsTree::SysfsTree() { fs::create_directories(path("bus/pci/devices")); }

void SysfsTree::add(const Function& function) const {
  const std::string where = folder(function.address);
  write(where + "/vendor", fmt::format("0x{:04x}\n", function.vendor));
  write(where + "/device", fmt::format("0x{:04x}\n", function.device));
  write(where + "/subsystem_vendor", "0x1af4\n");
  write(where + "/subsystem_device", "0x1100\n");
  write(where + "/class", fmt::format("0x{:06x}\n", function.class_code));
  write(where + "/revision", "0x10\n");
  write(where + "/numa_node", "-1\n");
  write(where + "/driver_override", "(null)\n");
  bind(function.address, function.driver);
  remove(where + "/vfio-dev");
  if (!function.cdev.empty()) fs::create_directories(path(where + "/vfio-dev/" + function.cdev));
  remove(where + "/iommu_group");
  if (!function.group) return;
  const std::string group = fmt::format("kernel/iommu_groups/{}", *function.group);
  link(where + "/iommu_group", path(group));
  link(group + "/devices/" + function.address, path(where));
}

void SysfsTree::bind(std::string_view address, std::string_view driver) const {
  const std::string where = folder(address) + "/driver";
  remove(where);
  if (driver.empty()) return;
  const std::string driver_folder = "bus/pci/drivers/" + std::string(driver);
  fs::create_directories(path(driver_folder));
  link(where, path(driver_folder));
}

void SysfsTree::write(std::string_view inside, std::string_view content) const {
  make_room_for(path(inside));
  std::ofstream file(path(inside), std::ios::binary);
  file << content;
  file.close();
  if (!file) {
    std::perror(path(inside).c_str());
    std::abort();
  }
}

void SysfsTree::link(std::string_view inside, std::string_view target) const {
  make_room_for(path(inside));
  fs::create_symlink(target, path(inside));
}

void SysfsTree::remove(std::string_view inside) const { fs::remove_all(path(inside)); }

std::string SysfsTree::read(std::string_view inside) const {
  std::ifstream file(path(inside), std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace outboard::testing
