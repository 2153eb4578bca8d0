#include <outboard/storage/range_limits.hpp>

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <outboard/storage/request_queue.hpp>

namespace outboard::storage {

namespace {

void measure_block_device(Image& image, const std::string& sys) {
  struct stat info{};
  if (::fstat(image.fd.get(), &info) != 0) return;
  Geometry& geometry = image.geometry;
  const auto queue = RequestQueue::of(info.st_rdev, sys);
  // Unknown: trying a discard costs nothing; zeros may be the kernel's to write, which takes as long as it takes.
  geometry.can_discard = geometry.can_discard && queue.limit("discard_max_bytes").value_or(1) != 0;
  const bool zeroes = !geometry.read_only && queue.limit("write_zeroes_max_bytes").value_or(0) != 0;
  geometry.can_write_zeroes = geometry.can_unmap_zeroes = zeroes;
}

/// Whether the file system makes zeros without writing them, by its kind: asking it would take space, which not every file
/// system gives back where nothing lies yet.
bool makes_zeros(const Image& image) {
  struct statfs system{};
  if (::fstatfs(image.fd.get(), &system) != 0) return false;
  switch (static_cast<unsigned long>(system.f_type)) {
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case F2FS_SUPER_MAGIC:
      return true;
    default:
      return false;
  }
}

}  // namespace

void measure_ranges(Image& image, const std::string& sys) {
  if (image.block_device) return measure_block_device(image, sys);
  image.geometry.can_write_zeroes = image.geometry.can_discard && makes_zeros(image);
}

}  // namespace outboard::storage
