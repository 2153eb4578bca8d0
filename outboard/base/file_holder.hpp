#pragma once

#include <optional>
#include <string>

namespace outboard {

/// A process that has a file open.
struct Holder {
  int pid = 0;
  std::string command;  ///< as /proc/PID/comm has it
};

/// Who has `path` open, other than this process; nothing: nobody, or nobody whose descriptors this user may see. Any
/// thread.
std::optional<Holder> holder_of(const std::string& path, const std::string& proc = "/proc");

}  // namespace outboard
