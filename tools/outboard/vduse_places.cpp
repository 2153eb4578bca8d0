#include <tools/outboard/vduse_places.hpp>

#include <filesystem>

#include <fmt/format.h>

#include <outboard/vduse/stale_server.hpp>

namespace outboard::command {

std::string vduse_journal(const std::string& name, const std::string& run) {
  return fmt::format("{}/vduse/{}.journal", run, name);
}

std::string vduse_lock(const std::string& name, const std::string& run) {
  return fmt::format("{}/vduse/{}.lock", run, name);
}

Result<UniqueFd> take_vduse_lock(const std::string& name) {
  const std::string path = vduse_lock(name);
  const std::string folder = std::filesystem::path(path).parent_path().string();
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed)
    return Error(failed.value(), "making a folder for locks: " + failed.message()).on(folder).cure("run as root");
  return vduse::lock_name(path, Duration(0));
}

}  // namespace outboard::command
