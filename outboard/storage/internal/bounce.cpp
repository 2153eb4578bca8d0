#include <outboard/storage/internal/bounce.hpp>

#include <algorithm>
#include <cstring>

#include <outboard/storage/pieces.hpp>

namespace outboard::storage {

namespace {

/// Pages, since a storage may be stricter than it says.
std::size_t memory_alignment(const DirectRules& rules) { return std::max({rules.memory, rules.unit, 4096U}); }

}  // namespace

Bounce::Bounce(const DirectRules& rules, std::uint64_t offset, std::uint64_t length, std::uint64_t max_size)
    : rules_(rules), begin_(offset - offset % rules.unit), skip_(offset % rules.unit) {
  length_ = std::min(length, max_size - skip_);
  size_ = (skip_ + length_ + rules.unit - 1) / rules.unit * rules.unit;
}

std::uint64_t Bounce::memory_size() const {
  const std::uint64_t alignment = memory_alignment(rules_);
  return (size_ + alignment - 1) / alignment * alignment;
}

bool Bounce::allocate() {
  memory_.reset(static_cast<std::byte*>(std::aligned_alloc(memory_alignment(rules_), memory_size())));
  return memory_ != nullptr;
}

std::uint64_t Bounce::reached_by(std::uint64_t bytes) const {
  return bytes <= skip_ ? 0 : std::min(bytes - skip_, length_);
}

void Bounce::copy_in(std::span<const iovec> pieces) {
  std::byte* at = memory_.get() + skip_;
  for_each_piece(pieces, [&](std::uint64_t offset, MutableBytes piece) {
    if (offset >= length_ || piece.empty()) return;
    std::memcpy(at + offset, piece.data(), std::min<std::uint64_t>(piece.size(), length_ - offset));
  });
}

void Bounce::copy_out(std::span<const iovec> pieces, std::uint64_t bytes) const {
  const std::byte* at = memory_.get() + skip_;
  for_each_piece(pieces, [&](std::uint64_t offset, MutableBytes piece) {
    if (offset >= bytes || piece.empty()) return;
    std::memcpy(piece.data(), at + offset, std::min<std::uint64_t>(piece.size(), bytes - offset));
  });
}

}  // namespace outboard::storage
