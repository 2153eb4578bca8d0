#include <outboard/devices/blk/internal/driver_core.hpp>

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include <outboard/virtio/spec.hpp>

namespace outboard::blk {

namespace {

constexpr std::size_t max_recoveries = 3;
constexpr Duration recovery_window = std::chrono::seconds(60);
constexpr std::uint8_t nothing_there = 0xff;  // what every register of a device that was pulled out reads

virtio::Features wanted(const Driver::Options& options) {
  // VIRTIO 1.4, 5.2.6.1: "A driver SHOULD accept the VIRTIO_BLK_F_RO feature if offered."
  virtio::Features features{feature::size_max, feature::seg_max, feature::ro,      feature::blk_size,    feature::flush,
                            feature::topology, feature::mq,      feature::discard, feature::write_zeroes};
  features.set(virtio::Feature::notification_data);
  features.set(virtio::Feature::in_order);
  if (options.packed) features.set(virtio::Feature::ring_packed);
  if (options.indirect) features.set(virtio::Feature::indirect_desc);
  if (options.event_idx) features.set(virtio::Feature::event_idx);
  return features;
}

}  // namespace

DriverCore::DriverCore(virtio::Transport& transport, std::unique_ptr<virtio::Transport> owned,
                       const Driver::Options& options)
    : transport_(transport), owned_(std::move(owned)), options_(options) {}

DriverCore::~DriverCore() = default;

Result<std::shared_ptr<DriverCore>> DriverCore::start(virtio::Transport& transport,
                                                      std::unique_ptr<virtio::Transport> owned,
                                                      const Driver::Options& options) {
  if (options.queues == 0 || options.depth == 0) return Error(EINVAL, "a driver needs a queue, and room for a request");
  if (transport.device_id() != device_id)
    return Error(ENODEV, fmt::format("not a block device: its virtio device ID is {}", transport.device_id()))
        .on(transport.name());
  std::shared_ptr<DriverCore> core(new DriverCore(transport, std::move(owned), options));
  OUTBOARD_CHECK(core->choose_loop());
  if (auto prepared = core->prepare(); !prepared) {
    core->shut_down();
    return Error(prepared.error()).while_doing("starting the disk");
  }
  return core;
}

Status DriverCore::choose_loop() {
  control_ = options_.loop;
  if (control_ != nullptr) return {};
  OUTBOARD_TRY(reactor_, Reactor::create());
  control_ = reactor_.get();
  return {};
}

Status DriverCore::prepare() {
  transport_.on_gone([weak = weak_from_this()] {
    if (const auto core = weak.lock()) core->suspect();
  });
  OUTBOARD_CHECK(transport_.attach(*control_));
  OUTBOARD_CHECK(agree());
  OUTBOARD_TRY(const std::uint16_t device_queues, transport_.queue_count());
  // As many as the configuration names, the transport has and the caller wants; at least the first.
  const unsigned count = std::min({options_.queues, unsigned{limits_.queues}, std::max<unsigned>(device_queues, 1)});
  for (unsigned i = 0; i < count; ++i) {
    Loop* loop = i < options_.queue_loops.size() ? options_.queue_loops[i] : control_;
    queues_.push_back(std::unique_ptr<Queue>(new Queue(*this, i, *loop)));
  }
  // Without any the loops poll the queues, as they do for a queue that is refused its vector.
  if (!options_.poll) {
    OUTBOARD_TRY(vectors_, transport_.enable_vectors(1 + count));
  }
  OUTBOARD_CHECK(build_queues());
  OUTBOARD_CHECK(watch_vectors());
  OUTBOARD_CHECK(virtio::start_device(transport_));
  resume(0);
  return {};
}

/// Features and what the device says of itself.
Status DriverCore::agree() {
  OUTBOARD_TRY(features_, virtio::negotiate(transport_, wanted(options_)));
  return read_config();
}

Status DriverCore::read_config() {
  spec::Config config;
  const std::size_t size = std::min<std::size_t>(transport_.config_size(), spec::config_size);
  if (size < sizeof(config.capacity))
    return Error(EPROTO, "its configuration space is too short for a capacity").on(transport_.name());
  OUTBOARD_CHECK(transport_.read_config(0, as_writable_bytes_of(config).first(size)));
  limits_ = sanitise(config, features_);
  capacity_ = limits_.capacity;
  return {};
}

/// Vector 0 is the configuration's where there are two or more; the queues share the others.
std::optional<unsigned> DriverCore::wanted_vector(unsigned queue) const {
  if (vectors_ == 0) return std::nullopt;
  return vectors_ == 1 ? 0 : 1 + queue % (vectors_ - 1);
}

Status DriverCore::build_queues() {
  if (vectors_ != 0) {
    auto set = transport_.set_config_vector(0);
    // docs/spec-map.md, VR-23: a device without a vector to spare. Its status is then looked at when something seems wrong.
    if (!set && set.error().code() == ENOSPC) set = transport_.set_config_vector(std::nullopt);
    if (!set) return set;
  }
  for (auto& queue : queues_) OUTBOARD_CHECK(queue->build(features_, limits_, wanted_vector(queue->index())));
  return {};
}

Status DriverCore::watch_vectors() {
  if (vectors_ == 0) return {};
  OUTBOARD_TRY(config_watch_, control_->watch_eventfd(transport_.vector(0), [this] { vector_fired(0, *control_); }));
  for (unsigned vector = 1; vector < vectors_; ++vector) watch_queue_vector(vector);
  return {};
}

/// The first queue that the device has tied to a vector: on its loop the vector is watched. Null: none.
Queue* DriverCore::first_with(unsigned vector) const {
  const auto first =
      std::ranges::find(queues_, std::optional(vector), [](const auto& queue) { return queue->vector(); });
  return first == queues_.end() ? nullptr : first->get();
}

void DriverCore::watch_queue_vector(unsigned vector) {
  Queue* first = first_with(vector);
  if (first == nullptr) return;
  on_loop(first->loop(), [this, vector, first] {
    auto watch = first->loop().watch_eventfd(transport_.vector(vector),
                                             [this, vector, first] { vector_fired(vector, first->loop()); });
    if (watch) {
      first->watch_ = std::move(*watch);
    } else {
      report(watch.error());
    }
  });
}

/// On the loop `here`.
void DriverCore::vector_fired(unsigned vector, Loop& here) {
  if (vector == 0) {
    // A vector that stands for everything (INTx among them) says what it was in the ISR status.
    const auto isr = vectors_ == 1 ? transport_.acknowledge_interrupt() : Result<std::uint8_t>(2);
    if (isr && (*isr & 2) != 0) config_changed();
  }
  for (auto& queue : queues_) {
    if (queue->vector() != vector) continue;
    if (&queue->loop() == &here) {
      queue->interrupted();
    } else {
      on_loop(queue->loop(), [&queue = *queue] { queue.interrupted(); });
    }
  }
}

void DriverCore::config_changed() {
  if (recovering_ || stopped_ || dead() != 0) return;
  const auto status = transport_.status();
  // VIRTIO 1.4, 2.1.1 and docs/spec-map.md, VR-22: all ones is nobody there.
  if (!status || *status == nothing_there || transport_.gone())
    return give_up(ENODEV, Error(ENODEV, "the device has gone"));
  if ((*status & virtio::spec::status::needs_reset) != 0) return recover(Error(EIO, "the device asks for a reset"));
  if ((*status & virtio::spec::status::driver_ok) == 0) return recover(Error(EIO, "the device has stopped by itself"));
  // VIRTIO 1.4, 5.2.6.1: "The driver SHOULD check if the content of the capacity field has changed upon receiving a
  // configuration change notification." Nothing else is taken over: the other limits are those of the start.
  le64 capacity;
  if (transport_.read_config(offsetof(spec::Config, capacity), as_writable_bytes_of(capacity)))
    capacity_ = std::min<std::uint64_t>(capacity, UINT64_MAX / sector_size);
}

void DriverCore::report(const Error& error) {
  control_->post([weak = weak_from_this(), error] {
    if (const auto core = weak.lock()) core->recover(error);
  });
}

void DriverCore::suspect() {
  control_->post([weak = weak_from_this()] {
    if (const auto core = weak.lock()) core->config_changed();
  });
}

/// Runs `task` on `loop`: now, when this is its thread.
void DriverCore::on_loop(Loop& loop, std::move_only_function<void()> task) {
  if (loop.in_loop_thread()) return task();
  loop.post([weak = weak_from_this(), task = std::move(task)]() mutable {
    if (const auto core = weak.lock()) task();
  });
}

// Recovery: every queue comes to rest on its own loop, then the device is reset and set up anew from here, then every
// queue goes on.

void DriverCore::recover(const Error& reason) {
  if (recovering_ || stopped_ || dead() != 0) return;
  recovering_ = true;
  reason_ = reason.code() == ETIMEDOUT ? ETIMEDOUT : EIO;
  options_.log.warning("{}: {}; resetting the device", transport_.name(), reason.message());
  pausing_ = queues_.size();
  for (auto& queue : queues_) {
    on_loop(queue->loop(), [this, &queue = *queue] {
      queue.pause();
      control_->post([weak = weak_from_this()] {
        if (const auto core = weak.lock()) core->paused();
      });
    });
  }
}

void DriverCore::paused() {
  if (--pausing_ == 0 && recovering_ && !stopped_) restart();
}

bool DriverCore::may_recover() {
  const TimePoint now = control_->clock().now();
  while (!recent_.empty() && now - recent_.front() > recovery_window) recent_.pop_front();
  if (recent_.size() >= max_recoveries) return false;
  recent_.push_back(now);
  return true;
}

void DriverCore::restart() {
  const bool again = may_recover();
  // The reset comes first in any case: afterwards nothing of ours is written to any more.
  if (auto reset = transport_.reset(); !reset)
    return give_up(ENODEV, Error(reset.error()).while_doing("resetting the device"));
  if (!again) return give_up(ENODEV, Error(ENODEV, "reset three times within a minute: the device is given up"));
  if (auto back = bring_back(); !back)
    return give_up(ENODEV, Error(back.error()).while_doing("starting the device again"));
  ++recovered_;
  recovering_ = false;
  resume(reason_);
}

void DriverCore::resume(int reason) {
  for (auto& queue : queues_) on_loop(queue->loop(), [&queue = *queue, reason] { queue.resume(reason); });
}

Status DriverCore::bring_back() {
  const virtio::Features before = features_;
  OUTBOARD_CHECK(agree());
  if (features_ != before) return Error(EPROTO, "the device offers other features than before").on(transport_.name());
  std::vector<std::optional<unsigned>> vectors;
  for (const auto& queue : queues_) vectors.push_back(queue->vector());
  OUTBOARD_CHECK(build_queues());
  const auto now = [](const auto& queue) { return queue->vector(); };
  if (!std::ranges::equal(queues_, vectors, {}, now))
    return Error(EPROTO, "the device assigned other vectors to its queues than before").on(transport_.name());
  return virtio::start_device(transport_);
}

/// Whatever the device still writes to stays allocated until shut_down().
void DriverCore::give_up(int error, const Error& reason) {
  if (dead() != 0) return;
  dead_ = error;
  recovering_ = false;
  options_.log.error("{}: {}", transport_.name(), reason.message());
  config_watch_.reset();
  for (auto& queue : queues_) {
    on_loop(queue->loop(), [&queue = *queue, error] {
      queue.watch_.reset();
      queue.give_up(error);
    });
  }
}

/// From here on nothing is given to the queues any more, whatever the device does: they may be destroyed on this thread.
void DriverCore::stop_queues(std::move_only_function<void()> done) {
  stopped_ = true;
  on_each_queue([](Queue& queue) { queue.stop(); },
                [this, done = std::move(done)]() mutable {
                  // Once more, for what a queue that shares its vector had posted to the others before it was stopped.
                  on_each_queue([](Queue&) {}, std::move(done));
                });
}

/// Has `task` run for each queue on its loop; then, on the control loop, `done`, if the driver is there still.
void DriverCore::on_each_queue(void (*task)(Queue& queue), std::move_only_function<void()> done) {
  auto left = std::make_shared<std::size_t>(queues_.size());
  auto shared = std::make_shared<std::move_only_function<void()>>(std::move(done));
  for (auto& queue : queues_) {
    on_loop(queue->loop(), [this, task, &queue = *queue, left, shared] {
      task(queue);
      control_->post([weak = weak_from_this(), left, shared] {
        if (--*left != 0 || weak.expired()) return;
        (*shared)();
      });
    });
  }
}

void DriverCore::shut_down() {
  config_watch_.reset();
  // Once more where the driver has given up: memory goes back only when the device is known to be quiet.
  const bool quiet = transport_.reset().has_value();
  dead_ = ECANCELED;
  for (auto& queue : queues_) {
    queue->watch_.reset();
    queue->give_up(ECANCELED);
    if (!quiet) queue->abandon_memory();
  }
  // The loop may end with us, whosever it is; what we drive may go on.
  transport_.detach();
}

}  // namespace outboard::blk
