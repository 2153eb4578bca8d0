#pragma once

#include <atomic>
#include <climits>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <outboard/base/loop.hpp>
#include <outboard/devices/blk/io.hpp>
#include <outboard/devices/blk/limits.hpp>
#include <outboard/memory/dma_space.hpp>
#include <outboard/virtio/driver_queue.hpp>

namespace outboard::blk {

class DriverCore;

/// One request queue of a Driver. All calls, and all completions, on the thread of its loop.
class Queue {
 public:
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  /// The number of the queue, as the device counts.
  unsigned index() const { return index_; }
  /// Where the calls and the completions belong.
  Loop& loop() const { return loop_; }
  /// Operations submitted and not done.
  std::size_t in_flight() const { return in_flight_; }
  /// Whether a completion of this queue is running.
  bool delivering() const { return delivering_ != 0; }

  /// Takes an operation; the device need not see it before publish(). There is no limit: what does not fit into the queue
  /// waits its turn, and what is larger than the device takes at once is cut up. With an error `done` is not called.
  /// EINVAL: not whole sectors, an empty element, beyond the capacity, or elements that the device's limits do not allow.
  /// EROFS, ENOTSUP (discard where there is none), ENODEV (given up).
  Status submit(Io& io);
  /// Shows the device what was submitted. Not needed in a completion: the queue does it afterwards.
  void publish();
  /// Takes what the device has done; returns how many operations were completed. For a driver that polls; harmless else.
  unsigned poll();

 private:
  friend class DriverCore;
  struct Slot;

  Queue(DriverCore& core, unsigned index, Loop& loop);

  // DriverCore, while nothing else touches the queue.
  Status build(const virtio::Features& features, const Limits& limits, std::optional<unsigned> vector);
  void pause();
  /// Ends what it has registered with its loop.
  void stop();
  void resume(int reason);
  void give_up(int error);
  /// The device was never seen to stop: what it may still write to is never used for anything else.
  void abandon_memory();
  void interrupted();
  /// What tells that something was used; none: it is polled. Any thread: an interrupt may come, on the loop of another
  /// queue, while this one is set up anew.
  std::optional<unsigned> vector() const {
    const unsigned vector = vector_.load(std::memory_order_relaxed);
    return vector == no_vector ? std::nullopt : std::optional(vector);
  }

  Status check(Io& io) const;
  bool issue(Io& io);
  std::uint64_t next_part(const Io& io, IoProgress::Place& end) const;
  std::uint32_t most_sectors(Io::Kind kind) const;
  void give_up_rest(Io& io);
  bool issue_part(Io& io, std::uint64_t sectors, const IoProgress::Place& end);
  bool fits(const Slot& slot) const;
  bool send(Slot& slot);
  template <typename Each>
  void each_piece(const Slot& slot, Each each) const;
  std::size_t count_pieces(const Slot& slot) const;
  std::uint64_t plan(const Io& io, IoProgress::Place& end) const;
  void issue_waiting();
  Io* pop_waiting();
  void remove_waiting(Io& io);
  unsigned take_used();
  void part_done(Slot& slot, std::uint32_t length);
  int outcome(const Slot& slot, std::uint32_t length) const;
  void part_ended(Slot& slot, int error);
  void finish(Io& io);
  void tick();
  void arm_timer();
  void protocol_error(const Error& error);

  DriverCore& core_;
  unsigned index_;
  Loop& loop_;
  Limits limits_;
  std::uint32_t seg_max_ = 1;  // what both the device and the ring take
  std::optional<virtio::DriverQueue> ring_;
  memory::DmaBuffer slot_memory_;
  std::vector<Slot> slots_;
  Slot* free_ = nullptr;
  std::vector<Slot*> resend_;
  std::vector<virtio::Element> readable_, writable_;
  Io* waiting_first_ = nullptr;
  Io* waiting_last_ = nullptr;
  std::size_t in_flight_ = 0;
  bool paused_ = true;
  int dead_ = 0;  // errno
  unsigned delivering_ = 0;  // completions on the stack
  unsigned idle_polls_ = 0;
  std::uint64_t now_ = 0;  // ticks
  static constexpr unsigned no_vector = UINT_MAX;
  std::atomic<unsigned> vector_{no_vector};
  Registration timer_;
  Registration more_;
  Registration watch_;
  Registration poller_;  // where the device has no vector for the queue
};

}  // namespace outboard::blk
