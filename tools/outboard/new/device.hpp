#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <outboard/base/result.hpp>
#include <tools/outboard/file_set.hpp>

namespace outboard::command {

/// What `outboard new` makes: a device type in a checkout of the project, or a project of its own.
struct NewDevice {
  enum class Form : std::uint8_t { checkout, standalone };

  Form form = Form::checkout;
  std::string name;
  std::uint32_t device_id = 0;
};

/// The files, from templates/device; FileSet::root is the caller's.
FileSet files_of(const NewDevice& device);

/// Whether a folder is a checkout of the project.
bool is_checkout(const std::filesystem::path& folder);
/// The checkout that `from` lies in. ENOENT: in none.
Result<std::filesystem::path> find_checkout(const std::filesystem::path& from);

/// The device IDs that the device types of a checkout have, and whose they are.
std::map<std::uint32_t, std::string> used_device_ids(const std::filesystem::path& checkout);
/// The highest number for experiments that is not used. ENOSPC: there is none.
Result<std::uint32_t> next_device_id(const std::map<std::uint32_t, std::string>& used);

}  // namespace outboard::command
