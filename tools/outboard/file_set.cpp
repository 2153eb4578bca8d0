#include <tools/outboard/file_set.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <system_error>

#include <outboard/base/fd.hpp>

namespace outboard::command {

namespace {

namespace fs = std::filesystem;

/// The error of an errno value.
Error failure(int code, const std::string& doing, const fs::path& path) {
  errno = code;
  Error error = Error::from_errno(doing).on(path.string());
  if (code != EACCES && code != EPERM && code != EROFS) return error;
  return std::move(error).cure("choose a folder that you may write to");
}

/// Whether the path exists; a dangling link counts, and so does ENOTDIR: a part of the path is not a folder.
bool is_there(const fs::path& path) {
  struct stat found{};
  return lstat(path.c_str(), &found) == 0 || errno == ENOTDIR;
}

Status write_file(const fs::path& path, const std::string& text) {
  const mode_t mode = text.starts_with("#!") ? 0777 : 0666;  // the umask applies
  const UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
  if (!file) return failure(errno, "creating the file", path);
  std::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t written = write(file.get(), rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return failure(written < 0 ? errno : EIO, "writing", path);
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

/// Moves without replacing anything.
Status move_to_free(const fs::path& from, const fs::path& to) {
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return {};
  // Some file systems and seccomp filters do not support it; another cause of EPERM shows in rename() below.
  const bool supported = errno != EINVAL && errno != ENOSYS && errno != EPERM;
  if (supported) return failure(errno, "moving the new file to its place", to);
  if (is_there(to)) return failure(EEXIST, "moving the new file to its place", to);
  if (rename(from.c_str(), to.c_str()) != 0) return failure(errno, "moving the new file to its place", to);
  return {};
}

/// Undoes in its destructor whatever run() has not completed.
class Making {
 public:
  explicit Making(const FileSet& set) : set_(set) {}
  ~Making() {
    std::error_code ignored;
    for (const auto& path : moved_) fs::remove_all(path, ignored);
    if (!stage_.empty()) fs::remove_all(stage_, ignored);
    for (auto folder = folders_.rbegin(); folder != folders_.rend(); ++folder) rmdir(folder->c_str());
  }
  Making(const Making&) = delete;
  Making& operator=(const Making&) = delete;

  Status run() {
    OUTBOARD_CHECK(make_folder(set_.root));
    OUTBOARD_CHECK(make_stage());
    for (const auto& file : set_.files) {
      std::error_code error;
      fs::create_directories((stage_ / file.path).parent_path(), error);
      if (error) return failure(error.value(), "creating a folder", stage_);
      OUTBOARD_CHECK(write_file(stage_ / file.path, file.text));
    }
    for (const auto& unit : set_.units) OUTBOARD_CHECK(place(unit));
    moved_.clear();
    folders_.clear();
    return {};
  }

 private:
  Status make_folder(const fs::path& path) {
    if (is_there(path)) return {};
    if (mkdir(path.c_str(), 0777) != 0) return failure(errno, "creating the folder", path);
    folders_.push_back(path);
    return {};
  }

  /// In the root, so that moving the files to their places copies nothing.
  Status make_stage() {
    std::string pattern = (set_.root / ".outboard-new-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) return failure(errno, "creating a folder in it", set_.root);
    stage_ = pattern;
    return {};
  }

  Status place(const fs::path& unit) {
    fs::path parent = set_.root;
    for (const auto& part : unit.parent_path()) {
      parent /= part;
      OUTBOARD_CHECK(make_folder(parent));
    }
    OUTBOARD_CHECK(move_to_free(stage_ / unit, set_.root / unit));
    moved_.push_back(set_.root / unit);
    return {};
  }

  const FileSet& set_;
  fs::path stage_;
  std::vector<fs::path> moved_, folders_;
};

}  // namespace

Status check_free(const FileSet& set) {
  for (const auto& unit : set.units) {
    const fs::path path = set.root / unit;
    if (is_there(path)) return Error(EEXIST, "exists already").on(path.string());
  }
  return {};
}

Status create_files(const FileSet& set) {
  OUTBOARD_CHECK(check_free(set));
  return Making(set).run();
}

}  // namespace outboard::command
