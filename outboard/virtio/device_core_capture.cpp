#include <memory>
#include <utility>

#include <outboard/base/together.hpp>
#include <outboard/virtio/device_core_state.hpp>

/// A whole device, taken from one object and given to another.
namespace outboard::virtio {

namespace {
namespace bit = spec::status;

constexpr std::uint8_t known_status =
    bit::acknowledge | bit::driver | bit::driver_ok | bit::features_ok | bit::needs_reset | bit::failed;

Error refused(std::string_view why) { return Error(EINVAL, fmt::format("the device's state is refused: {}", why)); }

}  // namespace

void DeviceCore::capture(std::move_only_function<void(Result<DeviceState>)> done) {
  struct Taken {
    std::vector<QueueState> queues;
    std::vector<unsigned> stopped;  ///< those that ran
  };
  const auto taken = std::make_shared<Taken>(Taken{.queues = std::vector<QueueState>(queue_count()), .stopped = {}});
  const auto all = Together::of(queue_count() + std::size_t{1}, [weak = std::weak_ptr(state_), taken,
                                                                 done = std::move(done)](const Status& rested) mutable {
    const auto state = weak.lock();
    if (state == nullptr) return done(Error(ECANCELED, "the device is gone"));
    auto captured = rested ? state->captured(std::move(taken->queues)) : Result<DeviceState>(rested.error());
    if (!captured) {
      for (const unsigned index : taken->stopped) state->go_on(index);
    }
    done(std::move(captured));
  });
  for (unsigned index = 0; index < queue_count(); ++index) {
    const State::Queue& queue = state_->queues[index];
    // One that a capture before this has stopped, and that would go on, ran too.
    if (queue.phase == State::Phase::running || queue.goes_on) taken->stopped.push_back(index);
    stop_queue(index, StopMode::drain, [taken, all, index](Result<QueueState> stopped) {
      if (!stopped) return all->one(stopped.error());
      taken->queues[index] = std::move(*stopped);
      all->one();
    });
  }
  all->one();
}

/// The whole of the state, once its queues are at rest.
Result<DeviceState> DeviceCore::State::captured(std::vector<QueueState> at_rest) {
  auto own = device.save_state();
  if (!own) return Error(own.error()).while_doing("saving the device's state");
  DeviceState all;
  all.device_id = core.identity().device_id;
  all.status = status;
  all.generation = core.config_generation();
  all.accepted = accepted;
  all.queues = std::move(at_rest);
  all.device = std::move(*own);
  return all;
}

Status DeviceCore::restore(const DeviceState& from) { return state_->restore(from); }

/// What can be wrong is looked at before anything is changed; but for what only the device itself can tell, which comes
/// next, and is taken back when a later step fails.
Status DeviceCore::State::restore(const DeviceState& from) {
  if (status != 0 || resetting || !quiet()) return Error(EBUSY, "the device is in use").cure("reset it first");
  OUTBOARD_CHECK(check(from));
  // The checks of a queue look at what was negotiated.
  const Features before = std::exchange(accepted, from.accepted);
  status = from.status;
  if (const Status consistent = check_queues(from); !consistent) {
    accepted = before;
    status = 0;
    return consistent;
  }
  own_state = device.save_state().value_or(std::vector<std::byte>());
  Status done = tell_device(from);
  if (done) done = take_over(from);
  if (!done) {
    undoing = true;
    begin_reset([](const Status&) {});
    status = 0;  // at once, also where the device takes its time to stop what it had begun
    return done;
  }
  own_state.clear();
  generation = from.generation;
  tell_driver();
  return {};
}

Status DeviceCore::State::check(const DeviceState& from) const {
  const bool agreed = (from.status & bit::features_ok) != 0;
  if (from.device_id != core.identity().device_id)
    return refused(fmt::format("it is of device ID {}, not {}", from.device_id, core.identity().device_id));
  if ((from.status & ~known_status) != 0) return refused("its status has bits that are not known");
  if ((from.status & bit::driver_ok) != 0 && !agreed) return refused("DRIVER_OK without FEATURES_OK");
  if (agreed && (from.status & bit::driver) == 0) return refused("FEATURES_OK without DRIVER");
  if (from.queues.size() != queues.size())
    return refused(fmt::format("it has {} queues, not {}", from.queues.size(), queues.size()));
  return {};
}

Status DeviceCore::State::check_queues(const DeviceState& from) const {
  if (has(bit::features_ok) && !acceptable())
    return refused("its driver has accepted what is not offered here, or not what it must");
  for (unsigned index = 0; index < queues.size(); ++index) {
    const QueueState& queue = from.queues[index];
    if (queue.enabled) OUTBOARD_CHECK(check(queues[index], queue));
    if (queue.size > queues[index].max_size) return refused(fmt::format("the size of queue {}", index));
    if (!queue.enabled && !queue.in_flight.empty())
      return refused(fmt::format("queue {} is off and has buffers in flight", index));
  }
  return {};
}

Status DeviceCore::State::tell_device(const DeviceState& from) {
  if (has(bit::features_ok) && !device.accept_features(accepted))
    return refused("the device does not take its features");
  return from.device ? device.restore_state(*from.device) : device.restore_nothing();
}

/// Puts the registers back and, where the driver was at DRIVER_OK, goes on.
Status DeviceCore::State::take_over(const DeviceState& from) {
  for (unsigned index = 0; index < queues.size(); ++index) {
    const QueueState& old = from.queues[index];
    Queue& queue = queues[index];
    if (old.size != 0) queue.size = old.size;
    queue.address = {old.descriptors, old.driver, old.device};
    queue.enabled = old.enabled;
    // A queue that is off may have been reset. Where that was agreed on the driver may set it up again while the device
    // runs; one that it never enabled it may then, too.
    queue.was_reset = !old.enabled && (from.status & bit::driver_ok) != 0 && negotiated(Feature::ring_reset);
    if (old.enabled) queue.saved = old;
  }
  const bool runs = (from.status & bit::driver_ok) != 0 && !stuck();
  // Where it runs, activate() tells the journal, when it knows of the queues: a status alone would say that they have
  // nothing in flight.
  if (!runs && options.journal != nullptr) options.journal->status_changing(status, accepted);
  if ((from.status & bit::needs_reset) != 0) {
    broken.store(true, std::memory_order_release);
    for (Queue& queue : queues) queue.engine->halt();
    return {};
  }
  if (!runs) return {};
  status = from.status & static_cast<std::uint8_t>(~bit::driver_ok);
  const Status started = activate();
  return started ? Status() : Error(started.error()).while_doing("going on where another device stopped");
}

/// Whoever ran the device before may have been killed between publishing and telling, or have changed the configuration and
/// not told. A notification for nothing hurts no driver. Later, when the transport has its own state back.
void DeviceCore::State::tell_driver() {
  if (!has(bit::driver_ok) || has(bit::failed)) return;
  for (unsigned index = 0; index < queues.size(); ++index) {
    if (queues[index].at_rest()) continue;
    Loop* const loop = queues[index].loop;
    loop->post([weak = weak_from_this(), index, here = loop == &control] {
      const auto state = weak.lock();
      // A reset may have come first. On a loop of its own the queue has not been stopped before this has run.
      if (state && (!here || !state->queues[index].at_rest())) state->events.notify_queue(index);
    });
  }
  control.post([weak = weak_from_this()] {
    const auto state = weak.lock();
    if (state && state->has(bit::driver_ok) && !state->resetting) state->events.notify_config();
  });
}

}  // namespace outboard::virtio
