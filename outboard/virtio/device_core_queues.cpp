#include <algorithm>
#include <iterator>
#include <utility>

#include <outboard/virtio/internal/device_core_state.hpp>

/// The queues of a device: registers, life cycle, and the state that one can be taken from and given to another.
namespace outboard::virtio {

void DeviceCore::State::on_loop(const Queue& queue, Loop::Task task) {
  if (queue.loop == &control) return task();
  queue.loop->post(std::move(task));
}

DeviceCore::State::WayBack DeviceCore::State::way_back(const Queue& queue) {
  return {.from = queue.loop, .control = &control, .state = weak_from_this()};
}

void DeviceCore::State::WayBack::go(std::move_only_function<void(State&)> step) const {
  auto task = [weak = state, step = std::move(step)]() mutable {
    if (const auto alive = weak.lock()) step(*alive);
  };
  if (from == control) return task();
  control->post(std::move(task));
}

/// Whether the driver may write the queue's registers now.
bool DeviceCore::State::may_set_up(const Queue& queue) const {
  if (!has(spec::status::features_ok) || stuck() || resetting || queue.enabled || queue.resetting) return false;
  // VIRTIO 1.4, 2.6.1.2.1 (RING_RESET): a queue that was reset may be set up again while the device runs.
  return !has(spec::status::driver_ok) || queue.was_reset;
}

bool DeviceCore::State::well_formed(const Queue& queue) const {
  const bool packed = negotiated(Feature::ring_packed);
  if (queue.size > queue.max_size || !legal_queue_size(packed, queue.size)) return false;
  for (unsigned part = 0; part < ring_parts; ++part) {
    const auto layout = ring_part(packed, RingPart{static_cast<std::uint8_t>(part)}, queue.size);
    if (!legal_ring_address(queue.address[part], layout)) return false;
  }
  return true;
}

/// The state of a queue that nothing has been popped from.
QueueState DeviceCore::State::fresh(const Queue& queue) const {
  return {.size = queue.size,
          .descriptors = queue.address[0],
          .driver = queue.address[1],
          .device = queue.address[2],
          .enabled = true,
          .in_flight = {}};
}

/// The state of a queue that is at rest.
QueueState DeviceCore::State::at_rest(const Queue& queue) const {
  QueueState state = queue.saved ? *queue.saved : fresh(queue);
  state.enabled = queue.enabled;
  return state;
}

bool DeviceCore::State::ring_is_mapped(const Queue& queue, const QueueState& ring) const {
  memory::AddressMap& map = *queue.memory;
  if (paused) return true;  // it cannot be looked at now; the queue is parked if it is not there later
  const bool packed = negotiated(Feature::ring_packed);
  if (locate_ring(*map.current(), packed, ring)) return true;
  // Memory that is only mapped when it is asked for.
  const memory::Iova parts[] = {ring.descriptors, ring.driver, ring.device};
  for (unsigned part = 0; part < ring_parts; ++part) {
    const auto size = ring_part(packed, RingPart{static_cast<std::uint8_t>(part)}, ring.size).size;
    map.resolve({parts[part], size}, RingPart{static_cast<std::uint8_t>(part)} == RingPart::device
                                         ? memory::Access::write
                                         : memory::Access::read);
  }
  return locate_ring(*map.current(), packed, ring).has_value();
}

void DeviceCore::State::enable_queue(unsigned index) {
  Queue* found = queue(index);
  if (found == nullptr || !may_set_up(*found)) return;
  if (!well_formed(*found)) {
    return break_device("2.7.1",
                        fmt::format("queue {}: enabled with a ring that is not aligned or does not fit", index));
  }
  found->enabled = true;
  found->was_reset = false;
  if (!has(spec::status::driver_ok) || held == Held::restored) return;
  const QueueState ring = fresh(*found);
  if (!ring_is_mapped(*found, ring)) {
    const auto& rule = ring_rule::ring_unmapped;
    return break_device(rule.clause, fmt::format("queue {}: {}", index, rule.what));
  }
  if (const Status started = launch(index, ring); !started) {
    break_device("device", fmt::format("queue {}: {}", index, started.error().message()));
  }
}

/// VIRTIO 1.4, 2.6.1.1.1: "The device MUST reset the queue when 1 is written to queue_reset", and reports 1 there until
/// it has. 4.1.4.3.2 lets the driver wait for that, so a reset that takes long breaks nothing: the log says why.
void DeviceCore::State::reset_queue(unsigned index) {
  Queue* found = queue(index);
  if (found == nullptr || !negotiated(Feature::ring_reset) || resetting) return;
  if (!found->enabled || found->resetting) return;
  found->resetting = true;
  if (found->at_rest()) return queue_was_reset(index);
  stop_queue(index, StopMode::discard, {});
}

/// VIRTIO 1.4, 4.1.4.3.1: both queue_reset and queue_enable read 0 then. The rest is as after a device reset.
void DeviceCore::State::queue_was_reset(unsigned index) {
  if (options.journal != nullptr) options.journal->queue_reset(index);
  Queue& queue = queues[index];
  queue.resetting = queue.enabled = false;
  queue.was_reset = true;
  queue.size = queue.max_size;
  queue.address = {};
  queue.saved.reset();
}

// Start and stop.

namespace {

Error inconsistent(std::string_view field) {
  return Error(EINVAL, fmt::format("the queue's state is not consistent: {}", field));
}

Status check_split(const QueueState& state) {
  const auto outstanding = static_cast<std::uint16_t>(state.next_avail - state.next_used);
  if (outstanding > state.size) return inconsistent("next_avail is further ahead of next_used than the size allows");
  if (outstanding != state.in_flight.size()) return inconsistent("in_flight does not fit next_avail and next_used");
  std::vector<bool> seen(state.size);
  for (const InFlight& buffer : state.in_flight) {
    if (buffer.head >= state.size || seen[buffer.head]) return inconsistent("a head in in_flight");
    seen[buffer.head] = true;
  }
  return {};
}

Status check_packed(const QueueState& state) {
  if (state.next_avail >= state.size) return inconsistent("next_avail");
  if (state.next_used >= state.size) return inconsistent("next_used");
  std::uint32_t descriptors = 0;
  for (const InFlight& buffer : state.in_flight) {
    if (buffer.head >= state.size) return inconsistent("a head in in_flight");
    if (buffer.descriptors == 0 || buffer.descriptors > state.size) return inconsistent("descriptors in in_flight");
    // Direct: one descriptor in each slot; indirect: one that refers to the table, in the only slot.
    if (buffer.chain.size() != buffer.descriptors) return inconsistent("a chain in in_flight");
    descriptors += buffer.descriptors;
    if (descriptors > state.size) return inconsistent("in_flight");
  }
  const PackedCursor avail{state.next_avail, state.avail_wrap};
  const PackedCursor used{state.next_used, state.used_wrap};
  if (used.plus(descriptors, state.size) != avail)
    return inconsistent("in_flight does not fit next_avail and next_used");
  return {};
}

}  // namespace

/// docs/spec-map.md, VD-68: a state comes from another process, perhaps another machine.
Status DeviceCore::State::check(const Queue& queue, const QueueState& state) const {
  if (!has(spec::status::features_ok)) return Error(EINVAL, "features have not been negotiated");
  const bool packed = negotiated(Feature::ring_packed);
  if (state.size > queue.max_size || !legal_queue_size(packed, state.size)) return inconsistent("size");
  const std::pair<memory::Iova, std::string_view> parts[] = {
      {state.descriptors, "descriptors"}, {state.driver, "driver"}, {state.device, "device"}};
  for (unsigned part = 0; part < ring_parts; ++part) {
    const auto layout = ring_part(packed, RingPart{static_cast<std::uint8_t>(part)}, state.size);
    if (!legal_ring_address(parts[part].first, layout)) return inconsistent(parts[part].second);
  }
  return packed ? check_packed(state) : check_split(state);
}

Status DeviceCore::State::launch(unsigned index, const QueueState& state) {
  OUTBOARD_CHECK(device.start_queue(index, state));
  note_start(index, state);
  run_engine(index, state);
  return {};
}

/// The journal is told before anything can be popped: what it does not know to be running has nothing in flight.
void DeviceCore::State::note_start(unsigned index, const QueueState& state) {
  if (options.journal != nullptr) options.journal->queue_starting(index, state, negotiated(Feature::ring_packed));
}

void DeviceCore::State::run_engine(unsigned index, const QueueState& state) {
  Queue& queue = queues[index];
  queue.phase = Phase::running;
  const Features features = negotiated();
  const DeviceQueue::Rules rules{.packed = features.has(Feature::ring_packed),
                                 .event_idx = features.has(Feature::event_idx),
                                 .indirect = features.has(Feature::indirect_desc),
                                 .in_order = features.has(Feature::in_order),
                                 .chain_limit = std::max<std::uint32_t>(queue.max_size, core.identity().max_chain)};
  on_loop(queue, [engine = queue.engine, state, rules, is_paused = paused.load()] {
    engine->set_paused(is_paused);
    engine->start(state, rules);
  });
}

/// Starts a queue again that was stopped for a purpose that has failed.
void DeviceCore::State::go_on(unsigned index) {
  Queue& queue = queues[index];
  if (!live() || resetting || !queue.at_rest() || !queue.enabled || !queue.saved) return;
  const QueueState state = *std::exchange(queue.saved, {});
  if (const Status started = launch(index, state); !started)
    break_device("device", fmt::format("queue {}: {}", index, started.error().message()));
}

void DeviceCore::State::stop_queue(unsigned index, StopMode mode, StopDone done) {
  Queue& queue = queues[index];
  ++queue.stop_calls;
  if (queue.at_rest()) {
    if (done) done(at_rest(queue));
    return;
  }
  queue.goes_on = false;
  StopWaiters& waiters = queue.waiters(mode);
  waiters.dones.push_back(std::move(done));
  // A caller that comes after the first deadline gets one of its own: each is answered in time.
  if (!waiters.deadline.active())
    waiters.deadline = control.after(options.stop_timeout, [this, index, mode] { stop_is_late(index, mode); });
  if (queue.phase == Phase::running) {
    queue.phase = Phase::quiescing;
    queue.stop_mode = mode;
    quiesce_engine(index);
  } else if (mode == StopMode::discard && queue.stop_mode == StopMode::drain) {
    escalate_stop(index);
  }
}

/// Makes a drain a discard, at once: the queue's loop may be busy with the very requests that are to be cancelled. A device
/// that has not been told of the stop yet will be told of a discard.
void DeviceCore::State::escalate_stop(unsigned index) {
  Queue& queue = queues[index];
  queue.stop_mode = StopMode::discard;
  on_loop(queue, [engine = queue.engine] { engine->quiesce(StopMode::discard); });
  if (queue.phase == Phase::stopping) device.discard_queue(index);
}

// A stop has four steps, which take turns between the queue's loop and the control loop:
//
//   quiesce_engine   queue's loop     nothing is taken any more, so the device gets no request after it was told to stop
//   stop_device      control loop     the device gives up what it keeps
//   finish_engine    queue's loop     waits for the requests whose work is running
//   stopped          control loop     whoever waits is told

void DeviceCore::State::quiesce_engine(unsigned index) {
  const Queue& queue = queues[index];
  on_loop(queue, [engine = queue.engine, mode = queue.stop_mode, index, way = way_back(queue)] {
    engine->quiesce(mode);
    way.go([index](State& state) { state.stop_device(index); });
  });
}

void DeviceCore::State::stop_device(unsigned index) {
  Queue& queue = queues[index];
  queue.phase = Phase::stopping;
  device.stop_queue(index, queue.stop_mode, [weak = weak_from_this(), index] {
    if (const auto state = weak.lock()) state->finish_engine(index);
  });
}

void DeviceCore::State::finish_engine(unsigned index) {
  const Queue& queue = queues[index];
  on_loop(queue, [engine = queue.engine, index, way = way_back(queue)] {
    engine->finish([index, way](QueueState result) {
      way.go([index, result = std::move(result)](State& state) mutable { state.stopped(index, std::move(result)); });
    });  // NOLINT(clang-analyzer-cplusplus.NewDeleteLeaks): a false alarm: go() takes the step by value, and its parameter frees it
  });
}

void DeviceCore::State::stopped(unsigned index, QueueState state) {
  if (gone) return;
  Queue& queue = queues[index];
  queue.phase = Phase::at_rest;
  // A queue that its driver has reset has nothing in flight, like one that was drained.
  const bool gave_up = queue.stop_mode == StopMode::discard && !queue.resetting;
  if (queue.resetting) {
    queue_was_reset(index);
  } else if (queue.enabled) {
    queue.saved = std::move(state);
  }
  const bool goes_on = std::exchange(queue.goes_on, false);
  hold_reset([&] {
    const Result<QueueState> rested = at_rest(queue);
    tell_stopped(index, StopMode::drain, gave_up ? was_overtaken(index) : rested);
    tell_stopped(index, StopMode::discard, rested);
    if (goes_on) go_on(index);  // then nobody was told, and may have destroyed the core
  });
}

/// Tells those who wait for a stop. A queue that one of them starts again is stopped again for the others.
void DeviceCore::State::tell_stopped(unsigned index, StopMode mode, const Result<QueueState>& stopped) {
  for (StopDone& done : take_waiters(index, mode)) {
    if (gone) return;
    if (!done) continue;
    if (queues[index].at_rest()) {
      done(stopped);
    } else {
      stop_queue(index, mode, std::move(done));
    }
  }
}

std::vector<DeviceCore::State::StopDone> DeviceCore::State::take_waiters(unsigned index, StopMode mode) {
  StopWaiters& waiters = queues[index].waiters(mode);
  waiters.deadline.reset();
  return std::exchange(waiters.dones, {});
}

/// A request has not ended in time. Whoever waits for the stop is told, and decides whether the device is broken; the stop
/// itself goes on. A drain is undone once the queue is at rest, since the device may be told of a start only then: its driver
/// does not know of the drain, and nothing is wrong with the device.
void DeviceCore::State::stop_is_late(unsigned index, StopMode mode) {
  const auto self = shared_from_this();  // who waits may destroy the core
  Queue& queue = queues[index];
  const Error late = requests_are_late(index);
  if (mode == StopMode::drain && queue.stop_mode == StopMode::drain) {
    log.warning("{}: the queue is not stopped, and goes on when they have", late.message());
    queue.goes_on = true;
  }
  if (mode == StopMode::discard && queue.resetting)
    log.warning("{}: the reset of the queue ends when they have", late.message());
  for (StopDone& done : take_waiters(index, mode)) {
    if (gone) return;
    if (done) done(late);
  }
}

Error DeviceCore::State::was_overtaken(unsigned index) {
  return Error(ECANCELED, fmt::format("queue {}: a discard has overtaken the drain", index));
}

Error DeviceCore::State::requests_are_late(unsigned index) {
  return Error(ETIMEDOUT, fmt::format("queue {}: requests did not end in time", index));
}

bool DeviceCore::State::quiet() const { return std::ranges::all_of(queues, &Queue::at_rest); }

void DeviceCore::State::set_paused(bool value) {
  if (paused == value) return;
  paused = value;
  for (Queue& queue : queues) {
    on_loop(queue, [engine = queue.engine, value] { engine->set_paused(value); });
  }
}

}  // namespace outboard::virtio
