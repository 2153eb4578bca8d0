#pragma once

#include <string>

#include <outboard/storage/image.hpp>

namespace outboard::storage {

/// Finds out which of discarding and zeroing the storage can do at once, and notes it in `image.geometry`: for a block
/// device by the limits of its queue in sysfs, for a file by its file system. May wait for the storage. `sys` is where sysfs is.
void measure_ranges(Image& image, const std::string& sys = "/sys");

}  // namespace outboard::storage
