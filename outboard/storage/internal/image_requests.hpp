#pragma once

#include <outboard/base/internal/storage_identity.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/result.hpp>
#include <outboard/storage/internal/image_wait.hpp>

namespace outboard::storage {

/// Waits until the kernel has ended the requests of dead processes on an image that this process does not have open: `before`,
/// a Backend::identity() of the dead server. Until then these requests may write to the driver's memory. Storage whose contents
/// ended with its process has no such requests. Blocks the calling thread, and logs what it waits for.
///
/// EBUSY: some have not ended after LockTimeouts::ended. ECANCELED: see wait_for_image(). ESTALE: it is unknown whether there
/// are any, since the image is not at its path any more, or its file system has no locks. Other errors: those of opening the
/// image.
Status wait_for_requests_on(const StorageIdentity& before, const LockTimeouts& timeouts, const Log& log);

}  // namespace outboard::storage
