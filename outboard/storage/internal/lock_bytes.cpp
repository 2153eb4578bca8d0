#include <outboard/storage/internal/lock_bytes.hpp>

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <unistd.h>

namespace outboard::storage {

namespace {

struct flock as_flock(short type, const ByteRange& range) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = range.first;
  lock.l_len = range.last - range.first + 1;
  return lock;
}

/// 0 or an errno. A file system at the other end of a network can be interrupted.
int call(int fd, int command, struct flock& lock) {
  while (::fcntl(fd, command, &lock) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

}  // namespace

int lock_byte(int fd, off_t byte) {
  struct flock lock = as_flock(F_RDLCK, {byte, byte});
  return call(fd, F_OFD_SETLK, lock);
}

void unlock_byte(int fd, off_t byte) {
  struct flock lock = as_flock(F_UNLCK, {byte, byte});
  static_cast<void>(call(fd, F_OFD_SETLK, lock));
}

Result<std::optional<ByteRange>> locked_by_others(int fd, const ByteRange& range) {
  struct flock lock = as_flock(F_WRLCK, range);
  if (const int error = call(fd, F_OFD_GETLK, lock); error != 0) return Error(error);
  if (lock.l_type == F_UNLCK) return std::nullopt;
  const off_t last = lock.l_len == 0 ? range.last : lock.l_start + lock.l_len - 1;
  return ByteRange{std::max(lock.l_start, range.first), std::min(last, range.last)};
}

Result<bool> is_locked_by_others(int fd, off_t byte) {
  OUTBOARD_TRY(const auto found, locked_by_others(fd, {byte, byte}));
  return found.has_value();
}

bool held_by_another(int error) { return error == EAGAIN || error == EACCES; }

bool has_no_locks(int error) { return error == ENOLCK || error == EOPNOTSUPP || error == ENOSYS || error == EINVAL; }

}  // namespace outboard::storage
