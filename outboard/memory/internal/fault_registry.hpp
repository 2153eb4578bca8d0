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
  int ones =
      -1;  ///< for registers: a file with a page of ones that replaces a lost page; -1: zeros, to the end of the range
};

/// One entry of the registry. One thread at a time writes it, the signal handler reads it at any time; it is never freed. The
/// sequence number is odd during a change. A handler skips an entry that is being changed: it cannot be the entry of the range
/// that faulted, since a range in use stays mapped.
class FaultSlot {
 public:
  void set(const GuardedRange& range);
  void clear() { set(GuardedRange{}); }
  /// Whether `address` lies in the range; if so, fills `range`. Async-signal-safe.
  bool holds(std::uintptr_t address, GuardedRange& range) const;

  /// The address from which on the range has been repaired (registers: page by page); null: nothing has been.
  const std::atomic<const std::byte*>& mark() const { return lost_; }
  /// Records a repair. Async-signal-safe. Several threads may call it at once: the lowest address is kept.
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

/// The mapped files of this process, for the signal handler. It is global since a signal handler has no other way to reach
/// them; docs/architecture.md lists the library's process-wide state.
class FaultRegistry {
 public:
  static FaultRegistry& instance();

  /// Any thread. The caller owns the slot until remove().
  FaultSlot& add(const GuardedRange& range);
  /// Before the range is unmapped.
  void remove(FaultSlot& slot);
  /// Null: the address is in no range. Async-signal-safe: takes no lock, allocates nothing.
  FaultSlot* find(std::uintptr_t address, GuardedRange& range);

 private:
  // A list of blocks that only grows, to the maximum number of slots used at the same time.
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
