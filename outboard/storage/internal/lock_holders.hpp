#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <outboard/base/internal/file_holder.hpp>
#include <outboard/base/result.hpp>
#include <outboard/storage/internal/image_wait.hpp>
#include <outboard/storage/internal/lock_owner.hpp>

namespace outboard::storage {

/// The processes that have an image locked, found by the bytes of LockOwner; one of each kind.
struct LockHolders {
  bool self = false;
  std::optional<LockOwner> running{};
  std::optional<LockOwner> unseen{};  ///< running or ending: in another container or host, or hidden in /proc
  std::optional<LockOwner> ending{};  ///< killed, crashed or exiting; the kernel has not ended all of its threads
  std::optional<LockOwner> ended{};  ///< it does not exist any more; the kernel still carries out requests of it
  /// There are more than max_locks locks, and not all were read: a process may be missing above.
  bool too_many = false;
  /// The file system has no locks, or none at such high offsets.
  bool unknown = false;

  static constexpr unsigned max_locks = 2048;
  bool any_serves_no_more() const { return ending || ended; }
};

/// The other processes that have locked the image that is open as `fd`. Errors of the file system.
Result<LockHolders> holders_of(int fd);

/// For messages: "process 12 (qemu-system-x86)", with its PID in this PID namespace if it is visible here.
std::string named(const LockOwner& owner);
std::string named(const Holder& process);

/// The obstacle for an opener of the image at `path` after LockHolders::any_serves_no_more() or too_many: requests of a process
/// that has ended may still write to the image or to the driver's memory. Its timeout is LockTimeouts::ended.
Obstacle requests_of_ended(const LockHolders& holders, const std::string& path, const LockTimeouts& timeouts);
/// The same for one process, `who`.
enum class ProcessEnd : std::uint8_t { ending, ended };
Obstacle requests_of(const std::string& who, ProcessEnd end, const std::string& path, const LockTimeouts& timeouts);

/// Whether the error means that the file system cannot lock the high offsets of LockOwner: its offsets have 32 bits, or it has
/// no locks.
bool is_too_far(int error);

}  // namespace outboard::storage
