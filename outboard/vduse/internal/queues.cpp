#include <outboard/vduse/internal/queues.hpp>

#include <algorithm>
#include <utility>

#include <outboard/base/internal/joined_completion.hpp>
#include <outboard/base/internal/run_on.hpp>
#include <outboard/vduse/internal/vq_state.hpp>

namespace outboard::vduse {

namespace {

using virtio::QueueState;
using virtio::StopMode;

constexpr Duration first_look = std::chrono::milliseconds(1);
constexpr Duration max_look_pause = std::chrono::seconds(1);

}  // namespace

bool Queues::Queue::move(QueueEvent event) {
  const auto next = next_phase(phase.load(std::memory_order_relaxed), event);
  // Pairs with the load in kicked(): a kick that finds the queue running finds what was done before it was let run.
  if (next) phase.store(*next, std::memory_order_release);
  return next.has_value();
}

// Life.

Result<std::unique_ptr<Queues>> Queues::create(Parts parts) {
  std::unique_ptr<Queues> made(new Queues(std::move(parts)));
  for (unsigned queue = 0; queue < made->loops_.size(); ++queue) OUTBOARD_CHECK(made->watch_kick(queue));
  return made;
}

Queues::Queues(Parts parts)
    : core_(parts.core),
      control_(parts.control),
      loops_(std::move(parts.loops)),
      memory_(std::move(parts.memory)),
      device_(parts.device),
      log_(std::move(parts.log)),
      self_(std::make_shared<Queues*>(this)) {}

void Queues::end_kicks() {
  for (unsigned queue = 0; queue < queues_.size(); ++queue)
    run_on(*loops_[queue], [&watched = *queues_[queue]] { watched.watch.reset(); });
  self_.reset();
}

Status Queues::watch_kick(unsigned queue) {
  Queue& added = *queues_.emplace_back(std::make_unique<Queue>());
  OUTBOARD_TRY(added.kick, EventFd::create());
  Loop& loop = *loops_[queue];
  Status watched;
  run_on(loop, [&] {
    auto watch = loop.watch_eventfd(added.kick, [this, queue] { kicked(queue); });
    if (watch) {
      added.watch = std::move(*watch);
    } else {
      watched = Status(std::unexpected(watch.error()));
    }
  });
  return watched;
}

/// Before FEATURES_OK the driver has accepted nothing.
bool Queues::packed() const {
  constexpr unsigned bit = static_cast<unsigned>(virtio::Feature::ring_packed);
  return (core_.driver_features(bit / 32) >> bit % 32 & 1) != 0;
}

bool Queues::is_started(unsigned queue) const {
  return phase(queue) != QueuePhase::waiting && phase(queue) != QueuePhase::failed;
}

void Queues::was_reset() {
  for (const auto& queue : queues_) {
    queue->phase.store(QueuePhase::waiting, std::memory_order_release);
    queue->position.reset();
    queue->kick_remembered = queue->unmapped_logged = false;
  }
}

// Starting.

void Queues::set_up() {
  for (unsigned queue = 0; queue < queues_.size(); ++queue) set_up(queue);
}

void Queues::set_up(unsigned queue) {
  if (phase(queue) != QueuePhase::waiting && phase(queue) != QueuePhase::off) return;
  const auto info = node_->queue_info(queue);
  if (!info) return log_.error("queue {}: {}", queue, info.error().message());
  if (info->ready == 0) return;
  if (phase(queue) == QueuePhase::off && go_on_where_it_stopped(queue, *info)) return;
  if (const Status started = start(queue, *info); !started) {
    queues_[queue]->move(QueueEvent::refused);
    log_.error("queue {} is not run: {}", queue, started.error().message());
  }
}

/// A queue that was switched off is on again. If the driver has put it elsewhere meanwhile, or has set another position, it
/// starts there like one that had not been ready before.
bool Queues::go_on_where_it_stopped(unsigned queue, const spec::VqInfo& info) {
  Queue& off = *queues_[queue];
  if (is_same_ring(info, off.begun, packed())) {
    resume(queue);
    return true;
  }
  QueueState disabled = *std::exchange(off.position, std::nullopt);
  disabled.enabled = false;
  off.move(QueueEvent::moved);
  [[maybe_unused]] const Status taken = core_.start_queue(queue, disabled);  // the core's own state is consistent
  return false;
}

/// An error: the queue cannot be run before the next reset. Without one it runs, or waits until its ring is mapped.
Status Queues::start(unsigned queue, const spec::VqInfo& info) {
  Queue& starting = *queues_[queue];
  starting.begun = info;
  OUTBOARD_TRY(const auto ring, ring_of(info, packed(), core_.queue_max_size(queue)));
  if (!is_mapped(*memory_[queue], ring, packed())) {
    if (!std::exchange(starting.unmapped_logged, true))
      log_.error("queue {}: its ring is in memory that the driver has not mapped; it is started when that is mapped",
                 queue);
    return {};
  }
  OUTBOARD_CHECK(core_.start_queue(queue, ring));
  starting.move(QueueEvent::started);
  return {};
}

void Queues::connect() {
  for (unsigned queue = 0; queue < queues_.size(); ++queue) {
    if (phase(queue) == QueuePhase::running) connect(queue);
  }
  if (std::ranges::none_of(queues_, [](const auto& queue) { return may_become_ready(queue->phase); })) return;
  // Drivers by way of vhost may make a queue ready now, and no message says so.
  look_pause_ = first_look;
  look_ = control_.after(look_pause_, [this] { look_for_ready(); });
}

/// The kernel may have dropped the kicks before this, or kept them: the ring is scanned in any case.
void Queues::connect(unsigned queue) {
  if (const Status set = node_->set_kick(queue, &queues_[queue]->kick); !set)
    log_.error("queue {}: the driver's notifications do not arrive: {}", queue, set.error().message());
  core_.kick(queue);
}

void Queues::look_for_ready() {
  look_.reset();
  if (device_ != DevicePhase::running || node_ == nullptr) return;
  bool again = false;
  for (unsigned queue = 0; queue < queues_.size(); ++queue) {
    if (!may_become_ready(phase(queue))) continue;
    set_up(queue);
    if (phase(queue) == QueuePhase::running) connect(queue);
    again |= may_become_ready(phase(queue));
  }
  if (!again) return;
  look_pause_ = std::clamp(look_pause_ * 2, first_look, max_look_pause);
  look_ = control_.after(look_pause_, [this] { look_for_ready(); });
}

void Queues::look_soon() {
  look_pause_ = Duration(0);
  look_for_ready();
}

// Taking over.

Result<bool> Queues::is_in_place(unsigned queue, const QueueState& logged) {
  OUTBOARD_TRY(const auto info, node_->queue_info(queue));
  queues_[queue]->begun = info;
  return info.ready != 0 && info.num == logged.size && info.desc_addr == raw(logged.descriptors) &&
         info.driver_addr == raw(logged.driver) && info.device_addr == raw(logged.device);
}

void Queues::restored() {
  for (unsigned queue = 0; queue < queues_.size(); ++queue) {
    if (core_.queue_enabled(queue)) queues_[queue]->move(QueueEvent::started);
  }
}

// Stopping.

void Queues::stop(unsigned queue, Stopped done) {
  Queue& stopping = *queues_[queue];
  if (stopping.position && is_live(device_)) return done(*stopping.position);
  // A queue that is switched off was told to drain, and when it was late to discard: no drain follows a discard.
  const StopMode mode = is_switched_off(phase(queue)) ? StopMode::discard : StopMode::drain;
  stopping.move(QueueEvent::asked_to_stop);
  ask_to_stop(queue, mode, std::move(done));
}

std::optional<spec::VqState> Queues::told_position(unsigned queue, const QueueState& stopped) const {
  if (!can_rewind(*memory_[queue], stopped, packed())) return std::nullopt;
  return rewound_state(stopped, packed());
}

void Queues::switch_off(unsigned queue, Stopped done) {
  Queue& off = *queues_[queue];
  const StopMode mode = is_switched_off(phase(queue)) ? StopMode::discard : StopMode::drain;
  off.move(QueueEvent::switched_off);
  if (off.position && is_live(device_)) return done(*off.position);
  ask_to_stop(queue, mode, [this, queue, done = std::move(done)](const Result<QueueState>& stopped) mutable {
    if (!stopped) discard_late(queue);
    done(stopped);
  });
}

void Queues::ask_to_stop(unsigned queue, StopMode mode, Stopped done) {
  core_.stop_queue(
      queue, mode,
      [this, weak = std::weak_ptr(self_), queue, done = std::move(done)](const Result<QueueState>& stopped) mutable {
        if (weak.expired()) return;
        note_stop(queue, stopped);
        done(stopped);
        replay_kick(queue);
      });
}

void Queues::note_stop(unsigned queue, const Result<QueueState>& stopped) {
  Queue& at = *queues_[queue];
  const bool is_at_rest = stopped && stopped->enabled && is_live(device_);
  if (!is_at_rest) {
    at.move(QueueEvent::late);
  } else if (at.move(QueueEvent::stopped)) {
    at.position = *stopped;
  }
}

/// The queue is off, and its requests are late. They are no longer answered, since the driver may do with the ring what it likes.
/// If the queue becomes ready again in the same place they are carried out again. However long that takes, the device does not
/// break.
void Queues::discard_late(unsigned queue) {
  core_.stop_queue(queue, StopMode::discard,
                   [this, weak = std::weak_ptr(self_), queue](const Result<QueueState>& stopped) {
                     if (weak.expired() || !is_live(device_)) return;
                     if (!stopped) return discard_late(queue);
                     note_stop(queue, stopped);
                   });
}

void Queues::stop_all(std::move_only_function<void(Status)> done) {
  const auto all = JoinedCompletion::of(queues_.size() + 1, std::move(done));
  for (unsigned queue = 0; queue < queues_.size(); ++queue) {
    stop(queue, [all](const Result<QueueState>& stopped) {
      all->part_done(stopped ? Status{} : Status(std::unexpected(stopped.error())));
    });
  }
  all->part_done();
}

std::vector<unsigned> Queues::running() const {
  std::vector<unsigned> found;
  for (unsigned queue = 0; queue < queues_.size(); ++queue) {
    if (phase(queue) == QueuePhase::running) found.push_back(queue);
  }
  return found;
}

void Queues::go_on(const std::vector<unsigned>& queues) {
  for (const unsigned queue : queues) {
    if (phase(queue) == QueuePhase::at_rest) resume(queue);
  }
  for (unsigned queue = 0; queue < queues_.size(); ++queue) replay_kick(queue);
  look_soon();  // nobody has looked meanwhile
}

void Queues::resume(unsigned queue) {
  Queue& resumed = *queues_[queue];
  const QueueState position = *std::exchange(resumed.position, std::nullopt);
  resumed.move(QueueEvent::resumed);
  if (const Status started = core_.start_queue(queue, position); !started)
    return log_.error("queue {} cannot go on: {}", queue, started.error().message());
  core_.kick(queue);
}

// Kicks.

void Queues::kicked(unsigned queue) {
  if (!passes_kicks(queues_[queue]->phase.load(std::memory_order_acquire))) [[unlikely]] {
    control_.post([this, weak = std::weak_ptr(self_), queue] {
      if (!weak.expired()) kicked_at_rest(queue);
    });
    return;
  }
  core_.kick_now(queue);
}

/// After GET_VQ_STATE a driver may go on using the queue. One that it has switched off waits for SET_VQ_READY.
void Queues::kicked_at_rest(unsigned queue) {
  if (!is_live(device_)) return;
  const QueuePhase now = phase(queue);
  if (now == QueuePhase::stopping || (now == QueuePhase::at_rest && device_ == DevicePhase::suspended)) {
    queues_[queue]->kick_remembered = true;
  } else if (now == QueuePhase::at_rest) {
    resume(queue);
  }
}

void Queues::replay_kick(unsigned queue) {
  if (std::exchange(queues_[queue]->kick_remembered, false)) kicked_at_rest(queue);
}

}  // namespace outboard::vduse
