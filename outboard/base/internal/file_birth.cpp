#include <outboard/base/internal/file_birth.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

namespace outboard {
namespace {

Result<FileBirth> birth_of(int directory, const char* path, int flags) {
  struct statx info{};
  if (::statx(directory, path, flags, STATX_INO | STATX_BTIME, &info) == 0) {
    if ((info.stx_mask & STATX_BTIME) == 0) info.stx_btime = {};
    return FileBirth{.file_system = makedev(info.stx_dev_major, info.stx_dev_minor),
                     .device = makedev(info.stx_rdev_major, info.stx_rdev_minor),
                     .inode = info.stx_ino,
                     .born_seconds = static_cast<std::uint64_t>(info.stx_btime.tv_sec),
                     .born_nanoseconds = info.stx_btime.tv_nsec};
  }
  // Denied by a seccomp filter, or a kernel without it.
  struct stat plain{};
  if (::fstatat(directory, path, &plain, flags) != 0) return Error::from_errno("looking which file it is");
  return FileBirth{.file_system = plain.st_dev, .device = plain.st_rdev, .inode = plain.st_ino};
}

}  // namespace

Result<FileBirth> birth_of(int fd) { return birth_of(fd, "", AT_EMPTY_PATH); }
Result<FileBirth> birth_of(const std::string& path) { return birth_of(AT_FDCWD, path.c_str(), 0); }

}  // namespace outboard
