#include <outboard/storage/internal/image.hpp>

#include <algorithm>
#include <bit>
#include <cstdint>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include <outboard/base/internal/file_holder.hpp>
#include <outboard/base/internal/shell_word.hpp>
#include <outboard/storage/internal/direct_rules.hpp>
#include <outboard/storage/internal/image_claim.hpp>

namespace outboard::storage {

namespace {

ImageAccess access_of(const Image& image) { return image.geometry.read_only ? ImageAccess::read : ImageAccess::write; }

/// Whether `path` is a block device that is switched to read-only.
bool is_write_protected(const std::string& path) {
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0 || !S_ISBLK(info.st_mode)) return false;
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  int locked = 0;
  return fd && ::ioctl(fd.get(), BLKROGET, &locked) == 0 && locked != 0;
}

Error no_permission(int code, const std::string& path, bool read_only) {
  if (!read_only && is_write_protected(path)) {
    return Error(code, "the block device is write-protected")
        .on(path)
        .cure("serve it read-only, or: blockdev --setrw " + shell_path(path));
  }
  if (code == EROFS) {
    return Error(EROFS, "it lies on a file system that is mounted read-only").on(path).cure("serve it read-only");
  }
  if (!read_only && ::access(path.c_str(), R_OK) == 0) {
    return Error(code, "no permission to write the image")
        .on(path)
        .cure("serve it read-only, or: chmod u+w " + shell_path(path));
  }
  return Error(code, "no permission to read the image").on(path).cure("see: ls -ld " + shell_path(path));
}

Error open_error(int code, const std::string& path, bool read_only) {
  switch (code) {
    case ENOENT:
      return Error(ENOENT, "there is no such image")
          .on(path)
          .cure("to make an empty one: truncate -s 1G " + shell_path(path));
    case EACCES:
    case EPERM:
    case EROFS:
      return no_permission(code, path, read_only);
    case EISDIR:
      return Error(EISDIR, "is a directory, not an image").on(path).cure("name an image file or a block device");
    case EBUSY:
      return Error(EBUSY, "the block device is in use (mounted, swap, part of a volume, or claimed by another process)")
          .on(path)
          .cure(fmt::format("see what uses it: lsblk {0}; fuser -v {0}", shell_path(path)));
    case EMFILE:
    case ENFILE:
      return Error(code, "out of file descriptors").on(path).cure("raise the limit: ulimit -n, LimitNOFILE=");
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

std::uint32_t power_of_two(std::uint64_t size, std::uint32_t otherwise) {
  return size >= 512 && size <= (1U << 20) && std::has_single_bit(size) ? static_cast<std::uint32_t>(size) : otherwise;
}

/// O_DIRECT writes whole units: the last one would make the file longer.
Result<std::uint64_t> check_end(const Image& image, std::uint64_t size) {
  const std::uint32_t unit = image.direct_rules.unit;
  if (!image.direct || image.geometry.read_only || size % unit == 0) return size;
  return Error(EINVAL, fmt::format("the image has {} bytes, which is not a multiple of {}, the unit of O_DIRECT on it",
                                   size, unit))
      .on(image.path)
      .cure(fmt::format("serve it without O_DIRECT, or: truncate -s {} {}", (size / unit + 1) * unit,
                        shell_path(image.path)));
}

Result<std::uint64_t> size_of(const Image& image, int fd) {
  std::uint64_t size = 0;
  if (image.block_device) {
    if (::ioctl(fd, BLKGETSIZE64, &size) != 0) return Error::from_errno("asking for its size").on(image.path);
  } else {
    struct stat info{};
    if (::fstat(fd, &info) != 0) return Error::from_errno("looking at the image").on(image.path);
    size = static_cast<std::uint64_t>(info.st_size);
  }
  if (size != 0 && size % 512 == 0) return check_end(image, size);
  Error error = Error(EINVAL, size == 0 ? "the image is empty"
                                        : fmt::format("the image has {} bytes, which is not a multiple of 512", size))
                    .on(image.path);
  const std::uint64_t whole = size - size % 512 + 512;
  const bool can_grow = !image.block_device && !image.geometry.read_only && whole <= INT64_MAX;
  if (!can_grow) return error;
  if (size == 0) return std::move(error).cure("truncate -s 1G " + shell_path(image.path));
  return std::move(error).cure(fmt::format("truncate -s {} {}", whole, shell_path(image.path)));
}

void measure_block_device(Image& image, int fd) {
  int logical = 512;
  unsigned physical = 0;
  unsigned optimal = 0;
  if (::ioctl(fd, BLKSSZGET, &logical) != 0) logical = 512;
  if (::ioctl(fd, BLKPBSZGET, &physical) != 0) physical = 0;
  if (::ioctl(fd, BLKIOOPT, &optimal) != 0) optimal = 0;
  image.geometry.logical_block = power_of_two(static_cast<std::uint64_t>(std::max(logical, 0)), 512);
  image.geometry.physical_block = std::max(power_of_two(physical, 512), image.geometry.logical_block);
  image.geometry.optimal_io = optimal;
}

/// What `info.st_blksize` means for a disk: a file system's unit up to a page, beyond that the size that suits it best (1
/// MiB on NFS), which no sector of a disk has.
void measure_file(Image& image, const struct stat& info) {
  constexpr std::uint32_t page = 4096;
  const std::uint32_t preferred = power_of_two(static_cast<std::uint64_t>(info.st_blksize), page);
  image.geometry.physical_block = std::min(preferred, page);
  image.geometry.optimal_io = preferred > page ? preferred : 0;
}

/// Punches in a hole of the file, where that changes nothing; without a hole nothing is known, and false is never true.
bool can_punch_in_a_hole(const Image& image) {
  const off_t hole = ::lseek(image.fd.get(), 0, SEEK_HOLE);
  if (hole < 0 || static_cast<std::uint64_t>(hole) >= image.geometry.capacity) return true;
  const off_t data = ::lseek(image.fd.get(), hole, SEEK_DATA);
  const off_t end = data < 0 ? static_cast<off_t>(image.geometry.capacity) : data;
  return ::fallocate(image.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, hole, end - hole) == 0;
}

/// Whether holes can be made. Asked beyond the end, where it changes nothing.
bool can_punch(const Image& image) {
  const auto end = static_cast<off_t>((image.geometry.capacity + 0xffff) & ~UINT64_C(0xffff));
  if (::fallocate(image.fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end, 65536) == 0) return true;
  // A file of the largest size has nothing beyond its end; of 8 EiB, not even a number for it.
  return (errno == EFBIG || errno == EINVAL) && image.held->load() && can_punch_in_a_hole(image);
}

/// What the image is. `fd` is open for reading.
Status measure(Image& image, int fd) {
  struct stat info{};
  if (::fstat(fd, &info) != 0) return Error::from_errno("looking at the image").on(image.path);
  if (S_ISDIR(info.st_mode)) return open_error(EISDIR, image.path, image.geometry.read_only);
  image.block_device = S_ISBLK(info.st_mode);
  if (!S_ISREG(info.st_mode) && !image.block_device) {
    return Error(EINVAL, "is neither a file nor a block device")
        .on(image.path)
        .cure("name an image file or a block device");
  }
  if (image.block_device) {
    measure_block_device(image, fd);
  } else {
    measure_file(image, info);
  }
  OUTBOARD_TRY(image.geometry.capacity, size_of(image, fd));
  return {};
}

void find_abilities(Geometry& geometry, bool punches) {
  geometry.can_discard = !geometry.read_only && punches;
  geometry.can_unmap_zeroes = geometry.can_discard;
  // A file system that makes no holes makes no zeros either; asking would take space beyond the end.
  geometry.can_write_zeroes = geometry.can_discard;
}

bool same_file(const UniqueFd& one, const UniqueFd& other) {
  struct stat first{};
  struct stat second{};
  return ::fstat(one.get(), &first) == 0 && ::fstat(other.get(), &second) == 0 && is_same_file(first, second);
}

/// Makes a descriptor one for I/O on the image, which is locked. EAGAIN: another file lies at its path by now.
Result<UniqueFd> locked_for_io(const Image& image, Result<UniqueFd> fd) {
  if (!fd) return fd;
  if (!same_file(*fd, image.guard))
    return Error(EAGAIN, "the image was replaced while it was being opened").on(image.path);
  if (image.held->load()) OUTBOARD_CHECK(lock_image_again(fd->get(), image.path, access_of(image), image.lock));
  return fd;
}

Result<UniqueFd> open_for_io(const Image& image, int more) {
  return locked_for_io(image, open_file(image.path, image.geometry.read_only, more));
}

/// The same; a block device that is written is claimed (O_EXCL).
Result<UniqueFd> open_and_claim(const Image& image, int more, const LockTimeouts& timeouts, const Log& log) {
  if (!image.block_device || image.geometry.read_only) return open_for_io(image, more);
  struct stat info{};
  if (::fstat(image.guard.get(), &info) != 0) return Error::from_errno("looking at the image").on(image.path);
  const auto open = [&] { return open_file(image.path, false, more | O_EXCL); };
  return locked_for_io(image, wait_for_claim(image.path, info.st_rdev, timeouts, log, open));
}

/// Leaves `image.direct` absent where O_DIRECT is not to be had: some of the requests by O_DIRECT and some through the page cache
/// would lose data.
Status open_direct(Image& image, const LockTimeouts& timeouts, const Log& log) {
  auto fd = open_and_claim(image, O_DIRECT, timeouts, log);
  if (!fd && fd.error().code() != EINVAL) return fd.error();
  if (fd) {
    if (const auto rules = measure_direct(fd->get(), image.block_device ? image.geometry.logical_block : 4096)) {
      image.direct_rules = *rules;
      image.direct = std::move(*fd);
      return {};
    }
  }
  log.warning("{}: its file system does not do O_DIRECT: going through the page cache", image.path);
  return {};
}

}  // namespace

Result<std::uint64_t> Image::size_now() const { return size_of(*this, fd.get()); }

void Image::let_go() const {
  if (!held->exchange(false)) return;
  for (const UniqueFd* each : {&direct, &fd, &guard}) {
    if (*each) unlock_image(each->get(), access_of(*this));
  }
}

Status Image::take_back(const Log& log) const {
  if (held->load()) return {};
  const LockTimeouts at_once{.running = Duration::zero(), .ended = Duration::zero()};
  OUTBOARD_TRY(const LockScope scope, lock_image(guard.get(), path, access_of(*this), at_once, log));
  held->store(true);
  for (const UniqueFd* each : {&fd, &direct}) {
    const Status locked = *each ? lock_image_again(each->get(), path, access_of(*this), scope) : Status();
    if (locked) continue;
    let_go();
    return locked;
  }
  return {};
}

namespace {

/// `timeouts`: none, where the image is not to be locked.
Result<Image> open_image(const std::string& path, bool read_only, bool direct, const Log& log,
                         const LockTimeouts* timeouts) {
  Image image;
  image.path = path;
  image.geometry.read_only = read_only;
  image.held->store(timeouts != nullptr);
  // For reading: nothing opens the image for writing before it is locked.
  OUTBOARD_TRY(image.guard, open_file(path, true, 0));
  OUTBOARD_CHECK(measure(image, image.guard.get()));
  if (!read_only && image.block_device && is_write_protected(path)) return no_permission(EACCES, path, false);
  if (timeouts != nullptr) {
    OUTBOARD_TRY(image.lock, lock_image(image.guard.get(), path, access_of(image), *timeouts, log));
  } else if (image.block_device && !read_only) {
    return Error(ENOTSUP, "only one process can claim a block device, so it cannot be opened before the other lets go")
        .on(path);
  }
  const LockTimeouts waits = timeouts != nullptr ? *timeouts : LockTimeouts{};
  if (direct) OUTBOARD_CHECK(open_direct(image, waits, log));
  OUTBOARD_TRY(image.fd, image.direct ? open_for_io(image, 0) : open_and_claim(image, 0, waits, log));
  OUTBOARD_TRY(image.geometry.capacity, image.size_now());
  find_abilities(image.geometry, image.block_device || can_punch(image));
  return image;
}

}  // namespace

Result<Image> open_image(const std::string& path, bool read_only, bool direct, const Log& log,
                         const LockTimeouts& timeouts) {
  return open_image(path, read_only, direct, log, &timeouts);
}

Result<Image> open_image_unlocked(const std::string& path, bool read_only, bool direct, const Log& log) {
  return open_image(path, read_only, direct, log, nullptr);
}

}  // namespace outboard::storage
