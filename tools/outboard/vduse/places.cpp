#include <tools/outboard/vduse/places.hpp>

#include <outboard/vduse/internal/stale_server.hpp>

namespace outboard::command {

std::string vduse_journal(const std::string& name, const std::string& run) { return vduse::journal_path(run, name); }

std::string vduse_lock(const std::string& name, const std::string& run) { return vduse::lock_path(run, name); }

Result<UniqueFd> take_vduse_lock(const std::string& name) {
  if (const auto folder = vduse::make_run_folder("/run/outboard"); !folder)
    return Error(folder.error()).cure("run as root");
  return vduse::lock_name(vduse_lock(name), Duration(0));
}

}  // namespace outboard::command
