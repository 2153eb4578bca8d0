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
/// pages, which may take as long as they are many. So what cannot be seen anywhere is waited for as long as a process that has
/// ended (LockPatience::ended), a process that has the device open as long as one that runs, and a mounted file system, swap or
/// a device on it for a moment. Blocks the calling thread, and says in `log` for what it waits.
///
/// `device`: its number. EBUSY: it is still in use, and by whom; ECANCELED; what `open` says otherwise.
Result<UniqueFd> claim_patiently(const std::string& path, dev_t device, const LockPatience& patience, const Log& log,
                                 const std::function<Result<UniqueFd>()>& open);

}  // namespace outboard::storage
