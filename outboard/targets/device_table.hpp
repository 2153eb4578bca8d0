#pragma once

#include <span>
#include <string_view>

#include <outboard/base/options.hpp>
#include <outboard/base/result.hpp>
#include <outboard/pci/function_type.hpp>
#include <outboard/virtio/device_type.hpp>

namespace outboard::targets {

/// A kind of device that this build can make: a virtio device or another PCI function. The table is generated from the calls
/// of outboard_add_device() in CMake; the type of the device's `registration` says which of the two it is.
struct DeviceEntry {
  constexpr DeviceEntry(std::string_view its_name, const virtio::DeviceType* its_type)
      : name(its_name), type(its_type) {}
  constexpr DeviceEntry(std::string_view its_name, const pci::FunctionType* its_type)
      : name(its_name), function(its_type) {}

  std::string_view summary() const { return type != nullptr ? type->summary : function->summary; }
  /// The options of the device itself.
  std::span<const OptionHelp> options() const { return type != nullptr ? type->options : function->options; }

  std::string_view name;  ///< of its folder, and on the command line
  const virtio::DeviceType* type = nullptr;  ///< null: not a virtio device
  const pci::FunctionType* function = nullptr;  ///< null: a virtio device
};

std::span<const DeviceEntry> device_table();

/// EINVAL: no such device; the cure lists the devices.
Result<const DeviceEntry*> find_device(std::string_view name);

}  // namespace outboard::targets
