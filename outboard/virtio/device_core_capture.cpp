#include <cstddef>
#include <memory>
#include <utility>

#include <outboard/base/internal/joined_completion.hpp>
#include <outboard/memory/internal/shared.hpp>
#include <outboard/virtio/internal/device_core_state.hpp>
#include <outboard/virtio/internal/ring_memory.hpp>

/// A whole device, taken from one object and given to another.
namespace outboard::virtio {

namespace {
namespace bit = spec::status;

constexpr std::uint8_t known_status =
    bit::acknowledge | bit::driver | bit::driver_ok | bit::features_ok | bit::needs_reset | bit::failed;

Error refused(std::string_view why) { return Error(EINVAL, fmt::format("the device's state is refused: {}", why)); }

}  // namespace

/// What a capture knows of a queue that it stops.
struct DeviceCore::State::Capture {
  struct Stop {
    bool ran;
    std::uint64_t call;  ///< Queue::stop_calls, with that of the capture
  };
  std::vector<Stop> stops{};
  CaptureDone done;
};

void DeviceCore::capture(std::move_only_function<void(Result<DeviceState>)> done) { state_->capture(std::move(done)); }

void DeviceCore::State::capture(CaptureDone done) {
  if (capturing) return done(Error(EBUSY, "another capture of the device is still in progress"));
  if (resetting) return capture_after_reset(std::move(done));
  capturing = true;
  const auto capture = std::make_shared<Capture>(Capture{.done = std::move(done)});
  const auto all =
      JoinedCompletion::of(queues.size() + 1, [this, capture](const Status& rested) { end_capture(*capture, rested); });
  hold_reset([&] {
    for (unsigned index = 0; index < queues.size() && !gone; ++index) {
      const Queue& queue = queues[index];
      // One that a capture before this has stopped, and that would go on, ran too.
      capture->stops.push_back({.ran = queue.phase == Phase::running || queue.goes_on, .call = queue.stop_calls + 1});
      stop_queue(index, StopMode::drain, [all](const Result<QueueState>& stopped) {
        all->part_done(stopped ? Status() : Status(std::unexpected(stopped.error())));
      });
    }
    all->part_done();
  });
}

/// A reset that is under way changes all that is to be captured. This waits for it as one more reset does, so no longer.
void DeviceCore::State::capture_after_reset(CaptureDone done) {
  begin_reset([this, done = std::move(done)](const Status& ended) mutable {
    if (!ended) return done(ended.error());
    capture(std::move(done));
  });
}

void DeviceCore::State::end_capture(Capture& capture, const Status& rested) {
  capturing = false;
  if (resetting) return capture_after_reset(std::move(capture.done));
  auto state = rested ? captured() : Result<DeviceState>(rested.error());
  std::vector<unsigned> ran;
  for (unsigned index = 0; index < queues.size(); ++index) {
    if (capture.stops[index].ran && queues[index].stop_calls == capture.stops[index].call) ran.push_back(index);
  }
  if (!state) {
    for (const unsigned index : ran) go_on(index);
  } else if (held == Held::no) {
    held = Held::captured;
    held_queues = std::move(ran);
  }
  capture.done(std::move(state));
}

/// The whole of the state, once the queues have come to rest. As it is then: the driver may have reset a queue since.
Result<DeviceState> DeviceCore::State::captured() {
  if (!quiet()) return Error(ECANCELED, "the driver has started a queue of the device meanwhile");
  auto own = device.save_state();
  if (!own) return Error(own.error()).while_doing("saving the device's state");
  DeviceState all;
  all.device_id = core.identity().device_id;
  all.status = status;
  all.generation = core.config_generation();
  all.accepted = accepted;
  for (const Queue& queue : queues) all.queues.push_back(at_rest(queue));
  all.device = std::move(*own);
  return all;
}

void DeviceCore::client_left(std::move_only_function<void(const Status&)> done) {
  if (!state_->device.is_lent()) return done({});
  reset([state = std::weak_ptr(state_), done = std::move(done)](const Status& reset) mutable {
    if (const auto alive = state.lock(); alive && reset) alive->device.let_go();
    done(reset);
  });
}

void DeviceCore::let_go() {
  if (state_->held != State::Held::no) state_->device.let_go();
}

Status DeviceCore::resume() { return state_->resume(); }

Status DeviceCore::State::resume() {
  switch (held) {
    case Held::no:
      return {};
    case Held::captured:
      return resume_captured();
    case Held::restored:
      return resume_restored();
  }
  return {};
}

/// Whether a ring is as the state has it: what has used a buffer since is another object that went on from the same state.
bool DeviceCore::State::ring_is_as_left(const Queue& queue, const QueueState& ring) const {
  if (paused) return true;
  const bool packed = negotiated(Feature::ring_packed);
  const auto snapshot = queue.memory->current();
  const auto at = locate_ring(*snapshot, packed, ring);
  if (!at) return false;
  if (!packed) {
    const memory::Shared<le16> used(at->device + spec::used::idx);
    return used.load(std::memory_order_acquire) == ring.next_used;
  }
  const memory::Shared<le16> flags(at->descriptors + std::size_t{ring.next_used} * sizeof(spec::PackedDescriptor) +
                                   offsetof(spec::PackedDescriptor, flags));
  return !is_used(flags.load(std::memory_order_acquire), ring.used_wrap);
}

/// Whether the queues that are to run have their rings in memory that is there, as they were left.
Status DeviceCore::State::check_rings() const {
  for (unsigned index = 0; index < queues.size(); ++index) {
    const Queue& queue = queues[index];
    if (!queue.enabled || !queue.at_rest()) continue;
    const QueueState ring = at_rest(queue);
    if (!ring_is_mapped(queue, ring))
      return Error(EIO, fmt::format("queue {}: its ring is in no memory that was given to the device", index));
    if (!ring_is_as_left(queue, ring))
      return Error(EIO, fmt::format("queue {}: another device has used buffers since it was stopped", index))
          .cure("reset the device");
  }
  return {};
}

Status DeviceCore::State::resume_captured() {
  const bool runs = live();
  if (runs) OUTBOARD_CHECK(check_rings());
  if (runs) OUTBOARD_CHECK(device.take_back());
  held = Held::no;
  for (const unsigned index : std::exchange(held_queues, {})) go_on(index);
  if (runs && !live()) return Error(EIO, "the device did not start a queue again");
  tell_driver();
  return {};
}

Status DeviceCore::State::resume_restored() {
  OUTBOARD_CHECK(check_rings());
  OUTBOARD_CHECK(device.take_back());
  held = Held::no;
  status &= static_cast<std::uint8_t>(~bit::driver_ok);
  if (const Status started = activate(); !started) {
    break_device("device", started.error().message());
    return Error(started.error()).while_doing("going on where another device stopped");
  }
  tell_driver();
  return {};
}

Status DeviceCore::restore(const DeviceState& from, Restart restart) { return state_->restore(from, restart); }

/// What can be wrong is looked at before anything is changed; but for what only the device itself can tell, which comes
/// next, and is taken back when a later step fails.
Status DeviceCore::State::restore(const DeviceState& from, Restart restart) {
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
  if (done) done = take_over(from, restart);
  if (!done) {
    undoing = true;
    begin_reset([](const Status&) {});
    status = 0;  // at once, also where the device takes its time to stop what it had begun
    return done;
  }
  own_state.clear();
  generation = from.generation;
  if (restart == Restart::at_once) tell_driver();
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
Status DeviceCore::State::take_over(const DeviceState& from, Restart restart) {
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
  if (restart == Restart::on_resume) {
    held = Held::restored;
    return {};
  }
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
