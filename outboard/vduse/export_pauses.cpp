#include <utility>

#include <outboard/base/together.hpp>
#include <outboard/vduse/export.hpp>
#include <outboard/vduse/interrupts.hpp>

/// Queues that the driver stops without a reset, and lets go on: GET_VQ_STATE, SET_VQ_READY, SUSPEND.
namespace outboard::vduse {

namespace {

using virtio::QueueState;

/// Whether a queue is where it was when it began. Its state in the kernel does not move while it runs, so another one is the
/// driver's wish.
bool is_same(const spec::VqInfo& a, const spec::VqInfo& b, bool packed) {
  const bool same_place =
      a.num == b.num && a.desc_addr == b.desc_addr && a.driver_addr == b.driver_addr && a.device_addr == b.device_addr;
  const auto& one = a.state.packed;
  const auto& other = b.state.packed;
  if (!packed) return same_place && a.state.split.avail_index == b.state.split.avail_index;
  return same_place && one.last_avail_counter == other.last_avail_counter &&
         one.last_avail_idx == other.last_avail_idx && one.last_used_counter == other.last_used_counter &&
         one.last_used_idx == other.last_used_idx;
}

}  // namespace

/// A queue that is off has been told to drain, and where it was late to discard: no drain follows that.
virtio::StopMode Export::stop_mode(unsigned queue) const {
  return lines_[queue]->off ? virtio::StopMode::discard : virtio::StopMode::drain;
}

/// Finishes what is in flight. From here on a kick does not reach the queue: whether it is to go on is seen on this loop.
void Export::rest(unsigned queue, virtio::StopMode mode,
                  std::move_only_function<void(const Result<QueueState>&)> done) {
  Line& line = *lines_[queue];
  line.rests.store(true, std::memory_order_release);
  core_->stop_queue(
      queue, mode,
      [this, weak = std::weak_ptr(self_), queue, done = std::move(done)](const Result<QueueState>& stopped) mutable {
        if (weak.expired()) return;
        Line& at = *lines_[queue];
        if (stopped && stopped->enabled && live_) {
          at.rest = *stopped;
        } else {
          at.rests.store(false, std::memory_order_release);
        }
        done(stopped);
        if (std::exchange(at.kicked, false)) kicked_at_rest(queue);
      });
}

/// The driver asked where the queue stopped, and goes on using it all the same. One that it has switched off is waited for.
void Export::kicked_at_rest(unsigned queue) {
  Line& line = *lines_[queue];
  if (!live_ || line.off || !line.rests.load(std::memory_order_relaxed)) return;
  if (!line.rest || suspended_) {
    line.kicked = true;  // it is still on its way to rest, or the suspension may be undone
    return;
  }
  resume(queue);
}

void Export::resume(unsigned queue) {
  Line& line = *lines_[queue];
  const auto state = std::exchange(line.rest, std::nullopt);
  line.off = false;
  line.rests.store(false, std::memory_order_release);
  if (const Status started = core_->start_queue(queue, *state); !started)
    return log_.error("queue {} cannot go on: {}", queue, started.error().message());
  core_->kick(queue);
}

/// A queue that was switched off is on again. Where the driver has put it elsewhere meanwhile, or says where it is to go on,
/// it begins there, as one that had not been ready before.
bool Export::goes_on(unsigned queue, const spec::VqInfo& info) {
  Line& line = *lines_[queue];
  if (is_same(info, line.begun, packed())) {
    resume(queue);
    return true;
  }
  QueueState nowhere = *std::exchange(line.rest, std::nullopt);
  nowhere.enabled = false;
  line.off = false;
  line.rests.store(false, std::memory_order_release);
  [[maybe_unused]] const Status disabled = core_->start_queue(queue, nowhere);  // what it said itself is consistent
  return false;
}

/// The queue is off, and its requests are late. They are answered no more, since the driver may do with the ring what it
/// likes; where the queue is ready again in the same place they come again. However long that takes: nothing is broken.
void Export::rest_late(unsigned queue) {
  core_->stop_queue(queue, virtio::StopMode::discard,
                    [this, weak = std::weak_ptr(self_), queue](const Result<QueueState>& stopped) {
                      if (weak.expired() || !live_) return;
                      if (!stopped) return rest_late(queue);
                      lines_[queue]->rest = *stopped;
                    });
}

/// Must never be refused: the kernel gives the device up for it. It stores its own side when it has the answer. A queue that
/// does not come to rest in time is told to discard, lest it go on with a ring that is off.
void Export::set_vq_ready(std::uint32_t id, const spec::VqReadyRequest& request) {
  if (request.index >= queue_count() || !live_) return answer(id, spec::result::ok);
  Line& line = *lines_[request.index];
  if (request.ready == 0) {
    if (!core_->queue_enabled(request.index)) return answer(id, spec::result::ok);
    const virtio::StopMode mode = stop_mode(request.index);
    line.off = true;
    return rest(request.index, mode, [this, id, queue = request.index](const Result<QueueState>& stopped) {
      if (!stopped) rest_late(queue);
      answer(id, spec::result::ok);
    });
  }
  answer(id, spec::result::ok);
  late_pause_ = Duration(0);
  look_for_late_queues();
}

/// After the answer the kernel takes no interrupts and passes on no kicks before the next reset.
void Export::suspend(std::uint32_t id) {
  if (!live_) return answer(id, spec::result::failed);
  suspended_ = true;
  std::vector<unsigned> stopped;  // by this
  for (unsigned queue = 0; queue < queue_count(); ++queue) {
    if (!lines_[queue]->off && !lines_[queue]->rest) stopped.push_back(queue);
  }
  undo_ = [this, stopped] {
    log_.warning("whoever suspended the device was killed: it goes on");
    undo_suspend(stopped);
  };
  const auto all = Together::of(queue_count() + std::size_t{1},
                                [this, weak = std::weak_ptr(self_), id, stopped](const Status& rested) {
                                  if (weak.expired()) return;
                                  if (!rested)
                                    log_.error("the device cannot be suspended: {}", rested.error().message());
                                  interrupts_->flush();
                                  if (!rested) suspended_ = false;  // before the answer: what comes next may ask
                                  answer(id, rested ? spec::result::ok : spec::result::failed);
                                  if (!rested) undo_suspend(stopped);
                                });
  for (unsigned queue = 0; queue < queue_count(); ++queue) {
    rest(queue, stop_mode(queue),
         [all](const Result<QueueState>& at) { all->one(at ? Status{} : Status(std::unexpected(at.error()))); });
  }
  all->one();
}

/// Those that were at rest before stay so, but for a kick that has come meanwhile. A queue that is late goes on by itself.
void Export::undo_suspend(const std::vector<unsigned>& stopped) {
  suspended_ = false;
  for (const unsigned queue : stopped) {
    if (lines_[queue]->rest && !lines_[queue]->off) resume(queue);
  }
  for (unsigned queue = 0; queue < queue_count(); ++queue) {
    if (std::exchange(lines_[queue]->kicked, false)) kicked_at_rest(queue);
  }
  late_pause_ = Duration(0);  // nobody has looked meanwhile
  look_for_late_queues();
}

}  // namespace outboard::vduse
