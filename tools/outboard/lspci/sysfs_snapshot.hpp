#pragma once

#include <filesystem>

#include <tools/outboard/config_image.hpp>
#include <tools/outboard/file_set.hpp>

namespace outboard::command {

/// The files that `lspci -A linux-sysfs -O sysfs.path=ROOT` reads of a function, in ROOT/devices/ADDRESS.
FileSet sysfs_snapshot(const ConfigImage& image, const std::filesystem::path& root);

}  // namespace outboard::command
