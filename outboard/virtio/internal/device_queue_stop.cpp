#include <utility>

#include <outboard/virtio/internal/device_queue.hpp>

/// How a queue comes to rest: quiesce(), then finish() once the device has given up what it keeps, or abandon().
namespace outboard::virtio {

void DeviceQueue::quiesce(StopMode mode) {
  if (phase_ == QueuePhase::idle) return;
  publish_batch();
  move(mode == StopMode::drain ? QueueEvent::drain : QueueEvent::discard);
  poller_.reset();
  hold_timer_.reset();
}

void DeviceQueue::finish(Stopped stopped) {
  stopped_ = std::move(stopped);
  finish_if_quiet();
}

/// What a stop waits for ends inside an answer or a transfer. Whoever is told of the end may destroy the device and its
/// storage, which go on after that. So the stop ends on a turn of the loop of its own.
void DeviceQueue::schedule_finish() {
  if (!can_finish()) return;
  env_.loop->post([self = shared_from_this()] {
    if (!self->is_abandoned()) self->finish_if_quiet();
  });
}

void DeviceQueue::finish_if_quiet() {
  if (!can_finish()) return;
  publish_batch();
  QueueState state = capture();
  move(QueueEvent::rest);
  ring_.forget();
  for (RequestSlot& slot : slots_.all()) slot.bounce.reset();
  std::exchange(stopped_, nullptr)(std::move(state));
}

/// All that another queue needs to go on from here.
QueueState DeviceQueue::capture() const {
  QueueState state = setup_;
  if (phase_ == QueuePhase::idle) return state;
  const auto save = [&](const auto& ring) {
    ring.save(state);
    for (const RequestSlot* slot : slots_.held()) ring.describe(*slot, state.in_flight.emplace_back());
  };
  if (packed_) {
    save(packed_ring_);
  } else {
    save(split_);
  }
  const auto rest = replays_.begin() + static_cast<std::ptrdiff_t>(next_replay_);
  state.in_flight.insert(state.in_flight.end(), rest, replays_.end());
  return state;
}

void DeviceQueue::change_journal(Journal& journal) {
  publish_batch();
  env_.journal = &journal;
  notes_pops_ = true;
  if (phase_ != QueuePhase::idle) journal.queue_starting(env_.index, capture(), packed_);
}

void DeviceQueue::abandon() {
  poller_.reset();
  hold_timer_.reset();
  memory_.forget_unmaps();
  phase_ = QueuePhase::idle;
  stopped_ = nullptr;
  remote_.abandon(tokens_, shared_from_this());
  thread_.forget();
}

}  // namespace outboard::virtio
