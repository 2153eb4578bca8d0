#pragma once

#include <cstdint>
#include <string>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>

namespace outboard::storage {

/// What an opener of an image does with it.
enum class ImageAccess : std::uint8_t {
  read,   ///< reads; others may read too, nobody may write
  write,  ///< reads and writes; nobody else may do either
};

/// How long an opener waits for an image that another one holds.
struct LockPatience {
  /// For a process that runs: it may be about to end.
  Duration running = std::chrono::seconds(3);
  /// For a process that was killed or has ended, while the kernel still carries out its disk requests.
  Duration ended = std::chrono::seconds(60);
};

/// Locks an image through one of its descriptors, which is open for reading. The locks are read locks on single bytes, of
/// the open file description, so the kernel keeps them until the last request on that description has ended, also after
/// SIGKILL:
///
/// - QEMU's bytes: 100 + n says that permission n is used, 200 + n that it is not shared with others (n is 0 for reading, 1
///   for writing, 3 for resizing). QEMU, qemu-img and Outboard exclude each other with them.
/// - A byte far above that names the process. Requests of a process that has ended may still write into memory that its
///   successor answers for, so every opener waits for them, readers of an image that is only read too.
///
/// Blocks the calling thread while it waits, and says in `log` for what. Does not wait for an image that this very process
/// holds. Where the file system has no locks, `log` is warned and the image is used without.
///
/// EBUSY: the image is still held; the error says by whom.
Status lock_image(int fd, const std::string& path, ImageAccess access, const LockPatience& patience, const Log& log);

/// Locks one more descriptor of an image that lock_image has locked and that is locked still. Never waits.
Status lock_image_again(int fd, const std::string& path, ImageAccess access);

}  // namespace outboard::storage
