#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <sys/types.h>

namespace outboard::storage {

/// A process as its locks on an image name it: by one byte in each of two ranges far above those that QEMU locks. Hosts that
/// share a file system see each other's locks, and containers those of one kernel; the numbers of namespaces and of processes
/// are given again. So a name alone says nothing about whether its process lives: that is what the second byte is for.
struct LockOwner {
  std::uint32_t host = 0;  ///< 19 bits that stand for one boot of one machine
  std::uint32_t container = 0;  ///< 20 bits of its PID namespace's number
  std::uint32_t pid = 0;  ///< 22 bits: its number there

  static LockOwner self();
  /// Whom a byte of requests() names.
  static LockOwner of(off_t byte);

  /// Locked through each descriptor that does I/O: until the kernel has ended the last request.
  off_t requests() const;
  /// Locked through a descriptor that does no I/O: as long as the process is there.
  off_t life() const;

  /// Its number means something here.
  bool is_of_this_container() const;
  /// The number by which this process sees it, also where it is in another container of this host. Nothing: it cannot be
  /// seen from here.
  std::optional<int> number_here() const;
  bool operator==(const LockOwner&) const = default;
};

/// The range of requests().
inline constexpr off_t first_owner = off_t{1} << 61;
inline constexpr off_t last_owner = (off_t{1} << 62) - 1;

/// For people: "process 12", and where that is if not here.
std::string described(const LockOwner& owner);

}  // namespace outboard::storage
