#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>

namespace outboard {

/// A process that has a file open.
struct Holder {
  int pid = 0;
  std::string command;  ///< process_name()
};

/// Whether both are one file. A device has a node of its own in each container: there, its number counts.
bool is_same_file(const struct stat& a, const struct stat& b);

/// What kind of file `path` leads to, and which one (st_mode, st_ino, st_dev, st_rdev), without asking whoever has the file
/// system: a server of one in user space, or on another machine, may be dead. False: nothing is to be learnt.
bool stat_without_sync(const std::string& path, struct stat& found);

/// Who has `path` open, other than this process; nothing: nobody, or nobody whose descriptors this user may see. Any
/// thread.
std::optional<Holder> holder_of(const std::string& path, const std::string& proc = "/proc");

}  // namespace outboard
