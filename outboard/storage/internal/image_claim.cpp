#include <outboard/storage/internal/image_claim.hpp>

#include <filesystem>
#include <optional>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <outboard/base/internal/disk_users.hpp>
#include <outboard/base/internal/shell_word.hpp>

namespace outboard::storage {

namespace {

/// A mounted disk is refused after this. Whoever looks at a new disk (udev) claims it for less.
constexpr Duration users_timeout = std::chrono::milliseconds(500);

std::string name_of(dev_t device) {
  std::error_code hidden;
  const auto folder =
      std::filesystem::read_symlink(fmt::format("/sys/dev/block/{}:{}", major(device), minor(device)), hidden);
  return folder.filename().string();
}

/// For people: what has the device open, or one whose claim would be in the way of ours, and may have claimed it. To have a device
/// open is no claim, and which opener has asked for one the kernel does not tell; nor does it show all openers.
std::string openers_for_people(const std::string& device) {
  const std::vector<DeviceNode> devices = devices_claimed_with(device);
  std::vector<std::string> names;
  for (const DeviceOpener& opener : openers_of(devices))
    names.push_back(fmt::format("process {} ({})", opener.process.pid, opener.process.command));
  for (const DeviceNode& each : devices) {
    for (std::string& loop : loops_on(each.name)) names.push_back(std::move(loop));
  }
  names.emplace_back("something that cannot be seen from here");
  return fmt::format("{}", fmt::join(names, " or "));
}

Obstacle obstacle_on(dev_t device, const std::string& path, const LockTimeouts& timeouts) {
  const auto made = [&](const std::string& what, Duration timeout) {
    return Obstacle{.who = "the block device, which is in use",
                    .what = "the block device is in use: " + what,
                    .timeout = timeout,
                    .refusal = Error(EBUSY, "the block device is in use: " + what)
                                   .on(path)
                                   .cure(fmt::format("see what uses it: lsblk {0}; fuser -v {0}", shell_path(path)))};
  };
  const std::string disk = name_of(device);
  if (const auto users = claimants_of(disk); !users.empty())
    return made(fmt::format("{}", fmt::join(users, ", ")), users_timeout);
  // A process that has it open does not make this wait shorter: it may be a mere reader.
  return made(fmt::format("the kernel is still writing what a process that has ended left in the page cache, or {} has "
                          "claimed it",
                          openers_for_people(disk)),
              timeouts.ended);
}

}  // namespace

Result<UniqueFd> wait_for_claim(const std::string& path, dev_t device, const LockTimeouts& timeouts, const Log& log,
                                const std::function<Result<UniqueFd>()>& open) {
  UniqueFd claimed;
  OUTBOARD_CHECK(wait_for_image(path, timeouts, log, [&]() -> Result<std::optional<Obstacle>> {
    auto fd = open();
    if (!fd && fd.error().code() == EBUSY) return obstacle_on(device, path, timeouts);
    if (!fd) return fd.error();
    claimed = std::move(*fd);
    return std::nullopt;
  }));
  return claimed;
}

Status wait_for_orphaned_claim(const std::string& path, int fd, const LockTimeouts& timeouts, const Log& log) {
  struct stat info{};
  if (::fstat(fd, &info) != 0) return Error::from_errno("looking at the image").on(path);
  if (!S_ISBLK(info.st_mode)) return {};
  return wait_for_image(path, timeouts, log, [&]() -> Result<std::optional<Obstacle>> {
    const UniqueFd claim(::open(path.c_str(), O_RDONLY | O_EXCL | O_NONBLOCK | O_CLOEXEC));
    if (!claim && errno != EBUSY)
      return Error::from_errno("looking whether the dead one's claim is still there").on(path);
    // Who is seen has it in place of the dead one.
    if (claim || !claimants_of(name_of(info.st_rdev)).empty()) return std::nullopt;
    return obstacle_on(info.st_rdev, path, timeouts);
  });
}

}  // namespace outboard::storage
