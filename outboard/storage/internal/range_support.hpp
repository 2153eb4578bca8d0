#pragma once

#include <string>

#include <outboard/storage/internal/image.hpp>

namespace outboard::storage {

/// Determines whether the storage can discard ranges, and whether it can zero them without writing zeros; sets the `can_` fields of
/// `image.geometry`. A block device is judged by the limits of its queue in sysfs, a file by its file system. May block for
/// as long as the storage does. `sys`: the path of sysfs. How much one request may discard is a limit of the device: devices/blk.
void probe_range_support(Image& image, const std::string& sys = "/sys");

}  // namespace outboard::storage
