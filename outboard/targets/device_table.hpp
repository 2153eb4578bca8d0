#pragma once

#include <span>
#include <string_view>

#include <outboard/base/result.hpp>
#include <outboard/virtio/device_type.hpp>

namespace outboard::targets {

/// One kind of device that this build can make. The table is generated from the calls of outboard_add_device() in CMake.
struct DeviceEntry {
  std::string_view name;  ///< of its folder, and on the command line
  const virtio::DeviceType* type;
};

std::span<const DeviceEntry> device_table();

/// EINVAL: there is no such device; the cure lists those that there are.
Result<const virtio::DeviceType*> find_device(std::string_view name);

}  // namespace outboard::targets
