#include <outboard/storage/internal/image_lock.hpp>

#include <array>
#include <optional>
#include <span>
#include <string_view>

#include <fmt/format.h>

#include <outboard/base/internal/file_holder.hpp>
#include <outboard/base/internal/process.hpp>
#include <outboard/base/internal/shell_word.hpp>
#include <outboard/storage/internal/lock_bytes.hpp>
#include <outboard/storage/internal/lock_holders.hpp>
#include <outboard/storage/internal/lock_owner.hpp>

namespace outboard::storage {

namespace {

// QEMU's numbers, which are bits of its permissions.
constexpr off_t used_base = 100;
constexpr off_t unshared_base = 200;
constexpr off_t consistent_read = 0;
constexpr off_t write = 1;
constexpr off_t resize = 3;

struct Bytes {
  std::span<const off_t> used;
  std::span<const off_t> unshared;
};

Bytes bytes_of(ImageAccess access) {
  static constexpr std::array used{consistent_read, write};
  static constexpr std::array unshared{write, resize};
  return {.used = std::span(used).first(access == ImageAccess::write ? 2 : 1), .unshared = unshared};
}

Result<bool> is_free(int fd, ImageAccess access) {
  const Bytes bytes = bytes_of(access);
  for (const off_t n : bytes.used) {
    OUTBOARD_TRY(const bool refused, is_locked_by_others(fd, unshared_base + n));
    if (refused) return false;
  }
  for (const off_t n : bytes.unshared) {
    OUTBOARD_TRY(const bool used, is_locked_by_others(fd, used_base + n));
    if (used) return false;
  }
  return true;
}

/// 0 or an errno; with one, some bytes may be locked.
int take_access(int fd, ImageAccess access) {
  const Bytes bytes = bytes_of(access);
  for (const off_t n : bytes.used) {
    if (const int error = lock_byte(fd, used_base + n); error != 0) return error;
  }
  for (const off_t n : bytes.unshared) {
    if (const int error = lock_byte(fd, unshared_base + n); error != 0) return error;
  }
  return 0;
}

/// The byte of life first: a name without it is that of a process which has ended.
Result<LockScope> take_name(int fd) {
  const LockOwner self = LockOwner::self();
  for (const off_t byte : {self.life(), self.requests()}) {
    const int error = lock_byte(fd, byte);
    if (error == 0) continue;
    if (is_too_far(error)) return LockScope::unnamed;
    return Error(error);
  }
  return LockScope::named;
}

void give_back(int fd, ImageAccess access) {
  const Bytes bytes = bytes_of(access);
  for (const off_t n : bytes.used) unlock_byte(fd, used_base + n);
  for (const off_t n : bytes.unshared) unlock_byte(fd, unshared_base + n);
  unlock_byte(fd, LockOwner::self().requests());
  unlock_byte(fd, LockOwner::self().life());
}

/// For people.
std::string_view described(ImageAccess access) {
  return access == ImageAccess::read ? "has the image open for writing" : "is using the image";
}

Error in_use(const std::string& what, const std::string& path) {
  return Error(EBUSY, what)
      .on(path)
      .cure("stop it, or serve the image read-only in both; to find it: fuser -v " + shell_path(path));
}

Error in_use_unseen(const std::string& what, const std::string& path) {
  return Error(EBUSY, what)
      .on(path)
      .cure(
          "look as root, where it runs: fuser -v " + shell_path(path) +
          "; if it runs, stop it, or serve the image read-only in both; if it is ending, start again when it has ended");
}

/// One try to lock an image, and what is in its way.
struct Attempt {
  int fd;
  const std::string& path;
  ImageAccess access;
  const LockTimeouts& timeouts;
  LockScope lock = LockScope::none;

  Obstacle held_by(const std::string& who, Duration timeout) const {
    const std::string what = fmt::format("{} {}", who, described(access));
    return {.who = who, .what = what, .timeout = timeout, .refusal = in_use(what, path)};
  }
  Obstacle held_by_unseen(const LockOwner& owner) const {
    const std::string who = described(owner);
    const std::string what =
        fmt::format("{} {}; whether it runs or is ending cannot be seen from here", who, described(access));
    return {.who = who, .what = what, .timeout = timeouts.running, .refusal = in_use_unseen(what, path)};
  }

  Obstacle obstacle(const LockHolders& holders) const {
    if (holders.self) return held_by("this process", Duration::zero());
    if (holders.running) return held_by(named(*holders.running), timeouts.running);
    if (holders.unseen) return held_by_unseen(*holders.unseen);
    if (holders.any_serves_no_more()) return requests_of_ended(holders, path, timeouts);
    // No server of ours.
    const auto other = holder_of(path);
    if (!other) return held_by("another process", timeouts.running);
    if (process_is_ending(other->pid)) return requests_of(named(*other), ProcessEnd::ending, path, timeouts);
    return held_by(named(*other), timeouts.running);
  }

  Result<LockScope> take() const {
    OUTBOARD_TRY(const LockScope taken, take_name(fd));
    if (const int error = take_access(fd, access); error != 0) return Error(error);
    OUTBOARD_TRY(const bool free, is_free(fd, access));
    return free ? Result<LockScope>(taken) : Error(EAGAIN);
  }

  Result<std::optional<Obstacle>> run() {
    // Looked at first: the bytes of one that only waits would keep others away.
    OUTBOARD_TRY(const LockHolders holders, holders_of(fd));
    OUTBOARD_TRY(const bool was_free, is_free(fd, access));
    if (!was_free) return obstacle(holders);
    if (holders.any_serves_no_more() || holders.too_many) return requests_of_ended(holders, path, timeouts);
    const auto taken = take();
    if (taken) {
      lock = *taken;
      return std::nullopt;
    }
    give_back(fd, access);
    if (!held_by_another(taken.error().code())) return taken.error();
    OUTBOARD_TRY(const LockHolders others, holders_of(fd));
    return obstacle(others);
  }
};

}  // namespace

Result<LockScope> lock_image(int fd, const std::string& path, ImageAccess access, const LockTimeouts& timeouts,
                             const Log& log) {
  Attempt attempt{.fd = fd, .path = path, .access = access, .timeouts = timeouts};
  std::optional<Error> failed;
  const Status locked = wait_for_image(path, timeouts, log, [&]() -> Result<std::optional<Obstacle>> {
    auto tried = attempt.run();
    if (!tried) failed = tried.error();
    return tried;
  });
  if (locked) return attempt.lock;
  if (!failed) return locked.error();
  if (!has_no_locks(failed->code())) return Error(*failed).while_doing("locking the image").on(path);
  log.warning("{}: cannot be locked ({}): nothing keeps a second server from writing it", path, failed->what());
  return LockScope::none;
}

Status lock_image_again(int fd, const std::string& path, ImageAccess access, LockScope lock) {
  if (lock == LockScope::none) return {};
  int error = take_access(fd, access);
  if (error == 0 && lock == LockScope::named) error = lock_byte(fd, LockOwner::self().requests());
  if (error == 0) return {};
  // Those that try take no more than read locks, so that only a lock of another program can be in the way.
  if (held_by_another(error)) return in_use(fmt::format("another process {}", described(access)), path);
  return Error(error).while_doing("locking the image").on(path);
}

void unlock_image(int fd, ImageAccess access) { give_back(fd, access); }

}  // namespace outboard::storage
