#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include <outboard/base/result.hpp>

namespace outboard {

/// Which file it is: an inode number is used again, and with the time of birth no later file is taken for this one.
struct FileBirth {
  dev_t file_system = 0;
  dev_t device = 0;  ///< that it is a node of; 0: it is no device
  std::uint64_t inode = 0;
  std::uint64_t born_seconds = 0;  ///< since 1970; 0 also where the file system does not keep it, or statx() is denied
  std::uint64_t born_nanoseconds = 0;
};

/// Of what an open descriptor, or a path, leads to. Errors as stat().
Result<FileBirth> birth_of(int fd);
Result<FileBirth> birth_of(const std::string& path);

}  // namespace outboard
