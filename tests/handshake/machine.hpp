#pragma once

#include <ucontext.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <outboard/memory/internal/shared.hpp>

namespace outboard::handshake {

/// Every way to decide, one after the other: depth first, by running the same thing again and again.
class Choices {
 public:
  /// One of `count`, numbered from 0.
  unsigned choose(unsigned count) {
    if (count <= 1) return 0;
    if (at_ == path_.size()) path_.push_back({0, count});
    return path_[at_++].taken;
  }
  /// Goes on to the next way. False: that was the last one.
  bool next() {
    at_ = 0;
    while (!path_.empty() && ++path_.back().taken == path_.back().count) path_.pop_back();
    return !path_.empty();
  }

 private:
  struct Choice {
    unsigned taken, count;
  };
  std::vector<Choice> path_;
  std::size_t at_ = 0;
};

/// What the processors of a machine may do to the order of accesses.
enum class MemoryModel : std::uint8_t {
  /// x86: each processor has a queue of stores that others do not see yet. A fence empties it.
  tso,
  /// C++ without speculation: a load may find any store that is not older than what its thread knows of, and a thread
  /// knows what a release that it has acquired knew. Full fences know of each other.
  weak,
};

/// Two threads on shared memory, a step at a time, in an order that Choices decides. A step ends before each load of a field
/// of the hand-shake (`is_signal`): what is stored between two loads could be seen by the other at any time afterwards, and
/// is, in one way or another; and nothing but those fields tells a thread to look at the rest of the memory. A load finds any
/// value that the model allows, which is decided when it loads.
class Machine final : public memory::SharedMemory {
 public:
  using IsSignal = std::function<bool(const void* at, std::size_t size)>;

  Machine(MemoryModel model, Choices& choices, IsSignal is_signal)
      : model_(model), choices_(choices), is_signal_(std::move(is_signal)) {}

  /// Full fences of functions with this in their name do nothing. Empty: all work.
  void remove_fence(std::string_view function) { removed_ = function; }
  /// The functions whose full fences were come to.
  const std::set<std::string>& fences() const { return fences_; }

  /// Runs both to their ends. Memory holds the last values afterwards.
  void run(std::function<void()> first, std::function<void()> second);

  std::uint64_t load(const void* at, std::size_t size, std::memory_order order) override;
  void store(void* at, std::size_t size, std::uint64_t value, std::memory_order order) override;
  void full_fence(const char* function) override;

 private:
  static constexpr std::size_t unit = 2;  ///< bytes: the smallest field of a ring, and what is loaded as one

  /// For each unit of memory, the number of the oldest store to it that may still be found.
  using View = std::map<std::uintptr_t, std::size_t>;
  struct Message {
    std::uint16_t value;
    View released;
  };
  struct Pending {
    void* at;
    std::size_t size;
    std::uint64_t value;
  };
  struct Thread {
    std::function<void()> body;
    std::vector<char> stack = std::vector<char>(std::size_t{256} << 10);
    ucontext_t context{};
    bool finished = false;
    std::deque<Pending> stores;  ///< tso: not seen by the other
    View view;  ///< weak: what it knows of
    View to_acquire;  ///< weak: what its next fence makes known to it
    View fenced;  ///< weak: what its last fence knew, which each later store tells
  };

  static void enter(unsigned high, unsigned low);
  static void join(View& into, const View& from);
  Thread& running() { return threads_[current_]; }
  void schedule();
  static void flush_one(Thread& thread);
  static void flush_all(Thread& thread);
  void let_other_be_seen(const void* at, std::size_t size);
  std::uint64_t load_tso(const void* at, std::size_t size);
  std::uint16_t load_weak(std::uintptr_t at, std::memory_order order);
  void store_weak(std::uintptr_t at, std::uint16_t value, std::memory_order order);
  std::vector<Message>& history(std::uintptr_t at);

  MemoryModel model_;
  Choices& choices_;
  IsSignal is_signal_;
  std::string_view removed_;
  std::set<std::string> fences_;
  std::array<Thread, 2> threads_;
  unsigned current_ = 0;
  ucontext_t scheduler_{};
  std::map<std::uintptr_t, std::vector<Message>> histories_;
  View fence_view_;  ///< weak: what all fences so far knew
};

}  // namespace outboard::handshake
