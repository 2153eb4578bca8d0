#include <outboard/storage/image_lock.hpp>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <span>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fmt/format.h>

#include <outboard/base/fd.hpp>
#include <outboard/base/file_holder.hpp>
#include <outboard/base/process.hpp>
#include <outboard/storage/quoted.hpp>

namespace outboard::storage {

namespace {

// QEMU's numbers, which are bits of its permissions.
constexpr off_t used_base = 100;
constexpr off_t unshared_base = 200;
constexpr off_t consistent_read = 0;
constexpr off_t write = 1;
constexpr off_t resize = 3;

/// A process is named by one byte from here on: 20 bits of its PID namespace, 22 bits of its number there.
constexpr off_t process_base = off_t{1} << 61;
constexpr unsigned pid_bits = 22;
constexpr unsigned namespace_bits = 20;

struct Bytes {
  std::span<const off_t> used;
  std::span<const off_t> unshared;
};

Bytes bytes_of(ImageAccess access) {
  static constexpr std::array used{consistent_read, write};
  static constexpr std::array unshared{write, resize};
  return {.used = std::span(used).first(access == ImageAccess::write ? 2 : 1), .unshared = unshared};
}

struct Range {
  off_t first = 0;
  off_t last = 0;
};

struct flock as_flock(short type, const Range& range) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = range.first;
  lock.l_len = range.last - range.first + 1;
  return lock;
}

/// 0 or an errno.
int set(int fd, short type, off_t byte) {
  struct flock lock = as_flock(type, {byte, byte});
  return ::fcntl(fd, F_OFD_SETLK, &lock) == 0 ? 0 : errno;
}

/// What another open file description has locked in `range`; nothing also where that cannot be asked.
std::optional<Range> locked_by_others(int fd, const Range& range) {
  struct flock lock = as_flock(F_WRLCK, range);
  if (::fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type == F_UNLCK) return std::nullopt;
  const off_t last = lock.l_len == 0 ? range.last : lock.l_start + lock.l_len - 1;
  return Range{std::max(lock.l_start, range.first), std::min(last, range.last)};
}

std::uint64_t own_namespace() {
  struct stat info{};
  return ::stat("/proc/self/ns/pid", &info) == 0 ? info.st_ino & ((1U << namespace_bits) - 1) : 0;
}

off_t byte_of_processes() { return process_base + static_cast<off_t>(own_namespace() << pid_bits); }
off_t own_byte() { return byte_of_processes() + ::getpid(); }

bool is_free(int fd, ImageAccess access) {
  const Bytes bytes = bytes_of(access);
  const auto locked = [fd](off_t byte) { return locked_by_others(fd, {byte, byte}).has_value(); };
  return std::ranges::none_of(bytes.used, [&](off_t n) { return locked(unshared_base + n); }) &&
         std::ranges::none_of(bytes.unshared, [&](off_t n) { return locked(used_base + n); });
}

/// 0 or an errno; with one, some bytes may be locked.
int take(int fd, ImageAccess access) {
  const Bytes bytes = bytes_of(access);
  for (const off_t n : bytes.used) {
    if (const int error = set(fd, F_RDLCK, used_base + n); error != 0) return error;
  }
  for (const off_t n : bytes.unshared) {
    if (const int error = set(fd, F_RDLCK, unshared_base + n); error != 0) return error;
  }
  // Where this one cannot be had (32-bit offsets), who holds the image is not said.
  static_cast<void>(set(fd, F_RDLCK, own_byte()));
  return 0;
}

void give_back(int fd, ImageAccess access) {
  const Bytes bytes = bytes_of(access);
  for (const off_t n : bytes.used) static_cast<void>(set(fd, F_UNLCK, used_base + n));
  for (const off_t n : bytes.unshared) static_cast<void>(set(fd, F_UNLCK, unshared_base + n));
  static_cast<void>(set(fd, F_UNLCK, own_byte()));
}

bool held_by_another(int error) { return error == EAGAIN || error == EACCES; }

enum class Life : std::uint8_t { running, ending, ended };

/// Of a process that was killed, threads may still be inside the kernel, with the storage.
bool is_ending(int pid) {
  constexpr std::uint64_t sigkill = 1U << (SIGKILL - 1);
  std::ifstream status(fmt::format("/proc/{}/status", pid));
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("State:") && line.find_first_of("ZX", 6) == 7) return true;
    const bool pending = line.starts_with("SigPnd:") || line.starts_with("ShdPnd:");
    if (pending && (std::strtoull(line.c_str() + 7, nullptr, 16) & sigkill) != 0) return true;
  }
  return false;
}

Life life_of(int pid) {
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!process && ::kill(pid, 0) != 0 && errno == ESRCH) return Life::ended;
  pollfd ended{process.get(), POLLIN, 0};
  if (process && ::poll(&ended, 1, 0) == 1) return Life::ended;
  return is_ending(pid) ? Life::ending : Life::running;
}

