#pragma once

#include <functional>
#include <string>

#include <sys/types.h>

#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/result.hpp>
#include <outboard/storage/image_lock.hpp>

namespace outboard::storage {

/// Calls `open`, which opens a block device for this process alone (O_EXCL), until that ends with something else than EBUSY.
/// The claim of a process that was killed outlives its locks: the kernel gives it up when it has written the device's dirty
/// pages, which may take as long as they are many. A mounted file system, swap or a holder (device mapper, md) of the block device,
/// of one of its partitions, or of the disk that it is a partition of, is waited for for a moment; see outboard::claimants_of(). All
/// else is waited for as long as a process that has ended (LockPatience::ended), also where processes or loop devices have the device
/// open, since that alone is no claim. See wait_patiently().
///
/// `device`: its number. EBUSY: it is still in use, and by whom; ECANCELED; what `open` says otherwise.
Result<UniqueFd> claim_patiently(const std::string& path, dev_t device, const LockPatience& patience, const Log& log,
                                 const std::function<Result<UniqueFd>()>& open);

/// Waits until nobody has a claim on the block device that is open as `fd` whom nothing shows: it may be that of a process which
/// has ended, also one that used another node of the device, whose locks cannot be seen from here. No block device: returns at
/// once. Errors as claim_patiently().
Status wait_for_claim_of_the_dead(const std::string& path, int fd, const LockPatience& patience, const Log& log);

}  // namespace outboard::storage
