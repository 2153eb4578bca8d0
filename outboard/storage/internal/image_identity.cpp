#include <outboard/storage/internal/image_identity.hpp>

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include <cstdint>
#include <filesystem>
#include <system_error>

#include <fmt/format.h>

#include <outboard/base/internal/file_birth.hpp>

// Of the kernel's headers since 5.15.
#ifndef BLKGETDISKSEQ
#define BLKGETDISKSEQ _IOR(0x12, 128, __u64)
#endif

namespace outboard::storage {

namespace {

std::string id_of(int fd, const FileBirth& birth) {
  if (birth.device == 0)
    return fmt::format("file {} of {}:{}, born {}.{:09}", birth.inode, major(birth.file_system),
                       minor(birth.file_system), birth.born_seconds, birth.born_nanoseconds);
  std::uint64_t sequence = 0;
  if (::ioctl(fd, BLKGETDISKSEQ, &sequence) != 0) sequence = 0;
  return fmt::format("block device {}:{}, disk {}", major(birth.device), minor(birth.device), sequence);
}

/// A server of another working directory looks for it there.
std::string absolute(const std::string& path) {
  std::error_code failed;
  const auto found = std::filesystem::absolute(path, failed);
  return failed ? path : found.string();
}

}  // namespace

Result<StorageIdentity> identity_of_image(const Image& image) {
  const auto birth = birth_of(image.fd.get());
  if (!birth) return Error(birth.error()).on(image.path);
  return StorageIdentity{.contents = StorageIdentity::Contents::kept,
                         .size = image.geometry.capacity,
                         .id = id_of(image.fd.get(), *birth),
                         .name = absolute(image.path),
                         .device = image.block_device ? birth->device : birth->file_system,
                         .page_cache = !image.direct.valid()};
}

Result<std::string> id_of_image(int fd) {
  OUTBOARD_TRY(const auto birth, birth_of(fd));
  return id_of(fd, birth);
}

}  // namespace outboard::storage
