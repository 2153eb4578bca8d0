#pragma once

#include <array>
#include <atomic>
#include <list>
#include <memory>
#include <vector>

#include <outboard/virtio/device_core.hpp>
#include <outboard/virtio/device_queue.hpp>
#include <outboard/virtio/ring.hpp>
#include <outboard/virtio/spec.hpp>

namespace outboard::virtio {

/// What a DeviceCore consists of. Control loop, but for what says otherwise.
struct DeviceCore::State final : QueueOwner, std::enable_shared_from_this<DeviceCore::State> {
  using StopDone = std::move_only_function<void(Result<QueueState>)>;
  using CaptureDone = std::move_only_function<void(Result<DeviceState>)>;
  using Done = std::move_only_function<void(Status)>;

  /// What a queue's engine does. Moved by run_engine(), stop_queue(), tell_device() and stopped().
  enum class Phase : std::uint8_t {
    at_rest,
    running,
    quiescing,  ///< told to stop; the device has not been told yet
    stopping,  ///< so has the device; requests may be running
  };

  /// Who waits for a queue's stop, and until when. An empty function waits for nothing.
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
    StopMode stop_mode = StopMode::drain;  ///< of the stop that is under way
    bool goes_on = false;  ///< it is late for its drain, which has been given up: it goes on once it has come to rest
    /// Calls of stop_queue(): who undoes its own stop sees whether somebody else wants one too.
    std::uint64_t stop_calls = 0;
    std::shared_ptr<DeviceQueue> engine;
    memory::AddressMap* memory = nullptr;
    Loop* loop = nullptr;
    StopWaiters drain_waiters, discard_waiters;
    std::optional<QueueState> saved;  ///< of the last stop, or what start_queue() gave before DRIVER_OK

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
  bool accepted_beyond = false;  ///< it set a bit that has no number here
  std::atomic<bool> broken{false};
  std::atomic<bool> paused{false};  ///< set on the control loop
  bool resetting = false;
  bool gone = false;  ///< the core has been destroyed, by a callback that is still running: nothing is touched any more
  bool capturing = false;
  unsigned reset_holds = 0;  ///< a reset that is under way does not end before there are none
  /// The reset takes back a restore() that failed: the journal hears nothing of it, and the device gets its own state of
  /// before back, of which a reset need not clear all.
  bool undoing = false;
  std::vector<std::byte> own_state;  ///< of the device, before restore()
  std::list<ResetWaiter> reset_waiters;  ///< each is told in time, the end or that it is late
  std::vector<std::move_only_function<void()>> reset_followers;  ///< told of the end only
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
  void stop_engine(unsigned index);
  void tell_device(unsigned index, Device::Completion done);
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
  Status restore(const DeviceState& from);
  Status check(const DeviceState& from) const;
  Status check_queues(const DeviceState& from) const;
  Status tell_device(const DeviceState& from);
  Status take_over(const DeviceState& from);
  void tell_driver();
  void set_paused(bool value);

  /// Runs `task` on a queue's loop, at once where that is this one.
  void on_loop(Queue& queue, Loop::Task task);

  // QueueOwner, on the queue's loop
  void queue_used(unsigned queue) override { events.notify_queue(queue); }
  void queue_broken(unsigned queue, std::string_view clause, std::string_view what) override;
};

/// Runs `body`, which calls back while it walks the queues or those who wait. A callback may have been waiting for the end of
/// a reset, and start the device again; so the reset ends when `body` has. It may also destroy the core: then `gone` is set,
/// and `body` touches nothing any more.
template <typename Body>
void DeviceCore::State::hold_reset(Body&& body) {
  const auto self = shared_from_this();
  ++reset_holds;
  body();
  --reset_holds;
  if (!gone) finish_reset_if_quiet();
}

}  // namespace outboard::virtio
