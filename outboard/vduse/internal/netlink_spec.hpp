#pragma once

#include <cstdint>

/// The generic netlink family `vdpa` (<linux/vdpa.h>): what of it is used here, and nothing else. Names follow the
/// kernel's without their prefixes. Checked against the header of the guest's kernel by a test.
namespace outboard::vduse::spec::netlink {

constexpr const char* family_name = "vdpa";
constexpr std::uint8_t family_version = 1;

/// enum vdpa_command.
namespace command {
constexpr std::uint8_t mgmtdev_get = 2;  ///< can dump
constexpr std::uint8_t dev_new = 3;
constexpr std::uint8_t dev_del = 4;
}  // namespace command

/// enum vdpa_attr.
namespace attribute {
constexpr int mgmtdev_bus_name = 1;           ///< string
constexpr int mgmtdev_dev_name = 2;           ///< string
constexpr int mgmtdev_supported_classes = 3;  ///< u64: a bit for each virtio device ID
constexpr int dev_name = 4;                   ///< string
constexpr int mgmtdev_max_vqs = 15;           ///< u32
constexpr int last_known = 43;
}  // namespace attribute

/// What the module vduse calls its management device. It has no bus.
constexpr const char* management_device = "vduse";

}  // namespace outboard::vduse::spec::netlink
