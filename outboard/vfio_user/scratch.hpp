#pragma once

#include <cstddef>
#include <vector>

namespace outboard::vfio_user {

/// The use of a buffer in which messages are made: afterwards what a long one took is given back. One is rare, and what it took
/// would be kept for each connection.
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
