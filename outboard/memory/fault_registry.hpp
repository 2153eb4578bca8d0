#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace outboard::memory {

/// A range of this process that the fault guard may have to repair.
struct GuardedRange {
  std::byte* begin = nullptr;
  std::uint64_t length = 0;     ///< of the whole mapping
  std::uint64_t page_size = 0;  ///< of the file's pages: huge ones can only be replaced whole
  int protection = 0;           ///< PROT_ bits
  int ones = -1;  ///< for registers: a file with a page of ones, to be put where one is gone; -1: zeroes, to the end
};

/// One entry of the registry. Written by one thread at a time, read by the signal handler at any time, never freed. The
/// sequence number is odd while it changes; a handler that meets one in change skips it, because the entry of the range
/// that faulted stands still: whoever touches the range keeps it mapped.
class FaultSlot {
 public:
  void set(const GuardedRange& range);
  void clear() { set(GuardedRange{}); }
  /// Whether `address` lies in the range; then `range` is filled. Async-signal-safe.
  bool holds(std::uintptr_t address, GuardedRange& range) const;

  /// From where on the range has been repaired, to its end (registers: page by page); null: it has not been.
  const std::atomic<const std::byte*>& mark() const { return lost_; }
  /// Async-signal-safe. Threads may meet here: what was lost stays so.
  void poison(const std::byte* from) {
    const std::byte* known = lost_.load(std::memory_order_relaxed);
    while ((known == nullptr || from < known) &&
           !lost_.compare_exchange_weak(known, from, std::memory_order_release, std::memory_order_relaxed)) {  // row M3
    }
  }

 private:
  std::atomic<std::uint32_t> sequence_{0};
  std::atomic<std::byte*> begin_{nullptr};
  std::atomic<std::uint64_t> length_{0};
  std::atomic<std::uint64_t> page_size_{0};
  std::atomic<int> protection_{0};
  std::atomic<int> ones_{-1};
  std::atomic<const std::byte*> lost_{nullptr};
};

/// The mapped files of this process, for the signal handler: it has no other way to them. This, and whether the handler
/// is installed, are the library's process-wide state, with the budget (base/budget.hpp) of what a process has once.
class FaultRegistry {
 public:
  static FaultRegistry& instance();

  /// Any thread. The slot stays the caller's until remove().
  FaultSlot& add(const GuardedRange& range);
  /// Before the range is unmapped.
  void remove(FaultSlot& slot);
  /// Null when the address is in no range. Async-signal-safe: takes no lock, allocates nothing.
  FaultSlot* find(std::uintptr_t address, GuardedRange& range);

 private:
  // A list of blocks that only grows, by as many as are in use at the same time.
  struct Block {
    std::array<FaultSlot, 256> slots;
    std::atomic<Block*> next{nullptr};
  };
  Block first_;
  Block* last_ = nullptr;  ///< writers only; null: first_ is not in use yet
  std::mutex writers_;
  std::vector<FaultSlot*> free_;
};

}  // namespace outboard::memory
