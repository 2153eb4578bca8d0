#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace outboard {

/// Registrations by id, for a Loop. An id is not reused after its entry was removed, so an event that was collected before its
/// watch ended finds no entry. A lookup is one index and one comparison. One thread.
///
/// A callback may remove its own entry: the caller holds the entry with `Running`, which destroys it when the callback has
/// returned.
template <typename Entry>
class Registry {
 public:
  /// Never 0, and never below 2^32: a loop may use small numbers for events of its own.
  std::uint64_t add(std::unique_ptr<Entry> entry) {
    std::uint32_t index = 0;
    if (free_.empty()) {
      index = static_cast<std::uint32_t>(slots_.size());
      slots_.emplace_back();
    } else {
      index = free_.back();
      free_.pop_back();
    }
    Slot& slot = slots_[index];
    slot.entry = std::move(entry);
    return std::uint64_t{slot.generation} << 32 | index;
  }

  Entry* find(std::uint64_t id) const {
    const auto index = static_cast<std::uint32_t>(id);
    if (index >= slots_.size() || slots_[index].generation != id >> 32) return nullptr;
    return slots_[index].entry.get();
  }

  /// Removes the entry and returns it; null: it was removed already. The caller destroys it, which may call the loop. While the
  /// entry's callback runs, the registry keeps it until the callback has returned, and returns null.
  std::unique_ptr<Entry> remove(std::uint64_t id) {
    if (find(id) == nullptr) return nullptr;
    const auto index = static_cast<std::uint32_t>(id);
    Slot& slot = slots_[index];
    std::unique_ptr<Entry> entry = std::move(slot.entry);
    if (++slot.generation == 0) slot.generation = 1;
    free_.push_back(index);
    if (entry.get() != running_) return entry;
    retired_ = std::move(entry);
    return nullptr;
  }

  /// The id of any entry; 0: there is none. For the end of the loop.
  std::uint64_t any() const {
    for (std::uint32_t index = 0; index < slots_.size(); ++index) {
      if (slots_[index].entry) return std::uint64_t{slots_[index].generation} << 32 | index;
    }
    return 0;
  }

  /// Keeps `entry` alive while its callback runs. Callbacks do not nest.
  class Running {
   public:
    Running(Registry& registry, Entry& entry) : registry_(registry) { registry_.running_ = &entry; }
    ~Running() {
      registry_.running_ = nullptr;
      const auto gone = std::move(registry_.retired_);
    }
    Running(const Running&) = delete;
    Running& operator=(const Running&) = delete;

   private:
    Registry& registry_;
  };

 private:
  struct Slot {
    std::unique_ptr<Entry> entry;
    std::uint32_t generation = 1;
  };
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
  Entry* running_ = nullptr;
  std::unique_ptr<Entry> retired_;
};

}  // namespace outboard
