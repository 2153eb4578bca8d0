#pragma once

#include <atomic>
#include <climits>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <outboard/base/loop.hpp>
#include <outboard/devices/blk/driver_io.hpp>
#include <outboard/devices/blk/driver_limits.hpp>
#include <outboard/devices/blk/internal/driver_splitter.hpp>
#include <outboard/devices/blk/internal/driver_waiting.hpp>
#include <outboard/memory/dma_space.hpp>
#include <outboard/virtio/driver_queue.hpp>

namespace outboard::blk {

class DriverCore;

/// A request queue of a Driver. All calls and completions on the thread of its loop.
class Queue {
 public:
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  /// The index of the queue.
  unsigned index() const { return index_; }
  /// The loop of the calls and the completions.
  Loop& loop() const { return loop_; }
  /// Operations submitted and not done.
  std::size_t in_flight() const { return in_flight_; }
  /// Whether a completion of this queue is running.
  bool delivering() const { return delivering_ != 0; }

  /// Takes an operation; the device need not see it before publish(). There is no limit: an operation that does not fit into
  /// the queue waits, and one larger than the device's limits is divided. With an error `done` is not called.
  /// EINVAL: not whole sectors, an empty element, beyond the capacity, or elements that the device's limits do not allow.
  /// EROFS; ENOTSUP (no discard); ENODEV (the device was given up).
  Status submit(Io& io);
  /// Makes the submitted operations available to the device. Not needed in a completion: the queue does it afterwards.
  void publish();
  /// Completes the operations that the device has used, and returns their number. For drivers that poll; otherwise harmless.
  unsigned poll();

 private:
  friend class DriverCore;
  struct Slot;
  /// Moved by resume() and pause(), and for good by give_up().
  enum class Phase : std::uint8_t {
    paused,  ///< operations wait: the device is being reset, or is not set up yet
    running,  ///< operations go to the device
    given_up,  ///< operations are refused
  };

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
  bool running() const { return phase_ == Phase::running; }
  /// For one request more.
  bool has_room() const { return running() && free_ != nullptr; }
  bool issue(Io& io, IoProgress::Place end);
  bool issue_part(Io& io, const IoProgress::Place& end);
  bool give_up_rest(Io& io);
  bool send(Slot& slot);
  void issue_waiting();
  bool issue_waiting(Io& io);
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
  RequestSplitter splitter_;
  std::optional<virtio::DriverQueue> ring_;
  memory::DmaBuffer slot_memory_;
  std::vector<Slot> slots_;
  Slot* free_ = nullptr;
  std::vector<Slot*> resend_;
  std::vector<virtio::Element> readable_, writable_;
  WaitingIos waiting_;
  std::size_t in_flight_ = 0;
  Phase phase_ = Phase::paused;
  int given_up_ = 0;  // errno: why
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
