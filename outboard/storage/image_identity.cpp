#include <outboard/storage/image_identity.hpp>

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <cstdint>

#include <fmt/format.h>

#include <outboard/base/file_birth.hpp>

// Of the kernel's headers since 5.15.
#ifndef BLKGETDISKSEQ
#define BLKGETDISKSEQ _IOR(0x12, 128, __u64)
#endif

namespace outboard::storage {

Result<StorageIdentity> identity_of_image(const Image& image) {
  const auto birth = birth_of(image.fd.get());
  if (!birth) return Error(birth.error()).on(image.path);
  StorageIdentity identity{.contents = StorageIdentity::Contents::kept,
                           .size = image.geometry.capacity,
                           .name = image.path,
                           .page_cache = !image.direct.valid()};
  if (image.block_device) {
    std::uint64_t sequence = 0;
    if (::ioctl(image.fd.get(), BLKGETDISKSEQ, &sequence) != 0) sequence = 0;
    identity.device = birth->device;
    identity.id = fmt::format("block device {}:{}, disk {}", major(birth->device), minor(birth->device), sequence);
  } else {
    identity.device = birth->file_system;
    identity.id = fmt::format("file {} of {}:{}, born {}.{:09}", birth->inode, major(birth->file_system),
                              minor(birth->file_system), birth->born_seconds, birth->born_nanoseconds);
  }
  return identity;
}

}  // namespace outboard::storage
