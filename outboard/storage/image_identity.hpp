#pragma once

#include <string>

#include <outboard/base/result.hpp>
#include <outboard/base/storage_identity.hpp>
#include <outboard/storage/image.hpp>

namespace outboard::storage {

/// Which file, or which block device, an open image is. A file: its file system, inode number and time of birth; another file
/// of the same name, or one that was moved to another file system, is another one. A block device: its number, and the number
/// that the kernel gives each disk that it finds (since 5.15), so that what is attached under the same name later is another one.
/// Its name is the absolute path.
Result<StorageIdentity> identity_of_image(const Image& image);

/// StorageIdentity::id of what `fd` has open. Errors as stat().
Result<std::string> id_of_image(int fd);

}  // namespace outboard::storage
