#pragma once

#include <cstdint>

namespace outboard::virtio {

/// The sizes of a Request and the device's position in it, which Request reads inline.
struct RequestProgress {
  /// A place in one part of the buffer.
  struct Cursor {
    std::uint32_t element = 0;
    std::uint32_t offset = 0;  ///< in that element
    std::uint64_t done = 0;  ///< bytes of the part before this place
  };
  std::uint64_t readable_bytes = 0;
  std::uint64_t writable_bytes = 0;
  Cursor read;
  Cursor write;
  std::uint32_t queue_index = 0;
  bool replayed = false;
};

}  // namespace outboard::virtio
