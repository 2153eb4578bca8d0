#pragma once

#include <outboard/base/log.hpp>
#include <outboard/base/result.hpp>
#include <outboard/base/storage_identity.hpp>
#include <outboard/storage/patience.hpp>

namespace outboard::storage {

/// Waits until the kernel has ended the requests of dead processes on an image that this process does not have open: `before`,
/// as Backend::identity() named it. They may still write into memory that the process's successor answers for. Storage whose
/// contents ended with its process has no such requests. Blocks the calling thread, and says in `log` for what it waits.
///
/// EBUSY: there are some still, after LockPatience::ended. ECANCELED: while it waited. ESTALE: it cannot be known whether there
/// are, since the image is not at its path any more, or its file system has no locks. What else opening it says.
Status wait_for_requests_on(const StorageIdentity& before, const LockPatience& patience, const Log& log);

}  // namespace outboard::storage
