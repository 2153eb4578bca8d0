#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include <outboard/base/result.hpp>

namespace outboard {

/// Identifies a file. Inode numbers are reused; the time of birth distinguishes the file from a later one.
struct FileBirth {
  dev_t file_system = 0;
  dev_t device = 0;  ///< device number of a device node; 0: not a device node
  std::uint64_t inode = 0;
  std::uint64_t born_seconds = 0;  ///< since 1970; 0 also where the file system does not keep it, or statx() is denied
  std::uint64_t born_nanoseconds = 0;
};

/// Of an open descriptor, or of the file at a path. Errors as stat().
Result<FileBirth> birth_of(int fd);
Result<FileBirth> birth_of(const std::string& path);

}  // namespace outboard
