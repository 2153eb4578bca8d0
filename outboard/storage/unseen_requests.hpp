#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>

#include <outboard/base/fd.hpp>
#include <outboard/storage/request_queue.hpp>

namespace outboard::storage {

/// Requests that the kernel may have begun on a disk without a word: it reads ahead for a read whose bytes are all in its page
/// cache. How many there are it tells only of the whole disk, so it is asked when there may be too many. Any thread.
class UnseenRequests {
 public:
  /// Nothing is known of the disk: all that is noted is forgotten at the next look.
  UnseenRequests() = default;
  /// `stat` is the disk's file of that name in sysfs (Documentation/block/stat.rst).
  explicit UnseenRequests(UniqueFd stat);
  /// The one for the disk of `queue`, which all of this process share.
  static std::shared_ptr<UnseenRequests> on(const RequestQueue& queue);

  /// How many of those that have been noted have not ended. Too few, where others use the disk too: what it has ended may have been
  /// theirs. Room is left for that (see room_in()).
  unsigned count() const { return count_.load(std::memory_order_relaxed); }
  void note(unsigned more) { count_.fetch_add(more, std::memory_order_relaxed); }
  /// Asks the disk how many are left. `room`: how many requests may be begun on it. Takes some microseconds, and never waits for
  /// the disk.
  void look(unsigned room);

 private:
  struct Figures {
    std::uint64_t ended = 0;
    std::uint64_t in_flight = 0;
  };
  std::optional<Figures> figures() const;

  UniqueFd stat_;
  std::atomic<unsigned> count_{0};
  std::mutex mutex_;
  std::uint64_t ended_ = 0;  // guarded by mutex_: at the last look
};

}  // namespace outboard::storage
