#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <outboard/base/result.hpp>

namespace outboard::command {

/// Checks the name of a new device type: lower-case letters, digits and underscores, a letter first, at most 32; no name
/// that C++, the library, its build or Linux uses where the new name will be used. EINVAL: the error says why.
Status check_device_name(std::string_view name);

/// PCI can express 1 to 63 (VIRTIO 1.4, 4.1.2).
constexpr std::uint32_t max_device_id = 63;
/// VIRTIO 1.4, chapter 5 lists the numbers up to this one.
constexpr std::uint32_t max_assigned_id = 49;

/// EINVAL: not a device ID on PCI, or one that the specification assigns to a device type without `assigned`.
Status check_device_id(std::uint32_t id, bool assigned);

/// water_level: WaterLevel.
std::string class_name(std::string_view name);
/// water_level: WATER_LEVEL.
std::string upper_name(std::string_view name);
/// water_level: Water Level.
std::string title_of(std::string_view name);

}  // namespace outboard::command
