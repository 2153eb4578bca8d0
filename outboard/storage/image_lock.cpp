#include <outboard/storage/image_lock.hpp>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <signal.h>
#include <unistd.h>

#include <fmt/format.h>

#include <outboard/base/file_holder.hpp>
#include <outboard/base/process.hpp>
#include <outboard/base/wait.hpp>
#include <outboard/storage/lock_bytes.hpp>
#include <outboard/storage/lock_owner.hpp>
#include <outboard/storage/quoted.hpp>

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

/// The file system does not lock bytes that far up: its offsets have 32 bits.
bool is_too_far(int error) { return has_no_locks(error) || error == EOVERFLOW || error == EFBIG; }

/// The byte of life first: a name without it is that of a process which has ended.
Result<LockScope> take_name(int fd) {
  const LockOwner self = LockOwner::self();
  for (const off_t byte : {self.life(), self.requests()}) {
    const int error = lock_byte(fd, byte);
    if (error == 0) continue;
    unlock_byte(fd, self.life());
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

/// Of a process that was killed, threads may still be inside the kernel, with the storage.
bool is_ending(std::uint32_t pid) {
  constexpr std::uint64_t sigkill = 1U << (SIGKILL - 1);
  std::ifstream status(fmt::format("/proc/{}/status", pid));
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("State:") && line.find_first_of("ZX", 6) == 7) return true;
    const bool pending = line.starts_with("SigPnd:") || line.starts_with("ShdPnd:");
    if (pending && (std::strtoull(line.c_str() + 7, nullptr, 16) & sigkill) != 0) return true;
  }
  return false;
}

/// The processes that name themselves on the image.
struct Holders {
  bool self = false;
  std::optional<LockOwner> running;
  std::optional<LockOwner> ending;
  std::optional<LockOwner> ended;

  bool any_serves_no_more() const { return ending || ended; }
};

Status add_holder(Holders& holders, int fd, const LockOwner& owner) {
  OUTBOARD_TRY(const bool lives, is_locked_by_others(fd, owner.life()));
  if (!lives) {
    holders.ended = owner;  // perhaps one that had the number which is ours now
  } else if (owner == LockOwner::self()) {
    holders.self = true;
  } else if (owner.is_of_this_container() && is_ending(owner.pid)) {
    holders.ending = owner;
  } else {
    holders.running = owner;
  }
  return {};
}

Result<Holders> holders_of(int fd) {
  Holders found;
  // The kernel shows any one lock of a range; what is left and right of it is asked next. Bounded, since others lock too.
  std::vector<ByteRange> ranges{{first_owner, last_owner}};
  for (unsigned left = 4096; left != 0 && !ranges.empty(); --left) {
    const ByteRange range = ranges.back();
    ranges.pop_back();
    const auto locked = locked_by_others(fd, range);
    if (!locked && is_too_far(locked.error().code())) return Holders{};
    if (!locked) return locked.error();
    if (!*locked) continue;
    const ByteRange there = **locked;
    if (there.first > range.first) ranges.push_back({range.first, there.first - 1});
    if (there.last < range.last) ranges.push_back({there.last + 1, range.last});
    // More than one byte is no process: a program that locks all of the file.
    if (there.first == there.last) OUTBOARD_CHECK(add_holder(found, fd, LockOwner::of(there.first)));
  }
  return found;
}

/// For people: "process 12 (qemu-system-x86)".
std::string named(const Holder& process) {
  if (process.command.empty()) return fmt::format("process {}", process.pid);
  return fmt::format("process {} ({})", process.pid, process.command);
}

std::string named(const LockOwner& owner, const std::string& path) {
  const int pid = static_cast<int>(owner.pid);
  if (owner.is_of_this_container()) return named({pid, process_name(pid)});
  // Seen from outside of its container, it has another number.
  const bool same_host = owner.host == LockOwner::self().host;
  if (const auto seen = same_host ? holder_of(path) : std::nullopt) return named(*seen);
  return described(owner);
}

/// Why an image cannot be had now.
struct Obstacle {
  enum class Kind : std::uint8_t { self, running, ended } kind = Kind::running;
  std::string who;
  std::string_view state{};  ///< of a process that serves no more
};

Obstacle no_more(const Holders& holders) {
  if (holders.ending) return {Obstacle::Kind::ended, described(*holders.ending), "has been killed"};
  return {Obstacle::Kind::ended, described(holders.ended.value_or(LockOwner{})), "has ended"};
}

Obstacle obstacle_on(const Holders& holders, const std::string& path) {
  using Kind = Obstacle::Kind;
  if (holders.self) return {Kind::self, "this process"};
  if (holders.running) return {Kind::running, named(*holders.running, path)};
  if (holders.any_serves_no_more()) return no_more(holders);
  // No server of ours.
  if (const auto other = holder_of(path)) return {Kind::running, named(*other)};
  return {Kind::running, "another process"};
}

