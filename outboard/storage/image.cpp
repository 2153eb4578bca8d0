#include <outboard/storage/image.hpp>

#include <algorithm>
#include <bit>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

namespace outboard::storage {

namespace {

/// `path` as a shell takes it.
std::string quoted(const std::string& path) {
  const bool plain =
      path.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%,") ==
      std::string::npos;
  if (plain && !path.empty() && path[0] != '-') return path;
  std::string text = path[0] == '-' ? "'./" : "'";
  for (const char c : path) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

Error open_error(int code, const std::string& path, bool read_only) {
  switch (code) {
    case ENOENT:
      return Error(ENOENT, "there is no such image")
          .on(path)
          .cure("to make an empty one: truncate -s 1G " + quoted(path));
    case EACCES:
    case EPERM:
      if (!read_only && ::access(path.c_str(), R_OK) == 0) {
        return Error(code, "no permission to write the image")
            .on(path)
            .cure("serve it read-only, or: chmod u+w " + quoted(path));
      }
      return Error(code, "no permission to read the image").on(path).cure("see: ls -ld " + quoted(path));
    case EROFS:
      return Error(EROFS, "it lies on a file system that is mounted read-only").on(path).cure("serve it read-only");
    case EISDIR:
      return Error(EISDIR, "is a directory, not an image").on(path).cure("name an image file or a block device");
    case EBUSY:
      return Error(EBUSY, "the block device is in use (mounted, swap, or part of a volume)")
          .on(path)
          .cure("see what uses it: lsblk " + quoted(path));
    default: {
      errno = code;
      return Error::from_errno("opening the image").on(path);
    }
  }
}

Result<UniqueFd> open_file(const std::string& path, bool read_only, int more) {
  // O_NONBLOCK: a FIFO named by mistake must not make us wait for its other end. Taken away again, since io_uring heeds it
  // even on files and disks: where their driver cannot tell whether it would wait, each operation ends with EAGAIN.
  const int flags = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | more;
  UniqueFd fd(::open(path.c_str(), flags | O_NONBLOCK));
  if (!fd) return open_error(errno, path, read_only);
  if (::fcntl(fd.get(), F_SETFL, flags) != 0) return Error::from_errno("opening the image").on(path);
  return fd;
}

/// One that writes, or many that read. Locks of the open file description, so that they outlive neither it nor us.
Status lock(const Image& image, bool read_only, const Log& log) {
  struct flock range{};
  range.l_type = static_cast<short>(read_only ? F_RDLCK : F_WRLCK);
  range.l_whence = SEEK_SET;
  if (::fcntl(image.guard.get(), F_OFD_SETLK, &range) == 0) return {};
  if (errno != EAGAIN && errno != EACCES) {
    log.warning("{}: cannot be locked ({}): nothing keeps a second server from writing it", image.path,
                Error(errno).what());
    return {};
  }
  return Error(EBUSY,
               read_only ? "another process has the image open for writing" : "another process is using the image")
      .on(image.path)
      .cure("stop it, or serve the image read-only in both; to find it: fuser -v " + quoted(image.path));
}

std::uint32_t power_of_two(std::uint64_t size, std::uint32_t otherwise) {
  return size >= 512 && size <= (1U << 20) && std::has_single_bit(size) ? static_cast<std::uint32_t>(size) : otherwise;
}

Result<std::uint64_t> size_of(const Image& image) {
  std::uint64_t size = 0;
  if (image.block_device) {
    if (::ioctl(image.guard.get(), BLKGETSIZE64, &size) != 0)
      return Error::from_errno("asking for its size").on(image.path);
  } else {
    struct stat info{};
    if (::fstat(image.guard.get(), &info) != 0) return Error::from_errno("looking at the image").on(image.path);
    size = static_cast<std::uint64_t>(info.st_size);
  }
  if (size == 0) return Error(EINVAL, "the image is empty").on(image.path).cure("truncate -s 1G " + quoted(image.path));
  if (size % 512 != 0) {
    return Error(EINVAL, fmt::format("the image has {} bytes, which is not a multiple of 512", size))
        .on(image.path)
        .cure(fmt::format("truncate -s {} {}", size - size % 512 + 512, quoted(image.path)));
  }
  return size;
}

Status measure_block_device(Image& image) {
  const int fd = image.guard.get();
  int logical = 512;
  unsigned physical = 0;
  unsigned optimal = 0;
  int locked = 0;
  if (::ioctl(fd, BLKSSZGET, &logical) != 0) logical = 512;
  if (::ioctl(fd, BLKPBSZGET, &physical) != 0) physical = 0;
  if (::ioctl(fd, BLKIOOPT, &optimal) != 0) optimal = 0;
  if (::ioctl(fd, BLKROGET, &locked) == 0 && locked != 0 && !image.geometry.read_only)
    return open_error(EROFS, image.path, false);
  image.geometry.logical_block = power_of_two(static_cast<std::uint64_t>(std::max(logical, 0)), 512);
  image.geometry.physical_block = std::max(power_of_two(physical, 512), image.geometry.logical_block);
  image.geometry.optimal_io = optimal;
  image.alignment = image.geometry.logical_block;
  return {};
}

/// Memory, offset and length alignment of O_DIRECT on a file: what the kernel says, or a page.
std::uint32_t direct_alignment(int fd) {
#ifdef STATX_DIOALIGN
  struct statx info{};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 && (info.stx_mask & STATX_DIOALIGN) != 0 &&
      info.stx_dio_offset_align != 0) {
    return power_of_two(std::max(info.stx_dio_offset_align, info.stx_dio_mem_align), 4096);
  }
#endif
  static_cast<void>(fd);
  return 4096;
}

/// Whether holes can be made. Asked beyond the end, where it changes nothing.
bool can_punch(const Image& image) {
  const auto end = static_cast<off_t>((image.geometry.capacity + 0xffff) & ~UINT64_C(0xffff));
  return ::fallocate(image.guard.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end, 65536) == 0;
}

Status measure(Image& image) {
  struct stat info{};
  if (::fstat(image.guard.get(), &info) != 0) return Error::from_errno("looking at the image").on(image.path);
  if (S_ISDIR(info.st_mode)) return open_error(EISDIR, image.path, image.geometry.read_only);
  image.block_device = S_ISBLK(info.st_mode);
  if (!S_ISREG(info.st_mode) && !image.block_device) {
    return Error(EINVAL, "is neither a file nor a block device")
        .on(image.path)
        .cure("name an image file or a block device");
  }
  if (image.block_device) {
    OUTBOARD_CHECK(measure_block_device(image));
  } else {
    image.geometry.physical_block = power_of_two(static_cast<std::uint64_t>(info.st_blksize), 4096);
    image.alignment = direct_alignment(image.guard.get());
  }
  OUTBOARD_TRY(image.geometry.capacity, size_of(image));
  const bool writable = !image.geometry.read_only;
  image.geometry.can_discard = writable && (image.block_device || can_punch(image));
  image.geometry.can_unmap_zeroes = image.geometry.can_discard;
  // A file system that makes no holes makes no zeros either; asking would take space beyond the end.
  image.geometry.can_write_zeroes = image.geometry.can_discard;
  return {};
}

bool same_file(const UniqueFd& one, const UniqueFd& other) {
  struct stat first{};
  struct stat second{};
  return ::fstat(one.get(), &first) == 0 && ::fstat(other.get(), &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

/// Opens what lies at the path once more. EAGAIN when that is another file by now.
Result<UniqueFd> open_again(const Image& image, int more) {
  OUTBOARD_TRY(auto fd, open_file(image.path, image.geometry.read_only, more));
  if (!same_file(fd, image.guard))
    return Error(EAGAIN, "the image was replaced while it was being opened").on(image.path);
  return fd;
}

}  // namespace

Status Image::measure_again() {
  OUTBOARD_TRY(geometry.capacity, size_of(*this));
  return {};
}

Result<Image> Image::duplicate() const {
  Image other;
  OUTBOARD_TRY(other.guard, guard.duplicate());
  OUTBOARD_TRY(other.fd, fd.duplicate());
  if (direct) {
    OUTBOARD_TRY(other.direct, direct.duplicate());
  }
  other.alignment = alignment;
  other.block_device = block_device;
  other.path = path;
  other.geometry = geometry;
  other.flush_error = flush_error;
  return other;
}

Result<Image> open_image(const std::string& path, bool read_only, bool direct, const Log& log) {
  Image image;
  image.path = path;
  image.geometry.read_only = read_only;
  struct stat info{};
  const bool block_device = ::stat(path.c_str(), &info) == 0 && S_ISBLK(info.st_mode);
  // O_EXCL on a block device (and only there) fails while it is mounted.
  OUTBOARD_TRY(image.guard, open_file(path, read_only, block_device && !read_only ? O_EXCL : 0));
  OUTBOARD_CHECK(measure(image));
  OUTBOARD_CHECK(lock(image, read_only, log));
  OUTBOARD_TRY(image.fd, open_again(image, 0));
  if (!direct) return image;
  auto past_cache = open_again(image, O_DIRECT);
  if (past_cache) {
    image.direct = std::move(*past_cache);
  } else {
    log.warning("{}: its file system does not do O_DIRECT: going through the page cache", path);
  }
  return image;
}

}  // namespace outboard::storage
