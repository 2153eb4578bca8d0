#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/result.hpp>
#include <outboard/storage/backend.hpp>
#include <outboard/storage/direct_rules.hpp>
#include <outboard/storage/image_lock.hpp>
#include <outboard/storage/range_lock.hpp>

namespace outboard::storage {

/// An image file or block device, opened, measured and locked. Each descriptor that does I/O carries the lock, so that the image
/// stays locked until the last request on any of them has ended, whatever becomes of the process.
struct Image {
  UniqueFd guard;  ///< does no I/O: its lock shows that this process lives; closed last
  UniqueFd fd;  ///< through the page cache: reads and writes only where `direct` is absent
  UniqueFd direct;  ///< O_DIRECT; may be absent
  DirectRules direct_rules;  ///< what `direct` takes
  /// For all that share the image: where a part of a unit of `direct` is written.
  std::shared_ptr<RangeLock> range_lock = std::make_shared<RangeLock>();
  bool block_device = false;
  std::string path;
  Geometry geometry;
  LockScope lock = LockScope::none;
  /// What the first flush that failed ended with, for all that share the image; 0: none has.
  std::shared_ptr<std::atomic<int>> flush_error = std::make_shared<std::atomic<int>>(0);

  /// Asks for the size again: geometry.capacity is as it was opened. EINVAL: empty, not a multiple of 512 bytes, or
  /// not one of the unit of `direct` where it is written. Any thread.
  Result<std::uint64_t> size_now() const;
};

/// Opens an image: many readers, or one that writes, see lock_image(); a block device that is written is claimed, see
/// claim_patiently(). Where another process holds it, waits as long as `patience` says, and blocks the calling thread; nothing
/// opens the image for writing before. `log` is told when O_DIRECT or the lock is not to be had (the whole image is then used
/// without), and for what it waits.
///
/// Errors are for people and carry a cure: ENOENT, EACCES and EPERM (no permission, or a block device that is
/// write-protected), EROFS, EISDIR, EBUSY (locked, or a block device in use), ECANCELED (while it waited), EMFILE and ENFILE, EINVAL (neither file nor
/// block device; empty; not a multiple of 512 bytes: refused, since a guest would see a disk that is shorter than the file; not
/// a multiple of what O_DIRECT writes: writing its end would make it longer).
Result<Image> open_image(const std::string& path, bool read_only, bool direct, const Log& log,
                         const LockPatience& patience = {});

}  // namespace outboard::storage
