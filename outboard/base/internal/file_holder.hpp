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

/// Whether both are the same file. Devices are compared by their number, since each container has a node of its own.
bool is_same_file(const struct stat& a, const struct stat& b);

/// The type and identity of the file at `path` (st_mode, st_ino, st_dev, st_rdev), without a request to the server of its file
/// system, which may be dead (FUSE, NFS). False: unknown.
bool stat_without_sync(const std::string& path, struct stat& found);

/// Another process that has `path` open; nullopt: there is none, or this user may not see its descriptors. Any thread.
std::optional<Holder> holder_of(const std::string& path, const std::string& proc = "/proc");

}  // namespace outboard
