#pragma once

#include <array>
#include <atomic>
#include <list>
#include <memory>
#include <vector>

#include <outboard/virtio/device_core.hpp>
#include <outboard/virtio/internal/device_queue.hpp>
#include <outboard/virtio/ring.hpp>
#include <outboard/virtio/spec.hpp>

namespace outboard::virtio {

/// The state of a DeviceCore. Control loop, except where a comment says otherwise.
struct DeviceCore::State final : QueueOwner, std::enable_shared_from_this<DeviceCore::State> {
  using StopDone = std::move_only_function<void(Result<QueueState>)>;
  using CaptureDone = std::move_only_function<void(Result<DeviceState>)>;
  using Done = std::move_only_function<void(Status)>;

  /// What a queue's engine does.
  enum class Phase : std::uint8_t {
    at_rest,  ///< since stopped()
    running,  ///< since run_engine()
    quiescing,  ///< since stop_queue(): the engine is stopping; Device::stop_queue() has not been called yet
    stopping,  ///< since stop_device(): Device::stop_queue() has been called; requests may be running
  };

  /// The completions of a queue's stop, and their deadline. A completion may be empty.
  struct StopWaiters {
    std::vector<StopDone> dones;
    Registration deadline;
  };

  struct ResetWaiter {
    Done done;
    Registration deadline{};
  };

  /// A queue's registers, and its engine.
  struct Queue {
    std::uint16_t max_size = 0;
    std::uint16_t size = 0;
    std::array<memory::Iova, ring_parts> address{};
    bool enabled = false;
    bool was_reset = false;  ///< by queue_reset, and not enabled since: it may be set up again while the device runs
    bool resetting = false;  ///< by queue_reset
    Phase phase = Phase::at_rest;
    StopMode stop_mode = StopMode::drain;  ///< of the current stop
    bool goes_on = false;  ///< its drain has timed out: it continues as soon as it has stopped
    /// The number of calls of stop_queue(): shows a caller that undoes a stop whether there was another one meanwhile.
    std::uint64_t stop_calls = 0;
    std::shared_ptr<DeviceQueue> engine;
    memory::AddressMap* memory = nullptr;
    Loop* loop = nullptr;
    StopWaiters drain_waiters, discard_waiters;
    std::optional<QueueState> saved;  ///< of the last stop, or of start_queue() before DRIVER_OK

    bool at_rest() const { return phase == Phase::at_rest; }
    StopWaiters& waiters(StopMode mode) { return mode == StopMode::drain ? drain_waiters : discard_waiters; }
  };

  State(DeviceCore& core, Device& device_, memory::AddressMap& memory_, Loop& control_, TransportEvents& events_,
        Options options_);

  DeviceCore& core;
  Device& device;
  memory::AddressMap& memory;
  Loop& control;
  TransportEvents& events;
  Options options;
  Features offered;
  Log log;
  std::vector<Queue> queues;

  std::uint8_t status = 0;
  Features accepted;  ///< as the driver wrote it
  bool accepted_beyond = false;  ///< the driver set a feature bit beyond the known words
  std::atomic<bool> broken{false};
  std::atomic<bool> paused{false};  ///< set on the control loop
  bool resetting = false;
  bool gone = false;  ///< a callback that is still running has destroyed the core: access nothing any more
  bool capturing = false;
  /// Why the device is stopped, where it is to continue by resume().
  enum class Held : std::uint8_t { no, captured, restored } held = Held::no;
  std::vector<unsigned> held_queues;  ///< those that the capture has stopped
  unsigned reset_holds = 0;  ///< the current reset does not end while this is not 0
  /// The reset undoes a restore() that failed: the journal records nothing of it, and the device gets its previous own state
  /// back, since a reset need not clear all of it.
  bool undoing = false;
  std::vector<std::byte> own_state;  ///< of the device, before restore()
  std::list<ResetWaiter> reset_waiters;  ///< called at the end of the reset, or with ETIMEDOUT
  std::vector<std::move_only_function<void()>> reset_followers;  ///< called at the end of the reset only
  std::uint8_t generation = 0;
  bool config_has_changed = false;

