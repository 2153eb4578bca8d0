#pragma once

#include <cstddef>
#include <vector>

namespace outboard::vfio_user {

/// While it lives, a message is built in the buffer; afterwards a buffer of more than 64 KiB is freed. Long messages are rare,
/// and each connection would keep such a buffer.
class ScratchUse {
 public:
  explicit ScratchUse(std::vector<std::byte>& scratch) : scratch_(scratch) {}
  ~ScratchUse() {
    if (scratch_.capacity() > kept) std::vector<std::byte>().swap(scratch_);
  }
  ScratchUse(const ScratchUse&) = delete;
  ScratchUse& operator=(const ScratchUse&) = delete;

  static constexpr std::size_t kept = std::size_t{64} << 10;

 private:
  std::vector<std::byte>& scratch_;
};

}  // namespace outboard::vfio_user
