#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/memory/address_map.hpp>
#include <outboard/vduse/internal/device_phase.hpp>
#include <outboard/vduse/internal/queue_phase.hpp>
#include <outboard/vduse/node.hpp>
#include <outboard/virtio/device_core.hpp>

namespace outboard::vduse {

/// The queues of one device: where the driver has put their rings, when they become ready, how they stop and go on. The page of
/// their phases is queue_phase.hpp.
///
/// Control loop; kicks come on the queues' loops.
class Queues {
 public:
  using Stopped = std::move_only_function<void(const Result<virtio::QueueState>&)>;

  /// What the queues work with; all of it outlives them.
  struct Parts {
    virtio::DeviceCore& core;
    Loop& control;
    std::vector<Loop*> loops;  ///< of each queue
    std::vector<memory::AddressMap*> memory;  ///< of each queue
    const DevicePhase& device;
    Log log;
  };
  /// EMFILE, ENFILE, and what Loop::watch_eventfd says: the eventfds of the kicks could not be made or watched.
  static Result<std::unique_ptr<Queues>> create(Parts parts);
  ~Queues() { end_kicks(); }
  /// Waits for the queues' loops: afterwards no kick is taken, and nobody who waits for a stop is told.
  void end_kicks();

  /// The kernel's side from now on; null: none.
  void use(Node* node) { node_ = node; }

  // DRIVER_OK.
  /// Starts the queues that the driver has made ready.
  void set_up();
  /// Lets kicks through to the queues that run, scans their rings, and looks for the others until they are ready.
  void connect();

  // Taking over a device whose server has died.
  /// Whether the kernel has the queue where `logged` says. What Node::queue_info says.
  Result<bool> is_in_place(unsigned queue, const virtio::QueueState& logged);
  /// DeviceCore::restore has started these queues. connect() has still to follow.
  void restored();

  // Looking for queues that become ready without a message.
  /// Looks at once, and again with pauses that grow, while the device runs and there is something to look for.
  void look_for_ready();
  /// The same, with the pauses short again.
  void look_soon();
  void stop_looking() { look_.reset(); }

  // Stopping without a reset.
  /// Finishes what is in flight. `done` has the position, or why there is none: as DeviceCore::stop_queue. Kicks that come
  /// meanwhile are not lost.
  void stop(unsigned queue, Stopped done);
  /// What GET_VQ_STATE says of a queue that has stopped: the one position, before the buffers in flight. Nothing: no one position
  /// says it.
  std::optional<spec::VqState> told_position(unsigned queue, const virtio::QueueState& stopped) const;
  /// SET_VQ_READY 0. The same; `done` may say ETIMEDOUT, and then the queue discards what is late and never goes on by itself.
  void switch_off(unsigned queue, Stopped done);
  /// SUSPEND: all of them; `done` with the first error.
  void stop_all(std::move_only_function<void(Status)> done);
  /// The queues that go on if a suspension is undone: those that run now.
  std::vector<unsigned> running() const;
  /// A suspension is undone: those of `queues` that came to rest go on, and so do others that were kicked meanwhile. A queue that
  /// was late goes on by itself.
  void go_on(const std::vector<unsigned>& queues);

  /// Whether the driver has started it, since the last reset.
  bool is_started(unsigned queue) const;
  /// A device reset has ended: every queue waits for the next driver.
  void was_reset();

 private:
  struct Queue {
    EventFd kick;
    Registration watch;  ///< of the kick, on the queue's loop
    std::atomic<QueuePhase> phase{QueuePhase::waiting};
    std::optional<virtio::QueueState> position{};  ///< in the phases at_rest and off
    bool kick_remembered = false;  ///< in the phases stopping and at_rest
    spec::VqInfo begun{};  ///< where the driver had put it when it was started
    bool unmapped_logged = false;  ///< since the last reset

    /// The one place where a phase changes, but for a reset. Whether it did.
    bool move(QueueEvent event);
  };

  explicit Queues(Parts parts);
  Status watch_kick(unsigned queue);
  QueuePhase phase(unsigned queue) const { return queues_[queue]->phase.load(std::memory_order_relaxed); }
  bool packed() const;

  void set_up(unsigned queue);
  bool go_on_where_it_stopped(unsigned queue, const spec::VqInfo& info);
  Status start(unsigned queue, const spec::VqInfo& info);
  void connect(unsigned queue);

  void ask_to_stop(unsigned queue, virtio::StopMode mode, Stopped done);
  void note_stop(unsigned queue, const Result<virtio::QueueState>& stopped);
  void discard_late(unsigned queue);
  void resume(unsigned queue);

  void kicked(unsigned queue);
  void kicked_at_rest(unsigned queue);
  void replay_kick(unsigned queue);

  virtio::DeviceCore& core_;
  Loop& control_;
  std::vector<Loop*> loops_;
  std::vector<memory::AddressMap*> memory_;
  const DevicePhase& device_;
  Log log_;
  Node* node_ = nullptr;
  std::vector<std::unique_ptr<Queue>> queues_;
  Registration look_;
  Duration look_pause_{0};
  std::shared_ptr<Queues*> self_;  ///< what a completion holds weakly
};

}  // namespace outboard::vduse
