#include <outboard/storage/internal/request_queue.hpp>

#include <filesystem>
#include <fstream>
#include <system_error>

#include <sys/sysmacros.h>

#include <fmt/format.h>

namespace outboard::storage {

namespace {

std::string folder_of(const std::string& sys, dev_t device) {
  return fmt::format("{}/dev/block/{}:{}", sys, major(device), minor(device));
}

/// From a file that says "8:0".
std::optional<dev_t> read_device(const std::string& path) {
  std::ifstream file(path);
  unsigned major = 0;
  unsigned minor = 0;
  char colon = 0;
  if (!(file >> major >> colon >> minor) || colon != ':') return std::nullopt;
  return makedev(major, minor);
}

}  // namespace

std::optional<std::uint64_t> request_queue_limit(dev_t device, std::string_view name, const std::string& sys) {
  const std::string folder = folder_of(sys, device);
  std::error_code none;
  const bool is_partition = std::filesystem::exists(folder + "/partition", none);
  const dev_t disk = is_partition ? read_device(folder + "/../dev").value_or(device) : device;
  std::ifstream file(fmt::format("{}/queue/{}", folder_of(sys, disk), name));
  if (std::uint64_t value = 0; file >> value) return value;
  return std::nullopt;
}

}  // namespace outboard::storage