/// Either a lock, or what is in its way.
struct Attempt {
  LockScope lock = LockScope::none;
  std::optional<Obstacle> obstacle{};
};

Result<Attempt> try_to_lock(int fd, const std::string& path, ImageAccess access) {
  // Looked at first: the bytes of one that only waits would keep others away.
  OUTBOARD_TRY(const Holders holders, holders_of(fd));
  OUTBOARD_TRY(const bool was_free, is_free(fd, access));
  if (!was_free) return Attempt{.obstacle = obstacle_on(holders, path)};
  if (holders.any_serves_no_more()) return Attempt{.obstacle = no_more(holders)};
  const auto take = [&]() -> Result<LockScope> {
    OUTBOARD_TRY(const LockScope lock, take_name(fd));
    if (const int error = take_access(fd, access); error != 0) return Error(error);
    OUTBOARD_TRY(const bool free, is_free(fd, access));
    return free ? Result<LockScope>(lock) : Error(EAGAIN);
  };
  const auto taken = take();
  if (taken) return Attempt{.lock = *taken};
  give_back(fd, access);
  if (!held_by_another(taken.error().code())) return taken.error();
  OUTBOARD_TRY(const Holders others, holders_of(fd));
  return Attempt{.obstacle = obstacle_on(others, path)};
}

Error held(const Obstacle& obstacle, const std::string& path, ImageAccess access) {
  if (obstacle.kind == Obstacle::Kind::ended) {
    return Error(EBUSY,
                 fmt::format("{} {}, but the kernel still carries out its disk requests", obstacle.who, obstacle.state))
        .on(path)
        .cure("start again when they are done; what holds them up is the storage below the image (see: dmesg)");
  }
  return Error(EBUSY,
               obstacle.who + (access == ImageAccess::read ? " has the image open for writing" : " is using the image"))
      .on(path)
      .cure("stop it, or serve the image read-only in both; to find it: fuser -v " + quoted(path));
}

void log_wait(const Obstacle& obstacle, const std::string& path, Duration patience, const Log& log) {
  const double seconds = std::chrono::duration<double>(patience).count();
  if (obstacle.kind == Obstacle::Kind::ended) {
    log.warning("{}: waiting up to {:.0f} s: {} {}, but the kernel still carries out its disk requests", path, seconds,
                obstacle.who, obstacle.state);
  } else {
    log.warning("{}: waiting up to {:.0f} s for {}, which has the image open", path, seconds, obstacle.who);
  }
}

/// A restart is not worth a line: io_uring gives descriptors back milliseconds after its process has ended.
constexpr Duration silent = std::chrono::milliseconds(200);
constexpr Duration shortest_pause = std::chrono::milliseconds(2);
constexpr Duration longest_pause = std::chrono::milliseconds(50);

}  // namespace

bool LockPatience::wait(Duration time) const { return pause ? pause(time) : pause_thread(time); }

Result<LockScope> lock_image(int fd, const std::string& path, ImageAccess access, const LockPatience& patience,
                             const Log& log) {
  const TimePoint begin = Clock::system().now();
  std::optional<std::string> waits_for;
  for (Duration pause = shortest_pause;; pause = std::min(2 * pause, longest_pause)) {
    const auto tried = try_to_lock(fd, path, access);
    if (!tried && !has_no_locks(tried.error().code()))
      return Error(tried.error()).while_doing("locking the image").on(path);
    if (!tried) {
      log.warning("{}: cannot be locked ({}): nothing keeps a second server from writing it", path,
                  tried.error().what());
      return LockScope::none;
    }
    const Duration waited = Clock::system().now() - begin;
    if (!tried->obstacle) {
      if (waits_for) log.info("{}: free after {:.1f} s", path, std::chrono::duration<double>(waited).count());
      return tried->lock;
    }
    const Obstacle& obstacle = *tried->obstacle;
    const Duration bound = obstacle.kind == Obstacle::Kind::ended ? patience.ended : patience.running;
    if (obstacle.kind == Obstacle::Kind::self || waited >= bound) return held(obstacle, path, access);
    if (waited >= silent && waits_for != obstacle.who) {
      waits_for = obstacle.who;
      log_wait(obstacle, path, bound, log);
    }
    // Two that start at once meet each other's bytes; different pauses part them.
    if (!patience.wait(pause + std::chrono::milliseconds(::getpid() % 7)))
      return Error(ECANCELED, fmt::format("interrupted while waiting for {}", obstacle.who)).on(path);
  }
}

Status lock_image_again(int fd, const std::string& path, ImageAccess access, LockScope lock) {
  if (lock == LockScope::none) return {};
  int error = take_access(fd, access);
  if (error == 0 && lock == LockScope::named) error = lock_byte(fd, LockOwner::self().requests());
  if (error == 0) return {};
  // Those that try take no more than read locks, so that only a lock of another program can be in the way.
  if (held_by_another(error)) return held({Obstacle::Kind::running, "another process"}, path, access);
  return Error(error).while_doing("locking the image").on(path);
}

}  // namespace outboard::storage
