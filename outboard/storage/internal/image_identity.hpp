#pragma once

#include <string>

#include <outboard/base/internal/storage_identity.hpp>
#include <outboard/base/result.hpp>
#include <outboard/storage/internal/image.hpp>

namespace outboard::storage {

/// The identity of an open image. Of a file: its file system, inode number and time of birth, so another file of the same name,
/// or a file that was moved to another file system, has another identity. Of a block device: its number and the kernel's
/// sequence number of the disk (since 5.15), so a disk that is attached later under the same name has another identity. Its
/// name is the absolute path.
Result<StorageIdentity> identity_of_image(const Image& image);

/// StorageIdentity::id of the file or device open as `fd`. Errors as stat().
Result<std::string> id_of_image(int fd);

}  // namespace outboard::storage
