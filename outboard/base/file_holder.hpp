#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>

namespace outboard {

/// A process that has a file open.
struct Holder {
  int pid = 0;
  std::string command;  ///< as /proc/PID/comm has it, printable()
};

/// Whether both are one file. A device has a node of its own in each container: there, its number counts.
bool is_same_file(const struct stat& a, const struct stat& b);

/// Who has `path` open, other than this process; nothing: nobody, or nobody whose descriptors this user may see. Any
/// thread.
std::optional<Holder> holder_of(const std::string& path, const std::string& proc = "/proc");

}  // namespace outboard
