#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace outboard::command {

/// Names of PCI numbers: built-in ones for virtio devices and their classes, and those of pci.ids if it is
/// installed.
class PciNames {
 public:
  /// The built-in names and those of the first readable file.
  static PciNames load(std::initializer_list<const char*> files = {"/usr/share/misc/pci.ids",
                                                                   "/usr/share/hwdata/pci.ids"});

  /// As lspci prints them: the name, or "Device 1042" and the like.
  std::string device(std::uint16_t vendor, std::uint16_t device) const;
  std::string subsystem(std::uint16_t vendor, std::uint16_t device, std::uint16_t subsystem_vendor,
                        std::uint16_t subsystem) const;
  std::string device_class(std::uint16_t base_and_subclass) const;
  /// Nothing: the interface has no name.
  std::optional<std::string> interface(std::uint32_t class_code) const;

 private:
  enum class Kind : std::uint8_t { vendor, device, base_class, subclass, interface };
  static std::uint64_t key(Kind kind, std::uint64_t numbers) {
    return static_cast<std::uint64_t>(kind) << 60 | numbers;
  }
  const std::string* find(Kind kind, std::uint64_t numbers) const;
  void add(Kind kind, std::uint64_t numbers, std::string_view name);
  void add_built_in();
  void read_file(const std::string& text);
  void read_line(std::string_view line);

  // The context of the current line of the file.
  std::uint32_t outer_ = 0, middle_ = 0;
  bool in_classes_ = false;
  std::map<std::uint64_t, std::string> names_;
  /// By vendor and device, and vendor and device of the subsystem.
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::string> subsystems_;
};

}  // namespace outboard::command
