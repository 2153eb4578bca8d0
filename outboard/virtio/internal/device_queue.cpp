#include <outboard/virtio/internal/device_queue.hpp>

#include <algorithm>
#include <cstddef>
#include <utility>

/// Passes over the ring, and what they publish.
namespace outboard::virtio {

DeviceQueue::DeviceQueue(const Environment& environment)
    : env_(environment),
      memory_(*environment.memory, slots_, *this),
      transfers_(*environment.memory, *environment.loop, *environment.control) {}

DeviceQueue::~DeviceQueue() = default;

void DeviceQueue::start(const QueueState& state, const Rules& rules) {
  packed_ = rules.packed;
  in_order_ = rules.in_order;
  notes_pops_ = in_order_ || env_.journal != nullptr;
  suppresses_by_flag_ = !rules.event_idx;
  setup_ = state;
  replays_ = std::exchange(setup_.in_flight, {});
  next_replay_ = 0;
  journal_buffer_ = {};
  has_logged_fault_ = false;
  const DeviceRingRules ring_rules{.size = state.size,
                                   .event_idx = rules.event_idx,
                                   .indirect = rules.indirect,
                                   .in_order = rules.in_order,
                                   .chain_limit = rules.chain_limit};
  if (packed_) {
    packed_ring_.start(ring_rules, state);
  } else {
    split_.start(ring_rules, state);
  }
  slots_.reset(state.size, in_order_, *this, env_.index);
  transfers_.reset();
  batch_.resize(state.size);
  batched_ = 0;
  spilled_ = 0;
  intake_ = Intake::open;
  move(QueueEvent::start);
  refresh_memory();
  if (env_.poll) poller_ = env_.loop->poll([this] { return poll(); });
  kick();  // VIRTIO 1.4, 2.1.2 lets buffers be there before DRIVER_OK; nobody will kick for them again
}

/// The one function in which the phase changes, but for abandon().
void DeviceQueue::move(QueueEvent event) {
  const QueuePhase before = std::exchange(phase_, next_phase(phase_, event));
  if (phase_ == before) return;
  update_shortcut();
  if (is_parked(before) && publishes(phase_)) ring_is_back();
}

void DeviceQueue::ring_moved() {
  move(ring_.found() && !paused_ ? QueueEvent::ring_usable : QueueEvent::ring_unusable);
}

void DeviceQueue::set_paused(bool paused) {
  if (paused == paused_) return;
  if (paused) publish_batch();
  paused_ = paused;
  ring_moved();
  if (!paused && is_running(phase_)) kick();
}

void DeviceQueue::set_intake(Intake intake) {
  intake_ = intake;
  update_shortcut();
}

void DeviceQueue::update_shortcut() {
  if (!thread_.in_pass()) return;
  thread_.set_shortcut(phase_ == QueuePhase::serving && intake_ == Intake::open && !in_order_);
}

void DeviceQueue::break_queue(const RingRule& rule) { env_.owner->queue_broken(env_.index, rule.clause, rule.what); }

// Passes.

void DeviceQueue::kick() {
  // V1, V2: whoever finds a kick on its way has its buffers seen by it.
  if (kicked_.exchange(true, std::memory_order_acq_rel)) return;
  env_.loop->post([self = shared_from_this()] {
    self->kicked_.exchange(false, std::memory_order_acq_rel);
    if (!self->is_abandoned()) self->process();
  });
}

/// The back end first: what has ended is published by the pass.
bool DeviceQueue::poll() {
  const bool ended = env_.device->poll(env_.index);
  return process() || ended;
}

bool DeviceQueue::process() {
  if (thread_.in_pass() || !is_running(phase_)) return false;
  thread_.enter_pass();
  update_shortcut();
  if (view().stale() || view().generation() != ring_.generation()) refresh_memory();
  bool found = false;
  if (can_run()) {
    if (ring_.poisoned()) {
      break_queue(ring_rule::poisoned);
    } else {
      found = packed_ ? run_pass(packed_ring_) : run_pass(split_);
    }
  }
  thread_.leave_pass();
  if (stopped_) finish_if_quiet();
  return found;
}

template <DeviceRing Ring>
bool DeviceQueue::run_pass(Ring& ring) {
  if (suppresses_by_flag_ && !env_.poll) suppress(ring);
  bool found = false;
  // Bounded, so that a driver that goes on adding buffers cannot keep this thread from its other queues; in bytes too,
  // since a device that answers at once copies as many. One request is taken in any case, whatever its size.
  unsigned budget = std::min<unsigned>(setup_.size, max_pass_requests);
  bytes_left_ = max_pass_bytes;
  do {
    const unsigned before = budget;
    while (next_replay_ != replays_.size() && may_take(budget) && take<true>(ring)) --budget;
    if (next_replay_ == replays_.size()) {  // not before
      while (may_take(budget) && has_next(ring) && take<false>(ring)) --budget;
    }
    if (budget != before) {
      found = true;
      env_.device->batch_end(env_.index);
    }
  } while (settle(ring, budget != 0 && bytes_left_ > 0));
  return found;
}

template <DeviceRing Ring>
[[gnu::always_inline]] inline bool DeviceQueue::has_next(Ring& ring) {
  if (!ring.exhausted()) return true;
  if (const auto* rule = ring.look()) {
    break_queue(*rule);
    return false;
  }
  return !ring.exhausted();
}

template <bool again, DeviceRing Ring>
[[gnu::always_inline]] inline const RingRule* DeviceQueue::parse(Ring& ring, RequestSlot& slot) {
  if constexpr (again) return ring.parse_again(replays_[next_replay_], slot, view());
  return ring.parse(slot, view());
}

/// Takes the next buffer, or, again, one that was in flight before, and hands it to the device. False: not now, or never.
/// Inlined, since the call is a tenth of it.
template <bool again, DeviceRing Ring>
[[gnu::always_inline]] inline bool DeviceQueue::take(Ring& ring) {
  RequestSlot& slot = slots_.next();
  const RingRule* rule = parse<again>(ring, slot);
  slot.care = RequestSlot::Care::none;
  if (rule != nullptr || slot.chain.unresolved() || slot.chain.is_long() || view().generation() != ring_.generation())
      [[unlikely]] {
    if (!take_slow_path<again>(ring, slot, rule)) return false;
  }
  slots_.take();
  if constexpr (again) {
    ring.commit_again(slot);
    ++next_replay_;
  } else {
    ring.commit(slot);
    ring.prefetch();
  }
  slot.replayed = again;
  slot.order = ++pops_;
  slot.generation = ring_.generation();
  slot.rewind();
  if (notes_pops_) [[unlikely]]
    note_pop(ring, slot, again);
  if (slot.care != RequestSlot::Care::none) [[unlikely]] {
    hand_over_slow_path(slot);
  } else {
    deliver(slot);
  }
  return true;
}

/// The rest of taking a buffer, where that is more than a few compares: `rule` is the result of parsing it.
template <bool again, DeviceRing Ring>
[[gnu::noinline]] bool DeviceQueue::take_slow_path(Ring& ring, RequestSlot& slot, const RingRule* rule) {
  bool parsed = false;
  for (unsigned attempt = 0;; ++attempt) {
    slot.bounce.reset();  // of the attempt before
    parsed = rule == nullptr;
    if (parsed && slot.chain.unresolved()) rule = resolve(slot);
    if (view().generation() == ring_.generation() || attempt == map_attempts) break;
    // The map has changed meanwhile. What was found on the old one does not count.
    refresh_memory();
    if (!can_run()) {
      slot.bounce.reset();
      return false;
    }
    rule = parse<again>(ring, slot);
  }
  if (rule != nullptr) {
    slot.bounce.reset();
    if (hold_for_map(*rule)) return false;
    if (!contain(slot, *rule, parsed)) {
      break_queue(*rule);
      return false;
    }
  }
  const bool has_room = has_room_for(slot);
  if (!has_room) set_intake(Intake::waiting);
  if (!has_room || bytes_left_ <= 0) {
    slot.bounce.reset();
    return false;
  }
  // Only of a buffer that is taken: the driver may mend it before the next pass, and the slot may be another's then.
  if (!parsed) {
    slot.care = RequestSlot::Care::malformed;
  } else if (slot.chain.is_long() || slot.bounce) {
    slot.care = RequestSlot::Care::storage;
  }
  spilled_ += slot.chain.spilled();
  bytes_left_ -= static_cast<std::int64_t>(slot.bytes()) + element_cost * slot.chain.count();
  return true;
}

template <DeviceRing Ring>
void DeviceQueue::note_pop(const Ring& ring, RequestSlot& slot, bool again) {
  if (!again && env_.journal != nullptr) {
    ring.describe(slot, journal_buffer_);
    env_.journal->popped(env_.index, journal_buffer_);
  }
  if (in_order_) slots_.append_to_order(slot);
}

/// A buffer that is fetched first, or goes back without being a request, or has a long chain.
void DeviceQueue::hand_over_slow_path(RequestSlot& slot) {
  if (slot.care == RequestSlot::Care::malformed) {
    slot.state = RequestSlot::State::delivered;
    ++tokens_;
    answer_here(slot, RequestAnswer::complete);
  } else if (slot.bounce) {
    set_intake(Intake::fetching);
    transfers_.fetch(slot, shared_from_this());
  } else {
    deliver(slot);
  }
}

/// The end of a pass: publishes what was answered in it, and asks to be kicked. One full fence serves both. Returns
/// whether there is more to take.
template <DeviceRing Ring>
bool DeviceQueue::settle(Ring& ring, bool budget_left) {
  if (!can_run()) {
    if (!is_muted()) publish_batch();
    return false;
  }
  if (ring_.poisoned()) [[unlikely]] {  // what was read in this pass was not the driver's
    break_queue(ring_rule::poisoned);
    return false;
  }
  const bool arm = budget_left && intake_ == Intake::open && !env_.poll;
  const bool published = batched_ != 0;
  if (published) publish(ring);
  if (arm) ring.arm();
  ring_.note_stores(view());
  if (published || arm) memory::full_fence();  // S7, P5
  if (published && ring.wants_notification()) env_.owner->queue_used(env_.index);
  if (!budget_left) {
    kick();  // the others' turn first
    return false;
  }
  if (!arm || !can_run()) return false;
  if (!has_next(ring)) return false;
  if (suppresses_by_flag_) suppress(ring);
  return true;
}

// Publishing.

template <DeviceRing Ring>
void DeviceQueue::publish(Ring& ring) {
  ring.fill({batch_.data(), batched_});
  if (env_.journal != nullptr) [[unlikely]] {
    const std::span<const UsedBuffer> batch(batch_.data(), batched_);
    env_.journal->publishing(env_.index, batch, ring.next_used(), ring.used_wrap());
    ring.expose();
    env_.journal->published(env_.index, batch, ring.next_used(), ring.used_wrap());
  } else {
    ring.expose();
  }
  batched_ = 0;
}

/// Publishes outside a pass.
template <DeviceRing Ring>
void DeviceQueue::notify(Ring& ring) {
  publish(ring);
  ring_.note_stores(view());
  memory::full_fence();  // S7, P5
  if (ring.wants_notification()) env_.owner->queue_used(env_.index);
}

/// Publishes what has been answered; in the middle of a pass too. Before the queue stops or its ring goes also for a device
/// that is broken: nothing but the batch knows of these buffers.
void DeviceQueue::publish_batch() {
  if (batched_ == 0 || !publishes(phase_)) return;
  if (packed_) {
    notify(packed_ring_);
  } else {
    notify(split_);
  }
}

/// The end of a pass publishes for itself.
void DeviceQueue::flush() {
  if (!thread_.in_pass() && !is_muted()) publish_batch();
}

void DeviceQueue::schedule_flush() {
  if (thread_.in_pass() || flush_scheduled_ || (poller_.active() && is_running(phase_))) return;
  flush_scheduled_ = true;
  env_.loop->post([self = shared_from_this()] {
    self->flush_scheduled_ = false;
    if (!self->is_abandoned()) self->flush();
  });
}

}  // namespace outboard::virtio
