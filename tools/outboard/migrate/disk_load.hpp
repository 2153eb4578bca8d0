#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include <tools/outboard/disk_session.hpp>
#include <tools/outboard/pattern.hpp>

namespace outboard::command {

/// Keeps requests in flight on a disk while it moves: reads; or writes of a pattern that are read back and compared. Each
/// request is submitted again from its completion. One thread.
class DiskLoad {
 public:
  enum class Kind : std::uint8_t { reads, writes };
  struct Options {
    Kind kind = Kind::reads;
    unsigned depth = 32;  ///< requests in flight on each queue
    std::uint64_t offset = 0, length = 0;  ///< of the disk: whole blocks
    std::uint64_t block = 4096;  ///< of a request
  };

  /// The session outlives the load. EINVAL: the range has not a block for each request.
  DiskLoad(DiskSession& session, const Options& options);
  ~DiskLoad();
  DiskLoad(const DiskLoad&) = delete;
  DiskLoad& operator=(const DiskLoad&) = delete;

  Status start();
  /// Runs it for so long, or until so many more requests have ended. The first error of a request or of the loop ends it; EILSEQ:
  /// other bytes were read than had been written.
  Status run_for(Duration time);
  Status run_for_requests(std::uint64_t count);
  /// No more requests; waits for those in flight.
  Status stop();

  std::uint64_t ended() const { return ended_; }
  /// The longest time that a request took since the last call.
  Duration take_longest() { return std::exchange(longest_, Duration::zero()); }

 private:
  struct Slot {
    DiskLoad* load;
    blk::Queue* queue;
    blk::Io io;
    memory::DmaBuffer written, read;
    virtio::Element element;
    TimePoint submitted;
    std::uint64_t first = 0, place = 0;  ///< blocks: where its part of the range begins; which of it
  };

  Status prepare();
  void submit(Slot& slot, blk::Io::Kind kind);
  void next(Slot& slot);
  void completed(Slot& slot);
  std::uint64_t at(const Slot& slot) const { return options_.offset + (slot.first + slot.place) * options_.block; }

  DiskSession& session_;
  Options options_;
  Pattern pattern_{1};
  std::deque<Slot> slots_;
  std::uint64_t blocks_each_ = 0;
  std::uint64_t ended_ = 0, in_flight_ = 0;
  Duration longest_{};
  bool stopping_ = false;
  std::optional<Error> failure_;
};

}  // namespace outboard::command
