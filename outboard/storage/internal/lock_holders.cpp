#include <outboard/storage/internal/lock_holders.hpp>

#include <cerrno>
#include <vector>

#include <fmt/format.h>

#include <outboard/base/internal/process.hpp>
#include <outboard/base/internal/shell_word.hpp>
#include <outboard/storage/internal/lock_bytes.hpp>

namespace outboard::storage {

namespace {

/// Where a process belongs that is there.
std::optional<LockOwner>& entry_of(LockHolders& holders, const LockOwner& owner) {
  const auto pid = owner.number_here();
  switch (pid ? process_state(*pid) : ProcessState::unseen) {
    case ProcessState::running:
      return holders.running;
    case ProcessState::ending:
      return holders.ending;
    case ProcessState::unseen:
      break;
  }
  return holders.unseen;
}

Status add_holder(LockHolders& holders, int fd, const LockOwner& owner) {
  OUTBOARD_TRY(const bool lives, is_locked_by_others(fd, owner.life()));
  if (!lives) {
    holders.ended = owner;  // perhaps one that had the number which is ours now
    return {};
  }
  if (owner == LockOwner::self()) {
    holders.self = true;
    return {};
  }
  entry_of(holders, owner) = owner;
  return {};
}

}  // namespace

bool is_too_far(int error) { return has_no_locks(error) || error == EOVERFLOW || error == EFBIG; }

Result<LockHolders> holders_of(int fd) {
  LockHolders found;
  // The kernel shows any one lock of a range; what is left and right of it is asked next, which makes two questions a lock at
  // most. Bounded, since others lock too.
  std::vector<ByteRange> ranges{{first_owner, last_owner}};
  for (unsigned left = 2 * LockHolders::max_locks + 1; !ranges.empty(); --left) {
    if (left == 0) {
      found.too_many = true;
      break;
    }
    const ByteRange range = ranges.back();
    ranges.pop_back();
    const auto locked = locked_by_others(fd, range);
    if (!locked && is_too_far(locked.error().code())) return LockHolders{.unknown = true};
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

std::string named(const Holder& process) {
  if (process.command.empty()) return fmt::format("process {}", process.pid);
  return fmt::format("process {} ({})", process.pid, process.command);
}

std::string named(const LockOwner& owner) {
  const auto pid = owner.number_here();
  return pid ? named(Holder{*pid, process_name(*pid)}) : described(owner);
}

Obstacle requests_of_ended(const LockHolders& holders, const std::string& path, const LockTimeouts& timeouts) {
  if (holders.ending) return requests_of(described(*holders.ending), ProcessEnd::ending, path, timeouts);
  if (holders.ended) return requests_of(described(*holders.ended), ProcessEnd::ended, path, timeouts);
  const std::string what = fmt::format(
      "more than {} locks are on the image, so requests of a dead server cannot be ruled out", LockHolders::max_locks);
  return {.who = "other programs",
          .what = what,
          .timeout = timeouts.ended,
          .refusal = Error(EBUSY, what)
                         .on(path)
                         .cure("end the programs that hold them; to find them: fuser -v " + shell_path(path))};
}

Obstacle requests_of(const std::string& who, ProcessEnd end, const std::string& path, const LockTimeouts& timeouts) {
  const std::string what = fmt::format("{} {}, but the kernel still carries out its disk requests", who,
                                       end == ProcessEnd::ending ? "is ending" : "has ended");
  return {
      .who = who,
      .what = what,
      .timeout = timeouts.ended,
      .refusal = Error(EBUSY, what)
                     .on(path)
                     .cure("start again when they are done; what holds them up is the storage below the image (see: "
                           "dmesg), or a program that has locked the image (see: fuser -v " +
                           shell_path(path) + ")")};
}

}  // namespace outboard::storage
