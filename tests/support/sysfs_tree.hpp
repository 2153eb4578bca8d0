#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <outboard/vfio/internal/sysfs.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::testing {

/// A machine's /sys in a folder of its own, as much of it as the room `vfio` reads. A failure to write ends the test
/// program: nothing could be tested.
class SysfsTree {
 public:
  struct Function {
    std::string address;  ///< "0000:00:04.0"
    std::uint16_t vendor = 0x1234;
    std::uint16_t device = 0x11e8;
    std::uint32_t class_code = 0x00ff00;
    std::string driver;             ///< empty: none
    std::optional<unsigned> group;  ///< absent: behind no IOMMU
    std::string cdev;               ///< "vfio3"; empty: none
  };

  SysfsTree();

  vfio::Sysfs sysfs() const { return vfio::Sysfs(root()); }
  std::string root() const { return dir_.path("sys"); }
  /// The path of something in the tree: path("bus/pci/drivers").
  std::string path(std::string_view inside) const { return root() + "/" + std::string(inside); }
  static std::string folder(std::string_view address) { return "bus/pci/devices/" + std::string(address); }

  /// Adds a function, with its driver and its group, or puts other facts in the place of its old ones.
  void add(const Function& function) const;
  /// Binds another driver (empty: none), as the kernel would show it.
  void bind(std::string_view address, std::string_view driver) const;

  /// Writes a file (with its folders) in the place of what is there.
  void write(std::string_view inside, std::string_view content) const;
  /// Makes a link (with its folders) in the place of what is there.
  void link(std::string_view inside, std::string_view target) const;
  void remove(std::string_view inside) const;
  /// The content of a file; empty: there is none.
  std::string read(std::string_view inside) const;

 private:
  TempDir dir_;
};

}  // namespace outboard::testing
