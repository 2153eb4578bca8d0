#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <outboard/base/file_holder.hpp>
#include <outboard/base/result.hpp>
#include <outboard/storage/lock_owner.hpp>
#include <outboard/storage/patience.hpp>

namespace outboard::storage {

/// The processes that name themselves on an image, by the bytes of LockOwner; of each kind one.
struct LockHolders {
  bool self = false;
  std::optional<LockOwner> running{};
  std::optional<LockOwner> unseen{};  ///< running or ending: elsewhere, or /proc hides it
  std::optional<LockOwner> ending{};  ///< killed, crashed or exiting: the kernel is busy with its threads
  std::optional<LockOwner> ended{};  ///< gone; the kernel still has requests of it
  /// There are more locks than are looked at (max_locks): a process may be missing above.
  bool too_many = false;
  /// The file system cannot tell: it has no locks, or none on bytes as far up.
  bool unknown = false;

  static constexpr unsigned max_locks = 2048;
  bool any_serves_no_more() const { return ending || ended; }
};

/// Who else has the image locked that is open as `fd`. What the file system says.
Result<LockHolders> holders_of(int fd);

/// For people: "process 12 (qemu-system-x86)", by the number that it has here where it can be seen.
std::string named(const LockOwner& owner);
std::string named(const Holder& process);

/// What LockHolders::any_serves_no_more() and too_many mean to whoever wants the image at `path`: requests of a process that has
/// ended may still write to it, or into memory that its successor answers for. LockPatience::ended is the bound.
Obstacle requests_of_the_dead(const LockHolders& holders, const std::string& path, const LockPatience& patience);
/// The same of one process, `who`.
enum class ProcessEnd : std::uint8_t { ending, ended };
Obstacle requests_of(const std::string& who, ProcessEnd end, const std::string& path, const LockPatience& patience);

/// The file system does not lock bytes as far up as LockOwner's: its offsets have 32 bits, or it has no locks.
bool is_too_far(int error);

}  // namespace outboard::storage
