#pragma once

#include <optional>

#include <sys/types.h>

#include <outboard/base/result.hpp>

/// Locks on single bytes that belong to an open file description (fcntl(2), F_OFD_SETLK). No call waits.
namespace outboard::storage {

struct ByteRange {
  off_t first = 0;
  off_t last = 0;
};

/// Takes a read lock; the descriptor must be open for reading. Returns 0 or an errno; see held_by_another().
int lock_byte(int fd, off_t byte);
/// Releases the lock.
void unlock_byte(int fd, off_t byte);
/// A range, within `range`, that another open file description has locked for reading or writing. An error if the file system
/// does not report locks.
Result<std::optional<ByteRange>> locked_by_others(int fd, const ByteRange& range);
Result<bool> is_locked_by_others(int fd, off_t byte);

/// Whether the error means that another open file description has locked the byte for writing.
bool held_by_another(int error);
/// Whether the error means that the file system has no locks (NFS without a lock server, some FUSE file systems).
bool has_no_locks(int error);

}  // namespace outboard::storage
