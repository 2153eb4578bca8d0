#pragma once

#include <cstdint>
#include <string>

#include <outboard/base/log.hpp>
#include <outboard/base/result.hpp>
#include <outboard/storage/patience.hpp>

namespace outboard::storage {

/// What an opener of an image does with it.
enum class ImageAccess : std::uint8_t {
  read,   ///< reads; others may read too, nobody may write
  write,  ///< reads and writes; nobody else may do either
};

/// What lock_image() could lock of an image.
enum class LockScope : std::uint8_t {
  none,     ///< nothing: its file system has no locks
  unnamed,  ///< QEMU's bytes; the file system has no bytes as far up as those that name a process
  named,    ///< all
};

/// Locks an image through a descriptor that is open for reading, does no I/O, and is closed after those that do:
/// lock_image_again() is for these. The locks are read locks on single bytes, of the open file description, so the kernel
/// keeps them until the last request on that description has ended, also after SIGKILL:
///
/// - QEMU's bytes: 100 + n says that permission n is used, 200 + n that it is not shared with others (n is 0 for reading, 1
///   for writing, 3 for resizing). QEMU, qemu-img and Outboard exclude each other with them.
/// - Two bytes far above, see LockOwner: one names the process through each of its descriptors, the other one is locked
///   through `fd` alone and so shows that the process lives. Requests of a process that has ended may still write into memory
///   that its successor answers for, so every opener waits for them, readers of an image that is only read too. This holds
///   across containers, and across hosts where their file system has the locks of all.
///
/// The locks on a block device are those of its node: through another node of the device nothing of them is seen. Writers
/// exclude each other there, and wait for a dead one, by their claim, see claim_patiently().
///
/// Blocks the calling thread while it waits, and says in `log` for what. Does not wait for an image that this very process
/// holds. Where the file system has no locks, `log` is warned and the image is used without.
///
/// EBUSY: the image is still held; the error says by whom. ECANCELED: LockPatience::pause has said so. What else the file
/// system says.
Result<LockScope> lock_image(int fd, const std::string& path, ImageAccess access, const LockPatience& patience,
                             const Log& log);

/// Locks one more descriptor, which does I/O, of an image that lock_image() has locked, `lock`, and that is locked still. Never
/// waits. EBUSY: another program is in the way; what else the file system says: the image must not be used then.
Status lock_image_again(int fd, const std::string& path, ImageAccess access, LockScope lock);

}  // namespace outboard::storage
