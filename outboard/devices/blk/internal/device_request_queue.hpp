#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include <sys/uio.h>

#include <outboard/devices/blk/internal/device_disk.hpp>
#include <outboard/devices/blk/internal/device_limits.hpp>
#include <outboard/virtio/request.hpp>

namespace outboard::blk {

/// The requests of one queue, on that queue's loop. No allocation for a request once there have been as many at a time.
class RequestQueue {
 public:
  RequestQueue(Disk& disk, unsigned queue) : disk_(disk), queue_(queue) {}

  void handle(virtio::Request request);
  void batch_end();
  /// Looks for what the storage has ended; returns whether there was something.
  bool poll() { return backend_ != nullptr && backend_->poll(); }

  /// The queue starts, and its answers are wanted. Control loop.
  void begin() { given_up_.store(false, std::memory_order_relaxed); }
  /// The queue stops and no answer is wanted: a request of many steps ends after the one that runs. Control loop.
  void give_up() { given_up_.store(true, std::memory_order_relaxed); }

  /// Gives back storage of this queue's own loop, once nothing runs on it any more. On the queue's loop.
  void close();
  bool has_own_loop() const;
  /// The same at once, for the end of the device: waits for what the kernel carries out, and what was with the storage is not
  /// answered. On the queue's loop, or while no thread runs that loop.
  void drop_storage();

 private:
  /// What has become of a step inside the call that asked for it.
  enum class StepCall : std::uint8_t { runs, more, over };
  /// Where the storage does its work, as it has shown.
  enum class StorageWorks : std::uint8_t { perhaps_inside_the_call, elsewhere };

  struct Step {
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
  };

  /// A request that is with the storage.
  struct Op {
    virtio::Request request;
    std::uint32_t type = 0;
    bool write_through = false;
    std::uint64_t sector = 0;
    std::uint64_t data = 0;  ///< bytes of an IN or OUT
    std::span<const iovec> pieces;  ///< of a large one: the request's
    std::vector<iovec> step_pieces;  ///< those of the step that runs
    std::array<spec::RangeSegment, device_limits::max_range_segments> segments;
    std::size_t segment_count = 0;
    std::size_t segment = 0;
    std::uint64_t done = 0;  ///< bytes of the data, or of the segment, in steps
    StepCall* step_call = nullptr;  ///< while the storage is being asked for a step
    Op* next_free = nullptr;
  };

  void read(virtio::Request request, std::uint64_t sector);
  void write(virtio::Request request, std::uint64_t sector);
  void move_large(Op& op, std::span<const iovec> pieces);
  void flush(virtio::Request request);
  void get_id(virtio::Request request);
  void ranges(virtio::Request request, std::uint32_t type);
  std::uint8_t check_ranges(virtio::Request& request, Op& op) const;
  std::uint8_t check_segments(const Op& op) const;

  void start(Op& op);
  bool fits_into_turn(const Op& op) const;
  StepCall run_steps(Op& op);
  Step next_step(const Op& op) const;
  void ask_for_step(Op& op);
  void step_done(Op& op, std::uint64_t length, int error);
  static bool is_more_left(Op& op, std::uint64_t length);
  void post_turn();
  void next_turn();
  void work_done(Op& op, int error);
  void finish(Op& op, int error);
  void fail(virtio::Request request, const Error& error);

  Op& take(virtio::Request request, std::uint32_t type);
  virtio::Request release(Op& op);
  storage::Backend* backend();

  Disk& disk_;
  unsigned queue_;
  storage::Backend* backend_ = nullptr;
  Loop* loop_ = nullptr;  // of the queue; kept, since what runs may end after the core that knows it has gone
  std::unique_ptr<storage::Backend> own_;  // where the queue has a loop of its own
  bool closing_ = false;
  std::atomic<bool> given_up_{false};
  std::size_t running_ = 0;
  StorageWorks storage_works_ = StorageWorks::perhaps_inside_the_call;
  std::uint64_t turn_used_ = 0;  // bytes that the storage has done inside the call, since the last turn that was posted
  bool turn_posted_ = false;
  std::deque<Op*> in_steps_;  // requests whose next step has not begun, the oldest first; a turn is posted for them
  std::vector<std::unique_ptr<Op>> ops_;
  Op* free_ = nullptr;
  std::shared_ptr<char> alive_ = std::make_shared<char>();  // for a step that is posted
};

/// Completes a request with `status` in the very last writable byte. What was not written before it is zeroed: the used
/// length counts from the first writable byte, so that telling the status tells the data too. Where that is in no memory and
/// the request fails alone, the status is IOERR. More than device_limits::turn_bytes is not zeroed: answer_only().
/// Needs a writable byte.
void answer(virtio::Request request, std::uint8_t status);

/// The same for a request that is too large to zero: what lies before the status stays as it was, and the used length
/// claims none of it.
void answer_only(virtio::Request request, std::uint8_t status);

}  // namespace outboard::blk
