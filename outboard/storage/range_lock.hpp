#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <mutex>
#include <vector>

namespace outboard::storage {

/// Orders what changes overlapping parts of an image, first come, first served. An exclusive range waits for every earlier one
/// that it overlaps, a shared range for the exclusive ones. What is earlier waits for nothing that is later: nothing waits for
/// ever. Any thread; no call waits, calls back, or takes longer than to look at the ranges there are.
class RangeLock {
 public:
  enum class Mode : std::uint8_t { shared, exclusive };
  class Owner;

  /// A range. Stays where it is while it has been acquired and not released.
  class Ticket {
   public:
    Owner* owner = nullptr;
    std::uint64_t begin = 0;  ///< bytes
    std::uint64_t end = 0;
    Mode lock_mode = Mode::shared;

   private:
    friend RangeLock;
    bool overlaps(const Ticket& other) const { return begin < other.end && other.begin < end; }

    std::uint64_t number = 0;  ///< in the order of acquiring
    unsigned earlier = 0;  ///< how many it waits for
    std::list<Ticket*>::iterator place;
  };

  /// Whoever has tickets. Releases them before it goes.
  class Owner {
   public:
    virtual ~Owner() = default;
    /// Whether take_granted() has something to give.
    bool has_granted() const { return has_granted_.load(std::memory_order_relaxed); }

   protected:
    /// There is something to take. On the thread that released what it waited for, and inside the lock: only tells the thread of
    /// the owner.
    virtual void wake() = 0;

   private:
    friend RangeLock;
    std::vector<Ticket*> granted_;
    std::atomic<bool> has_granted_{false};
  };

  /// True: the range is held. False: its owner is woken when it is.
  bool acquire(Ticket& ticket);
  /// Of a ticket that is held, or still waits.
  void release(Ticket& ticket);
  /// The tickets of `owner` that had to wait and are held by now.
  std::vector<Ticket*> take_granted(Owner& owner);

 private:
  std::list<Ticket*>& list(Mode mode) { return mode == Mode::shared ? shared_ : exclusive_; }
  void let_go_on(std::list<Ticket*>& waiting, const Ticket& released);

  std::mutex mutex_;
  std::uint64_t next_number_ = 0;  // these are guarded by mutex_, in the order of acquiring
  std::list<Ticket*> shared_;
  std::list<Ticket*> exclusive_;
};

}  // namespace outboard::storage
