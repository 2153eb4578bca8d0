#pragma once

#include <functional>
#include <string>

#include <sys/types.h>

#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/result.hpp>
#include <outboard/storage/internal/image_lock.hpp>

namespace outboard::storage {

/// Calls `open`, which opens a block device for this process alone (O_EXCL), until it returns anything but EBUSY.
///
/// The claim of a process that was killed outlives its locks: the kernel gives it up when it has written the device's dirty
/// pages. The wait is short for a mounted file system, swap or a holder (device mapper, md) of the block device, of one of its
/// partitions, or of the disk that it is a partition of; see outboard::claimants_of(). Otherwise its timeout is
/// LockTimeouts::ended, also if processes or loop devices have the device open, since that alone is no claim. See
/// wait_for_image().
///
/// `device`: its number. EBUSY: it is still in use; the error says by whom. ECANCELED: see wait_for_image(). Other errors:
/// those of `open`.
Result<UniqueFd> wait_for_claim(const std::string& path, dev_t device, const LockTimeouts& timeouts, const Log& log,
                                const std::function<Result<UniqueFd>()>& open);

/// Waits while the block device that is open as `fd` has a claim without a known user. Such a claim may be that of a process
/// that has ended, perhaps one that used another node of the device, whose locks are not visible on this one. Returns at once
/// if `fd` is not a block device. Errors as wait_for_claim().
Status wait_for_orphaned_claim(const std::string& path, int fd, const LockTimeouts& timeouts, const Log& log);

}  // namespace outboard::storage
