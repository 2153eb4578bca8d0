#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <sys/uio.h>

#include <outboard/base/bytes.hpp>

namespace outboard::storage {

inline std::uint64_t total_length(std::span<const iovec> pieces) {
  std::uint64_t total = 0;
  for (const iovec& piece : pieces) total += piece.iov_len;
  return total;
}

/// Calls `each(offset, MutableBytes)` for every piece, with its offset in the whole.
template <typename Each>
void for_each_piece(std::span<const iovec> pieces, Each&& each) {
  std::uint64_t offset = 0;
  for (const iovec& piece : pieces) {
    each(offset, MutableBytes(static_cast<std::byte*>(piece.iov_base), piece.iov_len));
    offset += piece.iov_len;
  }
}

/// Sets `into` to the `length` bytes of `pieces` from `offset` on, or as many as there are. `pieces` must not be in `into`.
inline void cut(std::span<const iovec> pieces, std::uint64_t offset, std::uint64_t length, std::vector<iovec>& into) {
  into.clear();
  for (const iovec& piece : pieces) {
    if (length == 0) return;
    const std::uint64_t skipped = std::min<std::uint64_t>(offset, piece.iov_len);
    const std::uint64_t taken = std::min(length, piece.iov_len - skipped);
    if (taken != 0) into.push_back({static_cast<std::byte*>(piece.iov_base) + skipped, taken});
    offset -= skipped;
    length -= taken;
  }
}

inline void fill_zeros(std::span<const iovec> pieces) {
  for (const iovec& piece : pieces) {
    if (piece.iov_len != 0) std::memset(piece.iov_base, 0, piece.iov_len);
  }
}

}  // namespace outboard::storage
