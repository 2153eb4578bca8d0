#include <outboard/virtio/device_queue.hpp>

#include <algorithm>
#include <cstddef>
#include <utility>

namespace outboard::virtio {
DeviceQueue::DeviceQueue(const Environment& environment) : env_(environment), view_(*environment.memory) {}

DeviceQueue::~DeviceQueue() = default;

void DeviceQueue::start(const QueueState& state, const Rules& rules) {
  packed_ = rules.packed;
  in_order_ = rules.in_order;
  notes_pops_ = in_order_ || env_.journal != nullptr;
  flags_suppress_ = !rules.event_idx;
  setup_ = state;
  replays_ = std::exchange(setup_.in_flight, {});
  next_replay_ = 0;
  journal_buffer_ = {};
  said_fault_ = false;
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
  if (slot_count_ < state.size) slots_ = std::make_unique<RequestSlot[]>(slot_count_ = state.size);
  free_.resize(slot_count_);
  free_count_ = slot_count_;
  for (std::uint32_t slot = 0; slot < slot_count_; ++slot) {
    slots_[slot].queue = this;
    slots_[slot].state = RequestSlot::State::free;
    slots_[slot].bounce.reset();
    slots_[slot].malformed = false;
    free_[slot] = &slots_[slot];
  }
  batch_.resize(state.size);
  batched_ = 0;
  waiting_.clear();
  order_.assign(in_order_ ? state.size : 0, nullptr);
  order_first_ = order_count_ = 0;
  spilled_ = 0;
  bounced_ = 0;
  stalled_ = false;
  phase_ = Phase::running;
  refresh_memory();
  if (env_.poll) poller_ = env_.loop->poll([this] { return poll(); });
  kick();  // VIRTIO 1.4, 2.1.2 lets buffers be there before DRIVER_OK; nobody will kick for them again
}

void DeviceQueue::update_serving() {
  serving_ = phase_ == Phase::running && bound_ && !paused_;
  update_plain_thread();
}

void DeviceQueue::update_plain_thread() {
  const bool plain = in_pass_ && serving_ && !in_order_ && !stalled_;
  plain_thread_.store(plain ? this_thread() : nullptr, std::memory_order_relaxed);
}

bool DeviceQueue::can_publish() const {
  const bool wanted = phase_ == Phase::running || (phase_ == Phase::stopping && stop_mode_ == StopMode::drain);
  return wanted && bound_ && !paused_ && !muted();
}

void DeviceQueue::kick() {
  // V1, V2: whoever finds a kick on its way has its buffers seen by it.
  if (kicked_.exchange(true, std::memory_order_acq_rel)) return;
  env_.loop->post([self = shared_from_this()] {
    self->kicked_.exchange(false, std::memory_order_acq_rel);
    if (!self->abandoned_.load(std::memory_order_relaxed)) self->process();
  });
}

/// The back end first: what has ended is published by the pass.
bool DeviceQueue::poll() {
  const bool ended = env_.device->poll(env_.index);
  return process() || ended;
}

bool DeviceQueue::process() {
  if (in_pass_ || phase_ != Phase::running) return false;
  in_pass_ = true;
  pass_thread_.store(this_thread(), std::memory_order_relaxed);
  loop_thread_.store(this_thread(), std::memory_order_relaxed);
  update_plain_thread();
  const bool found = pass();
  in_pass_ = false;
  plain_thread_.store(nullptr, std::memory_order_relaxed);
  pass_thread_.store(nullptr, std::memory_order_relaxed);
  if (stopped_) finish_if_quiet();
  return found;
}

bool DeviceQueue::pass() {
  if (view_.stale() || view_.generation() != bound_generation_) refresh_memory();
  if (!can_run()) return false;
  if (ring_poisoned()) {
    break_queue(ring_rule::poisoned);
    return false;
  }
  return packed_ ? run_ring(packed_ring_) : run_ring(split_);
}

template <typename Ring>
bool DeviceQueue::run_ring(Ring& ring) {
  if (flags_suppress_ && !env_.poll) ring.suppress();
  bool found = false;
  // Bounded, so that a driver that goes on adding buffers cannot keep this thread from its other queues; in bytes too,
  // since a device that answers at once copies as many. One request goes through, whatever its size.
  unsigned budget = std::min<unsigned>(setup_.size, max_pass_requests);
  bytes_left_ = max_pass_bytes;
  while (true) {
    const unsigned taken = drain(ring, budget);
    budget -= taken;
    found |= taken != 0;
    if (taken != 0) env_.device->batch_end(env_.index);
    if (!settle(ring, budget != 0 && bytes_left_ > 0)) return found;
  }
}

template <typename Ring>
unsigned DeviceQueue::drain(Ring& ring, unsigned budget) {
  unsigned taken = 0;
  while (taken < budget && next_replay_ < replays_.size() && can_run() && !stalled_) {
    if (!take<true>(ring)) return taken;
    ++taken;
  }
  while (taken < budget && can_run() && !stalled_) {
    if (ring.exhausted()) {
      if (const auto* rule = ring.look()) {
        break_queue(*rule);
        return taken;
      }
      if (ring.exhausted()) return taken;
    }
    if (!take<false>(ring)) return taken;
    ++taken;
  }
  return taken;
}

template <bool again, typename Ring>
[[gnu::always_inline]] inline const RingRule* DeviceQueue::parse(Ring& ring, RequestSlot& slot) {
  if constexpr (again) return ring.parse_again(replays_[next_replay_], slot, view_);
  return ring.parse(slot, view_);
}

/// Takes the next buffer, or, again, one that was in flight before. False: not now, or never. Inlined, since the call is a
/// tenth of it.
template <bool again, typename Ring>
[[gnu::always_inline]] inline bool DeviceQueue::take(Ring& ring) {
  RequestSlot& slot =
      *free_[free_count_ - 1];  // there is one: the ring has checked that it has room for what is popped
  const RingRule* rule = parse<again>(ring, slot);
  slot.plain = true;
  if (rule != nullptr || slot.chain.unresolved() || slot.chain.is_long() || view_.generation() != bound_generation_)
      [[unlikely]] {
    if (!take_slowly<again>(ring, slot, rule)) return false;
  }
  --free_count_;
  if constexpr (again) {
    ring.commit_again(slot);
    ++next_replay_;
  } else {
    ring.commit(slot);
    ring.prefetch();
  }
  slot.replayed = again;
  slot.order = ++pops_;
  slot.generation = bound_generation_;
  slot.rewind();
  if (notes_pops_) [[unlikely]] {
    if constexpr (!again) {
      if (env_.journal != nullptr) journal_popped(ring, slot);
    }
    if (in_order_) order_[(order_first_ + order_count_++) % order_.size()] = &slot;
  }
  if (!slot.plain && slot.malformed) [[unlikely]] {
    refuse(slot);
  } else if (!slot.plain && slot.bounce) [[unlikely]] {
    fetch(slot);
  } else {
    deliver(slot);
  }
  return true;
}

/// The rest of taking a buffer that is not a matter of a few compares: `rule` is what parsing it said.
template <bool again, typename Ring>
[[gnu::noinline]] bool DeviceQueue::take_slowly(Ring& ring, RequestSlot& slot, const RingRule* rule) {
  bool parsed = false;
  for (unsigned attempt = 0;; ++attempt) {
    slot.bounce.reset();  // of an attempt that came to nothing
    parsed = rule == nullptr;
    if (parsed && slot.chain.unresolved()) rule = resolve(slot);
    if (view_.generation() == bound_generation_ || attempt == map_attempts) break;
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
  if (!has_room) stall();
  if (!has_room || bytes_left_ <= 0) {
    slot.bounce.reset();
    return false;
  }
  // Only of a buffer that is taken: the driver may mend it before the next pass, and the slot may be another's then.
  slot.malformed = !parsed;
  slot.plain = parsed && !slot.chain.is_long() && !slot.bounce;
  spilled_ += slot.chain.spilled();
  bytes_left_ -= static_cast<std::int64_t>(slot.chain.bytes()) + element_cost * slot.chain.count();
  return true;
}

/// Where faults are contained: whether this one is. What cannot be told from other buffers is not, since it cannot be given
/// back. A chain whose memory only is not as it should be comes to the device all the same, which finds out.
bool DeviceQueue::contain(RequestSlot& slot, const RingRule& rule, bool parsed) {
  if (!env_.contains_faults || slot.ring_count == 0) return false;
  if (!parsed) slot.chain.set({});
  say_fault(rule);
  return true;
}

void DeviceQueue::say_fault(const RingRule& rule) {
  if (!std::exchange(said_fault_, true))
    env_.log.warning("queue {}: a buffer fails, and perhaps others that are not told of: {}", env_.index, rule.what);
}

/// Gives back what is no request.
void DeviceQueue::refuse(RequestSlot& slot) {
  slot.state = RequestSlot::State::delivered;
  ++tokens_;
  answer_here(slot, Answer::complete);
}

/// The end of a pass: publishes what was answered in it, and asks to be kicked. One full fence serves both. Returns
/// whether there is more to take.
template <typename Ring>
bool DeviceQueue::settle(Ring& ring, bool budget_left) {
  if (!can_run()) {
    publish_batch();
    return false;
  }
  if (ring_poisoned()) [[unlikely]] {  // what was read in this pass was not the driver's
    break_queue(ring_rule::poisoned);
    return false;
  }
  const bool arm = budget_left && !stalled_ && !env_.poll;
  const bool published = batched_ != 0;
  if (published) publish(ring);
  if (arm) ring.arm();
  if (published || arm) memory::full_fence();  // S7, P5
  if (published && ring.wants_notification()) env_.owner->queue_used(env_.index);
  if (!budget_left) {
    kick();  // the others' turn first
    return false;
  }
  if (!arm || !can_run()) return false;
  if (const auto* rule = ring.look()) {
    break_queue(*rule);
    return false;
  }
  if (ring.exhausted()) return false;
  if (flags_suppress_) ring.suppress();
  return true;
}

template <typename Ring>
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
template <typename Ring>
void DeviceQueue::notify(Ring& ring) {
  publish(ring);
  memory::full_fence();  // S7, P5
  if (ring.wants_notification()) env_.owner->queue_used(env_.index);
}

/// For what is about to come of the queue, in the middle of a pass too: what has been answered is answered.
void DeviceQueue::publish_batch() {
  if (batched_ == 0 || !can_publish()) return;
  if (packed_) {
    notify(packed_ring_);
  } else {
    notify(split_);
  }
}

/// The end of a pass publishes for itself.
void DeviceQueue::flush() {
  if (!in_pass_) publish_batch();
}

void DeviceQueue::schedule_flush() {
  if (in_pass_ || flush_scheduled_ || (poller_.active() && phase_ == Phase::running)) return;
  flush_scheduled_ = true;
  env_.loop->post([self = shared_from_this()] {
    self->flush_scheduled_ = false;
    if (!self->abandoned_.load(std::memory_order_relaxed)) self->flush();
  });
}

template <typename Ring>
void DeviceQueue::journal_popped(const Ring& ring, const RequestSlot& slot) {
  ring.describe(slot, journal_buffer_);
  env_.journal->popped(env_.index, journal_buffer_);
}

void DeviceQueue::break_queue(const RingRule& rule) { env_.owner->queue_broken(env_.index, rule.clause, rule.what); }

void DeviceQueue::set_paused(bool paused) {
  if (paused == paused_) return;
  if (paused) publish_batch();
  paused_ = paused;
  update_serving();
  if (paused) return;
  if (phase_ != Phase::idle && bound_) ring_is_back();
  if (phase_ == Phase::running) kick();
}

// Answers.

void DeviceQueue::answer(RequestSlot& slot, Answer answer) {
  const void* here = this_thread();
  if (pass_thread_.load(std::memory_order_relaxed) == here) return answer_here(slot, answer);
  if (loop_thread_.load(std::memory_order_relaxed) == here && env_.loop->in_loop_thread())
    return answer_here(slot, answer);
  answer_elsewhere(slot, answer);
}

void DeviceQueue::answer_here(RequestSlot& slot, Answer answer) {
  if (pinned_ != 0 && !unpin(slot)) slot.write.done = 0;
  if (answer == Answer::complete) [[likely]] {
    completed(slot);
  } else {
    slot.state = RequestSlot::State::given_up;
    if (answer == Answer::drop && phase_ == Phase::running && !halted_.load(std::memory_order_relaxed)) {
      break_queue(ring_rule::dropped);
    }
  }
  token_returned();
}

void DeviceQueue::answer_elsewhere(RequestSlot& slot, Answer answer) {
  std::shared_ptr<DeviceQueue> last;  // destroys this, after the lock is gone
  const std::lock_guard lock(remote_mutex_);
  if (abandoned_.load(std::memory_order_relaxed)) {
    if (--tokens_ == 0) last = std::move(self_);
    return;
  }
  remote_.push_back({&slot, answer});
  if (remote_.size() == 1) {
    env_.loop->post([self = shared_from_this()] { self->take_remote_answers(); });
  }
}

void DeviceQueue::take_remote_answers() {
  std::vector<Remote> answers;
  {
    const std::lock_guard lock(remote_mutex_);
    if (abandoned_.load(std::memory_order_relaxed)) return;  // they have been counted there
    answers.swap(remote_);
  }
  for (const Remote& remote : answers) answer_here(*remote.slot, remote.answer);
  flush();
}

void DeviceQueue::completed(RequestSlot& slot) {
  const bool dropped = phase_ != Phase::running && stop_mode_ == StopMode::discard;
  if (dropped || muted()) [[unlikely]] {
    slot.state = RequestSlot::State::given_up;
  } else if (slot.bounce && slot.write.done != 0) [[unlikely]] {
    write_back(slot);
  } else {
    give_back(slot);
  }
}

void DeviceQueue::give_back(RequestSlot& slot) {
  if (in_order_) {
    slot.state = RequestSlot::State::done;
    give_back_in_order();
  } else if (!bound_ || paused_) [[unlikely]] {
    slot.state = RequestSlot::State::done;
    waiting_.push_back(&slot);
  } else {
    put_in_batch(slot);
  }
  schedule_flush();
}

/// VIRTIO 1.4, 2.7.9 and 6: with IN_ORDER buffers are used in the order in which they were made available, so an answer
/// waits for those before it.
void DeviceQueue::give_back_in_order() {
  if (!bound_ || paused_) return;
  while (order_count_ != 0) {
    RequestSlot& slot = *order_[order_first_];
    if (slot.state != RequestSlot::State::done) return;
    order_first_ = (order_first_ + 1) % static_cast<std::uint32_t>(order_.size());
    --order_count_;
    put_in_batch(slot);
  }
}

void DeviceQueue::put_in_batch(RequestSlot& slot) {
  UsedBuffer& used = batch_[batched_++];
  used = slot.used();
  used.filled = used.filled && !slot.malformed;
  free_slot(slot);
}

void DeviceQueue::free_slot(RequestSlot& slot) {
  slot.state = RequestSlot::State::free;
  if (!slot.plain) {
    spilled_ -= slot.chain.spilled();
    if (slot.bounce) bounced_ -= slot.bounce->bytes.size();
    slot.bounce.reset();
    slot.chain.trim();
    slot.malformed = false;
  }
  free_[free_count_++] = &slot;
}

/// It may have been the room of what has just ended that the next buffer waits for. One that is being fetched it waits
/// for in any case.
void DeviceQueue::unstall() {
  if (!stalled_ || is_fetching_) return;
  stalled_ = false;
  kick();
}

void DeviceQueue::token_returned() {
  --tokens_;
  if (stalled_) [[unlikely]]
    unstall();
  if (phase_ == Phase::stopping) [[unlikely]]
    schedule_finish();
}

// Stopping.

void DeviceQueue::quiesce(StopMode mode) {
  if (phase_ == Phase::idle) return;
  publish_batch();
  phase_ = Phase::stopping;
  stop_mode_ = mode;
  update_serving();
  poller_.reset();
  hold_timer_.reset();
}

void DeviceQueue::finish(Stopped stopped) {
  stopped_ = std::move(stopped);
  finish_if_quiet();
}

/// What a stop has waited for ends in the middle of an answer, or of a transfer. Whoever is told of the end may destroy the
/// device, and its storage, which go on after that: so the end comes on a turn of the loop of its own.
void DeviceQueue::schedule_finish() {
  if (!can_finish()) return;
  env_.loop->post([self = shared_from_this()] {
    if (!self->abandoned_.load(std::memory_order_relaxed)) self->finish_if_quiet();
  });
}

void DeviceQueue::finish_if_quiet() {
  if (!can_finish()) return;
  flush();
  QueueState state = capture();
  phase_ = Phase::idle;
  unbind_ring();
  for (std::uint32_t slot = 0; slot < slot_count_; ++slot) slots_[slot].bounce.reset();
  std::exchange(stopped_, nullptr)(std::move(state));
}

QueueState DeviceQueue::capture() const {
  QueueState state = setup_;
  if (phase_ == Phase::idle) return state;
  std::vector<const RequestSlot*> held;
  for (std::uint32_t slot = 0; slot < slot_count_; ++slot) {
    if (slots_[slot].state != RequestSlot::State::free) held.push_back(&slots_[slot]);
  }
  std::ranges::sort(held, {}, &RequestSlot::order);
  if (packed_) {
    packed_ring_.save(state);
    for (const RequestSlot* slot : held) packed_ring_.describe(*slot, state.in_flight.emplace_back());
  } else {
    split_.save(state);
    for (const RequestSlot* slot : held) split_.describe(*slot, state.in_flight.emplace_back());
  }
  const auto rest = replays_.begin() + static_cast<std::ptrdiff_t>(next_replay_);
  state.in_flight.insert(state.in_flight.end(), rest, replays_.end());
  return state;
}

void DeviceQueue::change_journal(Journal& journal) {
  publish_batch();
  env_.journal = &journal;
  notes_pops_ = true;
  if (phase_ != Phase::idle) journal.queue_starting(env_.index, capture(), packed_);
}

void DeviceQueue::abandon() {
  poller_.reset();
  hold_timer_.reset();
  unmaps_.clear();
  phase_ = Phase::idle;
  stopped_ = nullptr;
  const std::lock_guard lock(remote_mutex_);
  abandoned_.store(true, std::memory_order_relaxed);
  plain_thread_.store(nullptr, std::memory_order_relaxed);
  pass_thread_.store(nullptr, std::memory_order_relaxed);
  loop_thread_.store(nullptr, std::memory_order_relaxed);
  tokens_ -= static_cast<std::uint32_t>(remote_.size());
  remote_.clear();
  if (tokens_ != 0) self_ = shared_from_this();
}

}  // namespace outboard::virtio
