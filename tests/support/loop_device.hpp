#pragma once

#include <cstdint>
#include <string>

#include <sys/types.h>

#include <outboard/base/fd.hpp>
#include <outboard/base/result.hpp>

namespace outboard::testing {

/// A block device on a file.
struct LoopDevice {
  UniqueFd device;  ///< keeps it; without anyone who has it open it is gone
  std::string path;

  enum class Through : std::uint8_t { page_cache, o_direct };
  /// `block_size` 0: 512. Takes another free one where a test that runs beside this one is faster. EACCES, ENOENT and the like
  /// where this machine has no loop devices for us.
  static Result<LoopDevice> attach(const std::string& file, std::uint32_t block_size = 0,
                                   Through through = Through::page_cache);

  dev_t number() const;
};

}  // namespace outboard::testing
