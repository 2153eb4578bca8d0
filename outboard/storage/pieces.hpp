#pragma once

#include <cstdint>
#include <cstring>
#include <span>

#include <sys/uio.h>

#include <outboard/base/bytes.hpp>

namespace outboard::storage {

inline std::uint64_t total_length(std::span<const iovec> pieces) {
  std::uint64_t total = 0;
  for (const iovec& piece : pieces) total += piece.iov_len;
  return total;
}

/// Calls `each(offset, MutableBytes)` for every piece, with its place in the whole.
template <typename Each>
void for_each_piece(std::span<const iovec> pieces, Each&& each) {
  std::uint64_t offset = 0;
  for (const iovec& piece : pieces) {
    each(offset, MutableBytes(static_cast<std::byte*>(piece.iov_base), piece.iov_len));
    offset += piece.iov_len;
  }
}

inline void fill_zeros(std::span<const iovec> pieces) {
  for (const iovec& piece : pieces) {
    if (piece.iov_len != 0) std::memset(piece.iov_base, 0, piece.iov_len);
  }
}

}  // namespace outboard::storage
