#pragma once

#include <optional>

#include <sys/types.h>

#include <outboard/base/result.hpp>

/// Locks on single bytes that belong to an open file description (fcntl(2), F_OFD_SETLK). No call waits for whoever has one.
namespace outboard::storage {

struct ByteRange {
  off_t first = 0;
  off_t last = 0;
};

/// Takes a read lock; the descriptor is open for reading. 0 or an errno; see held_by_another().
int lock_byte(int fd, off_t byte);
/// Gives it back.
void unlock_byte(int fd, off_t byte);
/// What another open file description has locked in `range`, for reading or writing, or a part of that. An error where the
/// file system does not tell.
Result<std::optional<ByteRange>> locked_by_others(int fd, const ByteRange& range);
Result<bool> is_locked_by_others(int fd, off_t byte);

/// The byte is another one's, who has it for writing.
bool held_by_another(int error);
/// The file system has no locks: NFS without a lock server, some of FUSE.
bool has_no_locks(int error);

}  // namespace outboard::storage