/// The processes that name themselves on the image.
struct Holders {
  bool self = false;
  std::optional<int> running;
  std::optional<int> ending;
  std::optional<int> ended;

  std::optional<int>& of(Life life) { return life == Life::running ? running : life == Life::ending ? ending : ended; }
};

Holders holders_of(int fd) {
  Holders found;
  const off_t base = byte_of_processes();
  // The kernel shows any one lock of a range; what is left and right of it is asked next. Bounded, since others lock too.
  std::vector<Range> ranges{{base, base + (off_t{1} << pid_bits) - 1}};
  for (unsigned left = 4096; left != 0 && !ranges.empty(); --left) {
    const Range range = ranges.back();
    ranges.pop_back();
    const auto locked = locked_by_others(fd, range);
    if (!locked) continue;
    if (locked->first > range.first) ranges.push_back({range.first, locked->first - 1});
    if (locked->last < range.last) ranges.push_back({locked->last + 1, range.last});
    if (locked->first != locked->last) continue;  // no single process: a program that locks all of the file
    const int pid = static_cast<int>(locked->first - base);
    if (pid == ::getpid()) {
      found.self = true;
    } else {
      found.of(life_of(pid)) = pid;
    }
  }
  return found;
}

/// For people: "process 12 (qemu-system-x86)".
std::string named(const Holder& process) {
  if (process.command.empty()) return fmt::format("process {}", process.pid);
  return fmt::format("process {} ({})", process.pid, process.command);
}

/// Why an image cannot be had now.
struct Obstacle {
  enum class Kind : std::uint8_t { self, running, ended } kind = Kind::running;
  std::string who;
  std::string_view state{};  ///< of a process that serves no more
};

Obstacle no_more(const Holders& holders) {
  if (holders.ending) return {Obstacle::Kind::ended, fmt::format("process {}", *holders.ending), "has been killed"};
  return {Obstacle::Kind::ended, fmt::format("process {}", holders.ended.value_or(0)), "has ended"};
}

Obstacle obstacle_on(const Holders& holders, const std::string& path) {
  using Kind = Obstacle::Kind;
  if (holders.self) return {Kind::self, "this process"};
  if (holders.running) return {Kind::running, named({*holders.running, process_name(*holders.running)})};
  if (holders.ending || holders.ended) return no_more(holders);
  // No server of ours.
  if (const auto other = holder_of(path)) return {Kind::running, named(*other)};
  return {Kind::running, "another process"};
}

/// Nothing: the image is locked. ENOLCK and the like: it cannot be.
Result<std::optional<Obstacle>> try_to_lock(int fd, const std::string& path, ImageAccess access) {
  // Looked at first: the bytes of one that only waits would keep others away.
  const Holders holders = holders_of(fd);
  if (!is_free(fd, access)) return obstacle_on(holders, path);
  if (holders.ending || holders.ended) return no_more(holders);
  const int error = take(fd, access);
  if (error == 0 && is_free(fd, access)) return std::nullopt;
  give_back(fd, access);
  if (error != 0 && !held_by_another(error)) return Error(error);
  return obstacle_on(holders_of(fd), path);
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

Status lock_image(int fd, const std::string& path, ImageAccess access, const LockPatience& patience, const Log& log) {
  const TimePoint begin = Clock::system().now();
  std::optional<std::string> waits_for;
  for (Duration pause = shortest_pause;; pause = std::min(2 * pause, longest_pause)) {
    const auto tried = try_to_lock(fd, path, access);
    if (!tried) {
      log.warning("{}: cannot be locked ({}): nothing keeps a second server from writing it", path,
                  tried.error().what());
      return {};
    }
    const Duration waited = Clock::system().now() - begin;
    if (!*tried) {
      if (waits_for) log.info("{}: free after {:.1f} s", path, std::chrono::duration<double>(waited).count());
      return {};
    }
    const Obstacle& obstacle = **tried;
    const Duration bound = obstacle.kind == Obstacle::Kind::ended ? patience.ended : patience.running;
    if (obstacle.kind == Obstacle::Kind::self || waited >= bound) return held(obstacle, path, access);
    if (waited >= silent && waits_for != obstacle.who) {
      waits_for = obstacle.who;
      log_wait(obstacle, path, bound, log);
    }
    // Two that start at once meet each other's bytes; different pauses part them.
    std::this_thread::sleep_for(pause + std::chrono::milliseconds(::getpid() % 7));
  }
}

Status lock_image_again(int fd, const std::string& path, ImageAccess access) {
  const int error = take(fd, access);
  // Those that try take no more than read locks, so that only a lock of another program can be in the way.
  if (held_by_another(error)) return held({Obstacle::Kind::running, "another process"}, path, access);
  return {};
}

}  // namespace outboard::storage