  // Status: device_core_status.cpp
  bool has(std::uint8_t bits) const { return (status & bits) == bits; }
  bool live() const { return has(spec::status::driver_ok) && !stuck(); }
  /// NEEDS_RESET or FAILED: nothing but a reset helps.
  bool stuck() const { return (status & (spec::status::needs_reset | spec::status::failed)) != 0; }
  Features negotiated() const { return has(spec::status::features_ok) ? accepted : Features{}; }
  bool negotiated(Feature feature) const { return negotiated().has(feature); }
  void write_status(std::uint8_t value);
  void set_status(std::uint8_t value);
  void add_features_ok();
  bool acceptable() const;
  void add_driver_ok();
  Status activate();
  void add_failed();
  void start_reset(Done done);
  void begin_reset(Done done);
  template <typename Body>
  void hold_reset(Body&& body);
  void finish_reset_if_quiet();
  void finish_reset();
  void reset_is_late(std::list<ResetWaiter>::iterator waiter);
  void break_device(std::string_view clause, std::string_view what, Level level = Level::error);
  void show_broken();

  // Queues: device_core_queues.cpp
  Queue* queue(unsigned index) { return index < queues.size() ? &queues[index] : nullptr; }
  const Queue* queue(unsigned index) const { return index < queues.size() ? &queues[index] : nullptr; }
  bool may_set_up(const Queue& queue) const;
  bool well_formed(const Queue& queue) const;
  QueueState fresh(const Queue& queue) const;
  QueueState at_rest(const Queue& queue) const;
  bool ring_is_mapped(const Queue& queue, const QueueState& ring) const;
  bool ring_is_as_left(const Queue& queue, const QueueState& ring) const;
  void enable_queue(unsigned index);
  void reset_queue(unsigned index);
  void queue_was_reset(unsigned index);
  Status start_queues(const std::vector<std::pair<unsigned, QueueState>>& starting);
  Status check(const Queue& queue, const QueueState& state) const;
  Status launch(unsigned index, const QueueState& state);
  void note_start(unsigned index, const QueueState& state);
  void run_engine(unsigned index, const QueueState& state);
  void go_on(unsigned index);
  void stop_queue(unsigned index, StopMode mode, StopDone done);
  void escalate_stop(unsigned index);
  void quiesce_engine(unsigned index);
  void stop_device(unsigned index);
  void finish_engine(unsigned index);
  void stopped(unsigned index, QueueState state);
  void tell_stopped(unsigned index, StopMode mode, const Result<QueueState>& stopped);
  std::vector<StopDone> take_waiters(unsigned index, StopMode mode);
  void stop_is_late(unsigned index, StopMode mode);
  static Error requests_are_late(unsigned index);
  static Error was_overtaken(unsigned index);
  bool quiet() const;
  struct Capture;
  void capture(CaptureDone done);
  void capture_after_reset(CaptureDone done);
  void end_capture(Capture& capture, const Status& rested);
  Result<DeviceState> captured();
  Status restore(const DeviceState& from, Restart restart);
  Status resume();
  Status resume_captured();
  Status resume_restored();
  Status check_rings() const;
  Status check(const DeviceState& from) const;
  Status check_queues(const DeviceState& from) const;
  Status tell_device(const DeviceState& from);
  Status take_over(const DeviceState& from, Restart restart);
  void tell_driver();
  void set_paused(bool value);

  /// From a queue's loop to the control loop.
  struct WayBack {
    Loop* from;
    Loop* control;
    std::weak_ptr<State> state;
    /// Calls `step` on the control loop, at once if that is this one; not if the core has been destroyed.
    void go(std::move_only_function<void(State&)> step) const;
  };
  WayBack way_back(const Queue& queue);
  /// Runs `task` on a queue's loop, at once if that is this one.
  void on_loop(const Queue& queue, Loop::Task task);

  // QueueOwner, on the queue's loop
  void queue_used(unsigned queue) override { events.notify_queue(queue); }
  void queue_broken(unsigned queue, std::string_view clause, std::string_view what) override;
};

/// Runs `body`, which calls completions while it iterates over queues or completions. A completion may start the device again
/// at the end of a reset; therefore the reset does not end before `body` has. It may also destroy the core: then `gone` is set,
/// and `body` accesses nothing any more.
template <typename Body>
void DeviceCore::State::hold_reset(Body&& body) {
  const auto self = shared_from_this();
  ++reset_holds;
  body();
  --reset_holds;
  if (!gone) finish_reset_if_quiet();
}

}  // namespace outboard::virtio
