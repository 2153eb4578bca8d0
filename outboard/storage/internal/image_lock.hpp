#pragma once

#include <cstdint>
#include <string>

#include <outboard/base/log.hpp>
#include <outboard/base/result.hpp>
#include <outboard/storage/internal/image_wait.hpp>

namespace outboard::storage {

/// How an image is used.
enum class ImageAccess : std::uint8_t {
  read,   ///< reads; others may also read, none may write
  write,  ///< reads and writes; others may do neither
};

/// The locks that lock_image() could take.
enum class LockScope : std::uint8_t {
  none,     ///< none: the file system has no locks
  unnamed,  ///< QEMU's bytes only: the file system has no locks at the offsets that identify a process
  named,    ///< all
};

/// Locks an image through a descriptor that is open for reading, does no I/O, and is closed last. The descriptors that do I/O
/// are locked with lock_image_again(). The locks are read locks on single bytes that belong to the open file description, so
/// the kernel keeps them until the last request on that description has ended, also after SIGKILL:
///
/// - QEMU's bytes: 100 + n means that permission n is used, 200 + n that it is not shared (n is 0 for reading, 1 for writing, 3
///   for resizing). QEMU, qemu-img and Outboard exclude each other with them.
/// - Two bytes at high offsets, see LockOwner. One identifies the process and is locked through each of its descriptors; the
///   other is locked through `fd` only, and shows that the process exists. Requests of a process that has ended may still write
///   to the driver's memory, so every opener waits for them, even for reading. This works across containers, and across hosts
///   if their shared file system shows the locks of all hosts.
///
/// Locks on a block device belong to its node and are not visible through another node of the same device. There, writers
/// exclude each other, and wait for a dead writer, by their claim: see wait_for_claim().
///
/// Blocks the calling thread while it waits, and logs what it waits for. Does not wait for an image that this process itself
/// holds. If the file system has no locks, logs a warning, and the image is used without.
///
/// EBUSY: the image is still held; the error says by whom. ECANCELED: LockTimeouts::pause returned false. Other errors of the
/// file system.
Result<LockScope> lock_image(int fd, const std::string& path, ImageAccess access, const LockTimeouts& timeouts,
                             const Log& log);

/// Locks a further descriptor, for I/O, of an image that lock_image() has locked with result `lock`. Never waits. EBUSY:
/// another program has locked the image meanwhile. After any error the image must not be used.
Status lock_image_again(int fd, const std::string& path, ImageAccess access, LockScope lock);

/// Gives the locks of a descriptor up. Nothing may be in progress on it.
void unlock_image(int fd, ImageAccess access);

}  // namespace outboard::storage
