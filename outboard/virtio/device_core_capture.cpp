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
  const auto queues = std::make_shared<std::vector<QueueState>>(queue_count());
  const auto all = Together::of(queue_count() + std::size_t{1}, [weak = std::weak_ptr(state_), queues,
                                                                 done = std::move(done)](const Status& rested) mutable {
    const auto state = weak.lock();
    if (state == nullptr) return done(Error(ECANCELED, "the device is gone"));
    if (!rested) return done(rested.error());
    done(state->captured(std::move(*queues)));
  });
  for (unsigned index = 0; index < queue_count(); ++index) {
    stop_queue(index, StopMode::drain, [queues, all, index](Result<QueueState> stopped) {
      if (!stopped) return all->one(stopped.error());
      (*queues)[index] = std::move(*stopped);
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
/// next.
Status DeviceCore::State::restore(const DeviceState& from) {
  if (status != 0 || resetting || !quiet()) return Error(EBUSY, "the device is in use").cure("reset it first");
  if (from.device_id != core.identity().device_id)
    return refused(fmt::format("it is of device ID {}, not {}", from.device_id, core.identity().device_id));
  if ((from.status & ~known_status) != 0) return refused("its status has bits that are not known");
  const bool agreed = (from.status & bit::features_ok) != 0;
  if ((from.status & bit::driver_ok) != 0 && !agreed) return refused("DRIVER_OK without FEATURES_OK");
  if (agreed && (from.status & bit::driver) == 0) return refused("FEATURES_OK without DRIVER");
  if (from.queues.size() != queues.size())
    return refused(fmt::format("it has {} queues, not {}", from.queues.size(), queues.size()));

  // The checks of a queue look at what was negotiated.
  accepted = from.accepted;
  status = from.status;
  Status whole;
  if (agreed && !acceptable()) whole = refused("its driver has accepted what is not offered here, or not what it must");
  for (unsigned index = 0; index < queues.size() && whole; ++index) {
    const QueueState& queue = from.queues[index];
    if (queue.enabled) whole = check(queues[index], queue);
    if (whole && queue.size > queues[index].max_size) whole = refused(fmt::format("the size of queue {}", index));
    if (whole && !queue.enabled && !queue.in_flight.empty())
      whole = refused(fmt::format("queue {} is off and has buffers in flight", index));
  }
  if (whole && agreed && !device.accept_features(accepted)) whole = refused("the device does not take its features");
  if (whole) whole = from.device ? device.restore_state(*from.device) : device.restore_nothing();
  if (!whole) {
    accepted = {};
    status = 0;
    return whole;
  }
  generation = from.generation;
  return take_over(from);
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
  if (!activate()) {
    // The journal goes on saying how it was: a next attempt may find what was missing now.
    Journal* const journal = std::exchange(options.journal, nullptr);
    break_device(ring_rule::ring_unmapped.clause, "the device could not be started where another one stopped");
    options.journal = journal;
    return Error(EIO, "the device could not be started");
  }
  return {};
}

}  // namespace outboard::virtio
