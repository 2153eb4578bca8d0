#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <sys/types.h>

namespace outboard::storage {

/// The identity of a process in its locks on an image: the offset of one byte in each of two ranges far above the bytes that
/// QEMU locks. Hosts that share a file system see each other's locks, and so do containers on one kernel. PIDs and namespace
/// numbers are reused, so the first byte alone does not show that the process exists; the second byte does.
struct LockOwner {
  std::uint32_t host = 0;  ///< 19 bits: a hash of the boot of the machine
  std::uint32_t container = 0;  ///< 20 bits of the number of its PID namespace
  std::uint32_t pid = 0;  ///< 22 bits: its PID there

  static LockOwner self();
  /// The owner that a byte of requests() identifies.
  static LockOwner of(off_t byte);

  /// Locked through each descriptor that does I/O, until the kernel has ended the last request.
  off_t requests() const;
  /// Locked through a descriptor that does no I/O, as long as the process exists.
  off_t life() const;

  /// Whether the process is on this host, in this PID namespace: its PID is valid here.
  bool is_of_this_container() const;
  /// Its PID in this PID namespace, also if it is in another container of this host. nullopt: it is not visible here.
  std::optional<int> number_here() const;
  bool operator==(const LockOwner&) const = default;
};

/// The range of bytes of requests().
inline constexpr off_t first_owner = off_t{1} << 61;
inline constexpr off_t last_owner = (off_t{1} << 62) - 1;

/// For messages: "process 12", and its container or host if that is another one.
std::string described(const LockOwner& owner);

}  // namespace outboard::storage
