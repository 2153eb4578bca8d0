#include <outboard/memory/internal/buddy.hpp>

#include <algorithm>
#include <bit>

namespace outboard::memory {

unsigned Buddy::order_of(std::uint64_t size) {
  const std::uint64_t block = std::bit_ceil(std::max(size, min_block));
  return static_cast<unsigned>(std::countr_zero(block) - std::countr_zero(min_block));
}

Buddy::Buddy(std::uint64_t size) : free_(order_of(size) + 1) { free_.back().insert(0); }

std::optional<std::uint64_t> Buddy::allocate(std::uint64_t size) {
  const unsigned wanted = order_of(size);
  unsigned order = wanted;
  while (order < free_.size() && free_[order].empty()) ++order;
  if (order >= free_.size()) return std::nullopt;
  const std::uint64_t offset = *free_[order].begin();
  free_[order].erase(free_[order].begin());
  while (order > wanted) {  // the upper half stays free
    --order;
    free_[order].insert(offset + (min_block << order));
  }
  allocated_.emplace(offset, wanted);
  return offset;
}

bool Buddy::release(std::uint64_t offset) {
  const auto found = allocated_.find(offset);
  if (found == allocated_.end()) return false;
  unsigned order = found->second;
  allocated_.erase(found);
  for (; order + 1 < free_.size(); ++order) {
    const std::uint64_t other_half = offset ^ (min_block << order);
    if (free_[order].erase(other_half) == 0) break;
    offset = std::min(offset, other_half);
  }
  free_[order].insert(offset);
  return true;
}

}  // namespace outboard::memory
