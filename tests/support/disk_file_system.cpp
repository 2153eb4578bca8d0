#include <tests/support/disk_file_system.hpp>

#include <cerrno>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/fs.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

namespace outboard::testing {

namespace {

/// Whole at once: nothing is written to the device afterwards that a test has not caused. Small ones too.
std::vector<std::string> options_of(std::string_view kind) {
  if (kind == "ext4") return {"-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"};
  return {"-q", "-f", "-K", "--unsupported"};
}

Status make(std::string_view kind, const std::string& device) {
  std::string program = fmt::format("mkfs.{}", kind);
  std::vector<std::string> words = options_of(kind);
  words.insert(words.begin(), program);
  words.push_back(device);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t quiet;
  ::posix_spawn_file_actions_init(&quiet);
  for (const int output : {STDOUT_FILENO, STDERR_FILENO})
    ::posix_spawn_file_actions_addopen(&quiet, output, "/dev/null", O_WRONLY, 0);
  pid_t pid = -1;
  const int error = ::posix_spawnp(&pid, program.c_str(), &quiet, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&quiet);
  errno = error;
  if (error != 0) return Error::from_errno("running it").on(program);
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid || status != 0)
    return Error(EIO, fmt::format("it has ended with status {:#x}", static_cast<unsigned>(status))).on(program);
  return {};
}

}  // namespace

Result<DiskFileSystem> DiskFileSystem::create(std::string_view kind, std::string device) {
  OUTBOARD_CHECK(make(kind, device));
  DiskFileSystem made(kind, std::move(device));
  OUTBOARD_CHECK(made.mount());
  return made;
}

std::string DiskFileSystem::path(std::string_view name) const {
  return fmt::format("/proc/self/fd/{}/{}", mount_.get(), name);
}

Status DiskFileSystem::forget() {
  mount_.reset();
  const UniqueFd device(::open(device_.c_str(), O_RDONLY | O_CLOEXEC));
  if (!device || ::ioctl(device.get(), BLKFLSBUF) != 0) return Error::from_errno("forgetting its pages").on(device_);
  return mount();
}

Status DiskFileSystem::mount() {
  const UniqueFd system(::fsopen(kind_.c_str(), FSOPEN_CLOEXEC));
  if (!system) return Error::from_errno("opening a file system").on(kind_);
  if (::fsconfig(system.get(), FSCONFIG_SET_STRING, "source", device_.c_str(), 0) != 0 ||
      ::fsconfig(system.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return Error::from_errno("finding a file system").on(device_);
  mount_ = UniqueFd(::fsmount(system.get(), FSMOUNT_CLOEXEC, 0));
  if (!mount_) return Error::from_errno("mounting").on(device_);
  return {};
}

}  // namespace outboard::testing
