#include <outboard/memory/internal/fault_registry.hpp>

namespace outboard::memory {

void FaultSlot::set(const GuardedRange& range) {
  const std::uint32_t sequence = sequence_.load(std::memory_order_relaxed);
  sequence_.store(sequence + 1, std::memory_order_relaxed);
  // Row M5, release: a handler that reads one of these new values also sees the odd number (its second look at it).
  begin_.store(range.begin, std::memory_order_release);
  length_.store(range.length, std::memory_order_release);
  page_size_.store(range.page_size, std::memory_order_release);
  protection_.store(range.protection, std::memory_order_release);
  ones_.store(range.ones, std::memory_order_release);
  lost_.store(nullptr, std::memory_order_release);
  sequence_.store(sequence + 2, std::memory_order_release);
}

bool FaultSlot::holds(std::uintptr_t address, GuardedRange& range) const {
  const std::uint32_t before = sequence_.load(std::memory_order_acquire);
  // Row M6, acquire: pairs with the stores of set(), and keeps the second look at the sequence after them.
  range.begin = begin_.load(std::memory_order_acquire);
  range.length = length_.load(std::memory_order_acquire);
  range.page_size = page_size_.load(std::memory_order_acquire);
  range.protection = protection_.load(std::memory_order_acquire);
  range.ones = ones_.load(std::memory_order_acquire);
  if (before % 2 != 0 || sequence_.load(std::memory_order_relaxed) != before) return false;
  const auto begin = reinterpret_cast<std::uintptr_t>(range.begin);
  return address >= begin && address - begin < range.length;
}

FaultRegistry& FaultRegistry::instance() {
  static auto* only = new FaultRegistry;  // never destroyed: a fault may come until the very end
  return *only;
}

FaultSlot& FaultRegistry::add(const GuardedRange& range) {
  const std::lock_guard lock(writers_);
  if (free_.empty()) {
    Block* block = last_ == nullptr ? &first_ : new Block;
    for (FaultSlot& slot : block->slots) free_.push_back(&slot);
    if (last_ != nullptr) last_->next.store(block, std::memory_order_release);  // row M7
    last_ = block;
  }
  FaultSlot& slot = *free_.back();
  free_.pop_back();
  slot.set(range);
  return slot;
}

void FaultRegistry::remove(FaultSlot& slot) {
  const std::lock_guard lock(writers_);
  slot.clear();
  free_.push_back(&slot);
}

FaultSlot* FaultRegistry::find(std::uintptr_t address, GuardedRange& range) {
  for (Block* block = &first_; block != nullptr; block = block->next.load(std::memory_order_acquire)) {  // row M8
    for (FaultSlot& slot : block->slots) {
      if (slot.holds(address, range)) return &slot;
    }
  }
  return nullptr;
}

}  // namespace outboard::memory
