#include <outboard/storage/image_claim.hpp>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include <sys/sysmacros.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <outboard/base/disk_users.hpp>
#include <outboard/base/wait.hpp>
#include <outboard/storage/quoted.hpp>

namespace outboard::storage {

namespace {

/// A mounted disk is refused after this. Whoever looks at a new disk (udev) claims it for less.
constexpr Duration patience_with_users = std::chrono::milliseconds(500);
constexpr Duration shortest_pause = std::chrono::milliseconds(5);
constexpr Duration longest_pause = std::chrono::milliseconds(100);
/// A wait of less is not worth a line.
constexpr Duration silent = std::chrono::milliseconds(200);

/// Who keeps a block device from being claimed, as far as that can be seen.
struct Claimant {
  enum class Kind : std::uint8_t { users, process, unseen } kind = Kind::unseen;
  std::string who{};
};

std::string name_of(dev_t device) {
  std::error_code hidden;
  const auto folder =
      std::filesystem::read_symlink(fmt::format("/sys/dev/block/{}:{}", major(device), minor(device)), hidden);
  return folder.filename().string();
}

Claimant claimant_of(dev_t device) {
  const std::string disk = name_of(device);
  if (disk.empty()) return {};
  if (const auto users = users_of_disk(disk); !users.empty())
    return {Claimant::Kind::users, fmt::format("{}", fmt::join(users, ", "))};
  const auto openers = openers_of(devices_on_disk(disk));
  if (openers.empty()) return {};
  const Holder& process = openers.front().process;
  return {Claimant::Kind::process, fmt::format("process {} ({})", process.pid, process.command)};
}

Duration bound_of(Claimant::Kind kind, const LockPatience& patience) {
  switch (kind) {
    case Claimant::Kind::users:
      return patience_with_users;
    case Claimant::Kind::process:
      return patience.running;
    case Claimant::Kind::unseen:
      break;
  }
  return patience.ended;
}

constexpr const char* unseen =
    "the kernel is still writing what a process that has ended left in the page cache, or something that cannot be seen "
    "from here has claimed it";

Error refused(const Claimant& claimant, const std::string& path) {
  const std::string what = claimant.kind == Claimant::Kind::unseen ? unseen : claimant.who;
  return Error(EBUSY, "the block device is in use: " + what).on(path).cure("see what uses it: lsblk " + quoted(path));
}

void log_wait(const Claimant& claimant, const std::string& path, Duration bound, const Log& log) {
  log.warning("{}: waiting up to {:.0f} s: the block device is in use: {}", path,
              std::chrono::duration<double>(bound).count(),
              claimant.kind == Claimant::Kind::unseen ? unseen : claimant.who);
}

}  // namespace

Result<UniqueFd> claim_patiently(const std::string& path, dev_t device, const LockPatience& patience, const Log& log,
                                 const std::function<Result<UniqueFd>()>& open) {
  const TimePoint begin = Clock::system().now();
  bool logged = false;
  for (Duration pause = shortest_pause;; pause = std::min(2 * pause, longest_pause)) {
    auto fd = open();
    const Duration waited = Clock::system().now() - begin;
    if (fd && logged) log.info("{}: free after {:.1f} s", path, std::chrono::duration<double>(waited).count());
    if (fd || fd.error().code() != EBUSY) return fd;
    const Claimant claimant = claimant_of(device);
    const Duration bound = bound_of(claimant.kind, patience);
    if (waited >= bound) return refused(claimant, path);
    if (waited >= silent && claimant.kind != Claimant::Kind::users && !logged) {
      log_wait(claimant, path, bound, log);
      logged = true;
    }
    if (!patience.wait(pause))
      return Error(ECANCELED, "interrupted while waiting for the block device, which is in use").on(path);
  }
}

}  // namespace outboard::storage
