#pragma once

#include <string>

#include <outboard/base/fd.hpp>
#include <outboard/base/result.hpp>

namespace outboard::command {

/// The default journal of a server.
std::string vduse_journal(const std::string& name, const std::string& run = "/run/outboard");
/// The file whose lock gives the right to use a device's name.
std::string vduse_lock(const std::string& name, const std::string& run = "/run/outboard");
/// Takes that lock, and makes the folder if it does not exist. EBUSY: a server holds it; the error names the server.
Result<UniqueFd> take_vduse_lock(const std::string& name);

}  // namespace outboard::command
