#include <outboard/storage/image_identity.hpp>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cstdint>

#include <fmt/format.h>

// Of the kernel's headers since 5.15.
#ifndef BLKGETDISKSEQ
#define BLKGETDISKSEQ _IOR(0x12, 128, __u64)
#endif

namespace outboard::storage {

Result<StorageIdentity> identity_of_image(const Image& image) {
  const int fd = image.fd.get();
  struct statx info{};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &info) != 0) {
    // Denied, or a kernel without it: the same without the time of birth.
    struct stat plain{};
    if (::fstat(fd, &plain) != 0) return Error::from_errno("looking which file it is").on(image.path);
    info = {};
    info.stx_ino = plain.st_ino;
    info.stx_dev_major = major(plain.st_dev);
    info.stx_dev_minor = minor(plain.st_dev);
    info.stx_rdev_major = major(plain.st_rdev);
    info.stx_rdev_minor = minor(plain.st_rdev);
  }
  StorageIdentity identity{.contents = StorageIdentity::Contents::kept,
                           .size = image.geometry.capacity,
                           .name = image.path,
                           .page_cache = !image.direct.valid()};
  if (image.block_device) {
    std::uint64_t sequence = 0;
    if (::ioctl(fd, BLKGETDISKSEQ, &sequence) != 0) sequence = 0;
    identity.device = makedev(info.stx_rdev_major, info.stx_rdev_minor);
    identity.id = fmt::format("block device {}:{}, disk {}", info.stx_rdev_major, info.stx_rdev_minor, sequence);
  } else {
    const bool born = (info.stx_mask & STATX_BTIME) != 0;
    identity.device = makedev(info.stx_dev_major, info.stx_dev_minor);
    identity.id = fmt::format("file {} of {}:{}, born {}.{:09}", info.stx_ino, info.stx_dev_major, info.stx_dev_minor,
                              born ? info.stx_btime.tv_sec : 0, born ? info.stx_btime.tv_nsec : 0);
  }
  return identity;
}

}  // namespace outboard::storage
