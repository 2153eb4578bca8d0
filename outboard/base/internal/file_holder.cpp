#include <outboard/base/internal/file_holder.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

#include <outboard/base/internal/process.hpp>

namespace outboard {
namespace {

namespace fs = std::filesystem;

bool has_open(const fs::path& process, const struct stat& wanted) {
  std::error_code hidden;
  for (const auto& entry : fs::directory_iterator(process / "fd", hidden)) {
    struct stat open_one{};
    if (stat_without_sync(entry.path(), open_one) && is_same_file(open_one, wanted)) return true;
  }
  return false;
}

}  // namespace

bool is_same_file(const struct stat& a, const struct stat& b) {
  const bool block = S_ISBLK(a.st_mode) && S_ISBLK(b.st_mode), character = S_ISCHR(a.st_mode) && S_ISCHR(b.st_mode);
  if (block || character) return a.st_rdev == b.st_rdev;
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

bool stat_without_sync(const std::string& path, struct stat& found) {
  struct statx info{};
  if (::statx(AT_FDCWD, path.c_str(), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE | STATX_INO, &info) != 0)
    return false;
  found.st_mode = info.stx_mode;
  found.st_ino = info.stx_ino;
  found.st_dev = makedev(info.stx_dev_major, info.stx_dev_minor);
  found.st_rdev = makedev(info.stx_rdev_major, info.stx_rdev_minor);
  return true;
}

std::optional<Holder> holder_of(const std::string& path, const std::string& proc) {
  struct stat wanted{};
  if (::stat(path.c_str(), &wanted) != 0) return std::nullopt;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(proc, failed)) {
    const auto pid = parse_pid(entry.path().filename().string());
    if (!pid || *pid == ::getpid() || !has_open(entry.path(), wanted)) continue;
    return Holder{*pid, process_name(*pid, proc)};
  }
  return std::nullopt;
}

}  // namespace outboard
