#pragma once

#include <cstdint>
#include <optional>

namespace outboard::storage {

/// What O_DIRECT takes of an image.
struct DirectRules {
  std::uint32_t memory = 4096;  ///< bytes: where a piece may begin; power of two
  std::uint32_t unit = 4096;    ///< bytes: of offsets and lengths, those of pieces too; power of two, at least 512
};

/// What the kernel says of `fd`, which is open with O_DIRECT, or `assumed` bytes of both (kernels before 6.1, and file systems that
/// do not say). Absent: O_DIRECT is not done here. Reads from the file; waits for the storage.
std::optional<DirectRules> measure_direct(int fd, std::uint32_t assumed);

}  // namespace outboard::storage
