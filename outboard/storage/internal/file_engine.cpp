#include <outboard/storage/internal/file_engine.hpp>

#include <cerrno>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace outboard::storage {

namespace {

ssize_t call(const FileOp& op, int fd) {
  const auto offset = static_cast<off_t>(op.offset);
  switch (op.kind) {
    case FileOp::Kind::read:
      return ::preadv(fd, op.pieces, static_cast<int>(op.piece_count), offset);
    case FileOp::Kind::write:
      return ::pwritev(fd, op.pieces, static_cast<int>(op.piece_count), offset);
    case FileOp::Kind::sync:
      return ::fdatasync(fd);
    case FileOp::Kind::allocate:
      return ::fallocate(fd, op.mode, offset, static_cast<off_t>(op.length));
    case FileOp::Kind::size:
      return ::statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, static_cast<struct statx*>(op.pieces->iov_base));
    case FileOp::Kind::discard: {
      std::uint64_t range[2] = {op.offset, op.length};
      return ::ioctl(fd, BLKDISCARD, range);
    }
  }
  errno = ENOTSUP;
  return -1;
}

}  // namespace

ssize_t perform(const FileOp& op, int fd) {
  const ssize_t result = call(op, fd);
  return result < 0 ? -errno : result;
}

}  // namespace outboard::storage
