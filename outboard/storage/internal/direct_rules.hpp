#pragma once

#include <cstdint>
#include <optional>

namespace outboard::storage {

/// The alignment that O_DIRECT requires on an image.
struct DirectRules {
  std::uint32_t memory = 4096;  ///< bytes: alignment of a piece's address; power of two
  std::uint32_t unit = 4096;  ///< bytes: alignment of offsets and lengths, also of pieces; power of two, at least 512
};

/// The alignment that the kernel reports for `fd`, which is open with O_DIRECT; `assumed` bytes for both if it reports none
/// (kernels before 6.1, some file systems). nullopt: the file system does not support O_DIRECT. Reads from the file, so it
/// waits for the storage.
std::optional<DirectRules> measure_direct(int fd, std::uint32_t assumed);

}  // namespace outboard::storage
