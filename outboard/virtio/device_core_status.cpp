#include <algorithm>
#include <utility>

#include <outboard/virtio/internal/device_core_state.hpp>

/// The device status field: VIRTIO 1.4, 2.1, 2.2, 2.4 and 3.1.
namespace outboard::virtio {

namespace {
namespace bit = spec::status;
}

void DeviceCore::State::set_status(std::uint8_t value) {
  // Log first, answer second: a crash between the two must not lose the transition.
  if (options.journal != nullptr && (value != status || value == 0)) options.journal->status_changing(value, accepted);
  status = value;
}

void DeviceCore::State::write_status(std::uint8_t value) {
  if (resetting) return;
  if (value == 0) return start_reset([](const Status&) {});
  if (has(bit::failed)) return;
  // VIRTIO 1.4, 2.1.1: "The driver MUST NOT clear a device status bit." What is set stays set; NEEDS_RESET is not the
  // driver's to write. Firmware sets several bits at once: they count in the order in which a driver has to set them.
  const std::uint8_t added = static_cast<std::uint8_t>(value & ~status & ~bit::needs_reset);
  if (added == 0) return;
  const std::uint8_t plain = added & (bit::acknowledge | bit::driver);
  if (plain != 0) set_status(status | plain);
  if ((added & bit::features_ok) != 0) add_features_ok();
  if ((added & bit::driver_ok) != 0) add_driver_ok();
  // SUSPEND is not offered. VIRTIO 1.4, 3.4.2: the device ignores it then.
  if ((added & bit::failed) != 0) add_failed();
}

/// VIRTIO 1.4, 2.2.2: "The device SHOULD accept any valid subset of features the driver accepts, otherwise it MUST
/// fail to set the FEATURES_OK device status bit when the driver writes it."
void DeviceCore::State::add_features_ok() {
  if (!has(bit::driver) || stuck()) return;
  if (acceptable() && device.accept_features(accepted)) set_status(status | bit::features_ok);
}

bool DeviceCore::State::acceptable() const {
  if (accepted_beyond || !offered.contains(accepted)) return false;
  // 6.1: "A driver MUST accept VIRTIO_F_VERSION_1 if it is offered." Without it this is not a driver for this device.
  if (!accepted.has(Feature::version_1)) return false;
  // 6.1: "A driver MUST accept VIRTIO_F_ACCESS_PLATFORM if it is offered". Small drivers do not; 6.2: "A device MAY fail to
  // operate further if VIRTIO_F_ACCESS_PLATFORM is not accepted", where its addresses mean nothing then.
  return options.access_platform != AccessPlatform::require || accepted.has(Feature::access_platform);
}

void DeviceCore::State::add_driver_ok() {
  if (!has(bit::features_ok) || stuck()) return;
  if (const Status started = activate(); !started) {
    // 2.1.2: DRIVER_OK is not set, so nobody is notified; reading the status back tells.
    break_device(ring_rule::ring_unmapped.clause,
                 fmt::format("the device could not be started: {}", started.error().message()));
  }
}

/// Starts every enabled queue. DRIVER_OK is set before the first request is delivered, and not at all if one cannot
/// start.
Status DeviceCore::State::activate() {
  std::vector<std::pair<unsigned, QueueState>> starting;
  for (unsigned index = 0; index < queues.size(); ++index) {
    Queue& queue = queues[index];
    if (!queue.enabled) continue;
    QueueState ring = queue.saved ? *std::exchange(queue.saved, {}) : fresh(queue);
    if (!ring_is_mapped(queue, ring))
      return Error(EIO, fmt::format("queue {}: its ring is in no memory that was given to the device", index));
    starting.emplace_back(index, std::move(ring));
  }
  OUTBOARD_CHECK(device.take_back());
  OUTBOARD_CHECK(start_queues(starting));
  for (const auto& [index, ring] : starting) note_start(index, ring);
  set_status(status | bit::driver_ok);
  for (const auto& [index, ring] : starting) run_engine(index, ring);
  return {};
}

/// Tells the device, all or nothing: what it has begun when one cannot start is stopped, which a reset waits for.
Status DeviceCore::State::start_queues(const std::vector<std::pair<unsigned, QueueState>>& starting) {
  for (auto next = starting.begin(); next != starting.end(); ++next) {
    const Status started = device.start_queue(next->first, next->second);
    if (started) continue;
    for (auto begun = starting.begin(); begun != next; ++begun) {
      queues[begun->first].phase = Phase::running;
      stop_queue(begun->first, StopMode::discard, {});
    }
    return Error(EIO, fmt::format("queue {}: {}", next->first, started.error().message()));
  }
  return {};
}

void DeviceCore::State::add_failed() {
  for (Queue& queue : queues) queue.engine->halt();
  set_status(status | bit::failed);
}

// Reset.

/// VIRTIO 1.4, 2.4.1: "A device MUST reinitialize device status to 0 after receiving a reset", and after it does "MUST
/// NOT send notifications" or touch a queue: so it does when the queues have come to rest.
void DeviceCore::State::start_reset(Done done) {
  // The driver's, too, while a restore that failed is still being taken back: nothing is given back then.
  undoing = false;
  own_state.clear();
  begin_reset(std::move(done));
}

void DeviceCore::State::begin_reset(Done done) {
  const auto waiter = reset_waiters.insert(reset_waiters.end(), {std::move(done)});
  resetting = true;
  hold_reset([&] {
    for (unsigned index = 0; index < queues.size() && !gone; ++index) stop_queue(index, StopMode::discard, {});
    if (!gone) waiter->deadline = control.after(options.stop_timeout, [this, waiter] { reset_is_late(waiter); });
  });
}

/// The reset is not given up. The device is broken until it ends.
void DeviceCore::State::reset_is_late(std::list<ResetWaiter>::iterator waiter) {
  const auto late = std::ranges::find_if_not(queues, &Queue::at_rest);
  if (late == queues.end()) return finish_reset_if_quiet();
  const Error error = requests_are_late(static_cast<unsigned>(late - queues.begin()));
  Done done = std::move(waiter->done);
  reset_waiters.erase(waiter);
  break_device("outboard", error.message());
  done(error);
}

void DeviceCore::State::finish_reset_if_quiet() {
  if (resetting && reset_holds == 0 && quiet()) finish_reset();
}

void DeviceCore::State::finish_reset() {
  const auto self = shared_from_this();  // who is told may destroy the core
  device.reset();
  accepted = {};
  accepted_beyond = false;
  config_has_changed = false;
  held = Held::no;
  for (Queue& queue : queues) {
    queue.size = queue.max_size;
    queue.address = {};
    queue.enabled = queue.was_reset = queue.resetting = false;
    queue.saved.reset();
    queue.engine->clear_halt();
  }
  broken.store(false, std::memory_order_release);
  if (std::exchange(undoing, false)) {
    status = 0;
    // Where it could not save any there is none to give back.
    if (!own_state.empty()) [[maybe_unused]]
      const Status back = device.restore_state(std::exchange(own_state, {}));
  } else {
    set_status(0);  // first: a transport may answer from was_reset()
    events.was_reset();
  }
  resetting = false;
  // Both before anybody is told: who comes then, perhaps after another reset has begun, waits for the end of that.
  auto waiters = std::exchange(reset_waiters, {});
  auto followers = std::exchange(reset_followers, {});
  for (ResetWaiter& waiter : waiters) {
    if (gone) return;
    waiter.done({});
  }
  for (auto& ended : followers) {
    if (gone) return;
    ended();
  }
}

// Broken.

void DeviceCore::State::queue_broken(unsigned queue, std::string_view clause, std::string_view what) {
  if (broken.load(std::memory_order_relaxed)) return;
  // A device that is paused may use no memory: its client leaves, and takes it away under requests that end meanwhile.
  break_device(clause, fmt::format("queue {}: {}", queue, what), paused ? Level::info : Level::error);
}

/// Any thread. One violation is told once (V3): telling it for every kick would be another way to attack.
void DeviceCore::State::break_device(std::string_view clause, std::string_view what, Level level) {
  if (broken.exchange(true, std::memory_order_acq_rel)) return;
  for (Queue& queue : queues) queue.engine->halt();
  if (log.enabled(level)) log.write(level, fmt::format("broken until it is reset: {} ({})", what, clause));
  if (control.in_loop_thread()) return show_broken();
  control.post([weak = weak_from_this()] {
    if (const auto state = weak.lock()) state->show_broken();
  });
}

/// VIRTIO 1.4, 2.1.2: "If DRIVER_OK is set, after it sets DEVICE_NEEDS_RESET, the device MUST send a device
/// configuration change notification to the driver."
void DeviceCore::State::show_broken() {
  if (!broken.load(std::memory_order_acquire) || has(bit::needs_reset)) return;  // V4: a reset was faster
  set_status(status | bit::needs_reset);
  if (has(bit::driver_ok)) events.notify_config();
}

}  // namespace outboard::virtio
