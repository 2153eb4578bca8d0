#include <outboard/base/file_holder.hpp>

#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <fstream>
#include <string_view>

namespace outboard {
namespace {

namespace fs = std::filesystem;

std::optional<int> as_pid(std::string_view text) {
  int pid = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), pid);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return pid;
}

bool has_open(const fs::path& process, const struct stat& wanted) {
  std::error_code hidden;
  for (const auto& entry : fs::directory_iterator(process / "fd", hidden)) {
    struct stat open_one{};
    if (::stat(entry.path().c_str(), &open_one) == 0 && is_same_file(open_one, wanted)) return true;
  }
  return false;
}

}  // namespace

bool is_same_file(const struct stat& a, const struct stat& b) {
  const bool block = S_ISBLK(a.st_mode) && S_ISBLK(b.st_mode), character = S_ISCHR(a.st_mode) && S_ISCHR(b.st_mode);
  if (block || character) return a.st_rdev == b.st_rdev;
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

std::optional<Holder> holder_of(const std::string& path, const std::string& proc) {
  struct stat wanted{};
  if (::stat(path.c_str(), &wanted) != 0) return std::nullopt;
  std::error_code failed;
  for (const auto& entry : fs::directory_iterator(proc, failed)) {
    const auto pid = as_pid(entry.path().filename().string());
    if (!pid || *pid == ::getpid() || !has_open(entry.path(), wanted)) continue;
    Holder holder{*pid, {}};
    std::ifstream comm(entry.path() / "comm");
    std::getline(comm, holder.command);
    return holder;
  }
  return std::nullopt;
}

}  // namespace outboard
