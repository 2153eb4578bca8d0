#pragma once

#include <string>

#include <outboard/base/fd.hpp>
#include <outboard/base/result.hpp>

namespace outboard::command {

/// Where a server keeps its journal unless it was told another place.
std::string vduse_journal(const std::string& name, const std::string& run = "/run/outboard");
/// The file whose lock is the right to a device's name.
std::string vduse_lock(const std::string& name, const std::string& run = "/run/outboard");
/// Takes it, and makes its folder where there is none. EBUSY: a server has it, and which.
Result<UniqueFd> take_vduse_lock(const std::string& name);

}  // namespace outboard::command
