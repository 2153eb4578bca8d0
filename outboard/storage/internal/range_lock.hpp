#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <mutex>
#include <vector>

namespace outboard::storage {

/// Locks ranges of an image, first come, first served. An exclusive range waits for all earlier ranges that it overlaps, a
/// shared range for the exclusive ones among them. A range never waits for a later one, so there is no deadlock. Any thread. No
/// call waits or runs a callback, except Owner::wake(); its time is linear in the number of ranges.
class RangeLock {
 public:
  enum class Mode : std::uint8_t { shared, exclusive };
  class Owner;

  /// A range. It must not move between acquire and release.
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

  /// An owner of tickets. It releases them before it is destroyed.
  class Owner {
   public:
    virtual ~Owner() = default;
    /// Whether take_granted() has tickets to return.
    bool has_granted() const { return has_granted_.load(std::memory_order_relaxed); }

   protected:
    /// take_granted() has tickets to return. Called on the thread that released a range, with the mutex held: it must only wake
    /// the thread of the owner.
    virtual void wake() = 0;

   private:
    friend RangeLock;
    std::vector<Ticket*> granted_;
    std::atomic<bool> has_granted_{false};
  };

  /// True: the range is locked. False: it waits; its owner is woken when it is locked.
  bool acquire(Ticket& ticket);
  /// Releases a ticket that is locked, or still waits.
  void release(Ticket& ticket);
  /// The tickets of `owner` that had to wait and are locked now.
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
