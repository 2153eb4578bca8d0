#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/result.hpp>
#include <outboard/storage/backend.hpp>
#include <outboard/storage/internal/direct_rules.hpp>
#include <outboard/storage/internal/image_lock.hpp>
#include <outboard/storage/internal/range_lock.hpp>

namespace outboard::storage {

/// An image file or block device that is open, measured and locked. Each descriptor that does I/O holds the lock, so the image
/// stays locked until the last request on any of them has ended, even if the process is killed.
struct Image {
  UniqueFd guard;  ///< for no I/O: its lock shows that this process exists; closed last
  UniqueFd fd;  ///< through the page cache; without reads and writes if there is `direct`
  UniqueFd direct;  ///< O_DIRECT; may be absent
  DirectRules direct_rules;  ///< the alignment for `direct`
  /// Shared by all users of the image: locks units of `direct` of which only a part is written.
  std::shared_ptr<RangeLock> range_lock = std::make_shared<RangeLock>();
  bool block_device = false;
  std::string path;
  Geometry geometry;
  LockScope lock = LockScope::none;
  /// Whether this process holds the locks; for all users of the image.
  std::shared_ptr<std::atomic<bool>> held = std::make_shared<std::atomic<bool>>(true);
  /// The error of the first flush that failed, for all users of the image; 0: none has.
  std::shared_ptr<std::atomic<int>> flush_error = std::make_shared<std::atomic<int>>(0);

  /// Gives the locks up, so that another process may use the image. Nothing may be in progress on any descriptor, and nothing may
  /// be begun before take_back(). A block device stays claimed. Any thread.
  void let_go() const;
  /// Takes the locks again; without let_go() it does nothing. Never waits. EBUSY: another process uses the image; the error says
  /// which. Any thread.
  Status take_back(const Log& log) const;

  /// Measures the size again (geometry.capacity is the size when the image was opened). EINVAL: empty, not a multiple of 512
  /// bytes, or not a multiple of the unit of `direct` for an image to write. Any thread.
  Result<std::uint64_t> size_now() const;
};

/// Opens an image for many readers or one writer: see lock_image(). A block device that is written is also claimed: see
/// wait_for_claim(). If another process holds the image, blocks the calling thread for at most `timeouts`, and opens nothing
/// for writing before. Logs what it waits for, and if O_DIRECT or locks are not supported (the image is then used without).
///
/// Each error has a cure: ENOENT, EACCES and EPERM (no permission, or a block device that is write-protected), EROFS, EISDIR,
/// EBUSY (locked, or a block device in use), ECANCELED (while it waited), EMFILE and ENFILE, EINVAL (neither file nor block
/// device; empty; not a multiple of 512 bytes, since a guest would see a disk that is shorter than the file; not a multiple of
/// the unit of O_DIRECT, since a write at its end would make it longer).
Result<Image> open_image(const std::string& path, bool read_only, bool direct, const Log& log,
                         const LockTimeouts& timeouts = {});
/// The same for an image that another process uses still: it is not locked, and must not be read or written, before
/// Image::take_back(). ENOTSUP: a block device that is written, which only one process can claim. Otherwise as above.
Result<Image> open_image_unlocked(const std::string& path, bool read_only, bool direct, const Log& log);

}  // namespace outboard::storage
