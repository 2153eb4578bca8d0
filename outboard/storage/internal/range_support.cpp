#include <outboard/storage/internal/range_support.hpp>

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <outboard/storage/internal/request_queue.hpp>

namespace outboard::storage {

namespace {

void probe_block_device(Image& image, const std::string& sys) {
  struct stat info{};
  if (::fstat(image.fd.get(), &info) != 0) return;
  Geometry& geometry = image.geometry;
  const auto limit = [&](std::string_view name) { return request_queue_limit(info.st_rdev, name, sys); };
  // Where sysfs has no limit: trying a discard costs nothing, but the kernel might write zeros itself, which can take minutes.
  geometry.can_discard = geometry.can_discard && limit("discard_max_bytes").value_or(1) != 0;
  const bool zeroes = !geometry.read_only && limit("write_zeroes_max_bytes").value_or(0) != 0;
  geometry.can_write_zeroes = geometry.can_unmap_zeroes = zeroes;
}

/// Whether the file system zeroes a range without writing zeros; decided by its type. A trial would allocate space, which not
/// every file system frees again.
bool zeroes_without_writing(const Image& image) {
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

void probe_range_support(Image& image, const std::string& sys) {
  if (image.block_device) return probe_block_device(image, sys);
  image.geometry.can_write_zeroes = image.geometry.can_discard && zeroes_without_writing(image);
}

}  // namespace outboard::storage
