#include <outboard/virtio/device_core.hpp>

#include <algorithm>
#include <utility>

#include <outboard/base/internal/joined_completion.hpp>
#include <outboard/virtio/internal/device_core_state.hpp>

namespace outboard::virtio {
namespace {

constexpr unsigned max_queues = 65535;

/// Feature bits that are not a device type's to offer: reserved, legacy, or the core's.
bool offers_only_its_own(const Features& features) {
  constexpr unsigned first = 24, last = 49;
  for (unsigned bit = first; bit <= last; ++bit) {
    if (bit == 42) continue;  // a device type's (VIRTIO 1.4, 2.2); 41 is ADMIN_VQ (chapter 6)
    const auto feature = static_cast<Feature>(bit);
    const bool ring = feature == Feature::indirect_desc || feature == Feature::event_idx ||
                      feature == Feature::ring_packed || feature == Feature::in_order || feature == Feature::ring_reset;
    if (!ring && features.has(feature)) return false;
  }
  return true;
}

Status check_identity(const Identity& identity) {
  if (identity.device_id == 0) return Error(EINVAL, "the device has no device ID");
  if (identity.queue_sizes.size() > max_queues) return Error(EINVAL, "the device has too many queues");
  for (const std::uint16_t size : identity.queue_sizes) {
    if (!legal_queue_size(false, size)) return Error(EINVAL, "a maximum queue size is not a power of two up to 32768");
  }
  if (!offers_only_its_own(identity.features)) return Error(EINVAL, "the device offers feature bits that are reserved");
  return {};
}

Features offered_features(const Identity& identity, const DeviceCore::Options& options) {
  Features offered =
      identity.features | Features{Feature::version_1, Feature::indirect_desc, Feature::event_idx, Feature::ring_reset};
  if (options.packed) offered.set(Feature::ring_packed);
  if (options.in_order) offered.set(Feature::in_order);
  if (options.access_platform != AccessPlatform::off) offered.set(Feature::access_platform);
  if (options.notification_data) offered.set(Feature::notification_data);
  // VIRTIO 1.4, 6.2: "A device MUST offer VIRTIO_F_VERSION_1."
  return (offered - options.without).with(Feature::version_1);
}

}  // namespace

DeviceCore::State::State(DeviceCore& core_, Device& device_, memory::AddressMap& memory_, Loop& control_,
                         TransportEvents& events_, Options options_)
    : core(core_),
      device(device_),
      memory(memory_),
      control(control_),
      events(events_),
      options(std::move(options_)),
      log(options.log) {}

DeviceCore::DeviceCore(Identity identity) : identity_(std::move(identity)) {}

Result<std::unique_ptr<DeviceCore>> DeviceCore::create(Device& device, memory::AddressMap& memory, Loop& control,
                                                       TransportEvents& events, Options options) {
  Identity identity = device.identity();
  OUTBOARD_CHECK(check_identity(identity));
  std::unique_ptr<DeviceCore> core(new DeviceCore(std::move(identity)));
  core->offered_ = offered_features(core->identity_, options);
  auto state = std::make_shared<State>(*core, device, memory, control, events, std::move(options));
  state->offered = core->offered_;
  core->state_ = state;
  for (unsigned index = 0; index < core->queue_count(); ++index) {
    State::Queue queue;
    queue.max_size = queue.size = core->identity_.queue_sizes[index];
    queue.loop = &core->queue_loop(index);
    const auto& memories = state->options.queue_memory;
    queue.memory = index < memories.size() && memories[index] != nullptr ? memories[index] : &memory;
    queue.engine = std::make_shared<DeviceQueue>(
        DeviceQueue::Environment{.index = index,
                                 .device = &device,
                                 .owner = state.get(),
                                 .memory = queue.memory,
                                 .loop = queue.loop,
                                 .control = &control,
                                 .journal = state->options.journal,
                                 .poll = state->options.poll,
                                 .answers_when_broken = state->options.answers_when_broken,
                                 .contains_faults = state->options.contains_faults,
                                 .log = state->log});
    queue.memory->add_user(*queue.engine);
    state->queues.push_back(std::move(queue));
  }
  OUTBOARD_CHECK(device.attach(*core));
  return core;
}

DeviceCore::~DeviceCore() {
  state_->gone = true;
  for (State::Queue& queue : state_->queues) {
    queue.memory->remove_user(*queue.engine);
    queue.engine->halt();
    queue.engine->abandon();
    queue.drain_waiters = {};
    queue.discard_waiters = {};
  }
  state_->reset_waiters.clear();
  state_->reset_followers.clear();
}

void DeviceCore::set_journal(Journal& journal) {
  state_->options.journal = &journal;
  for (const State::Queue& queue : state_->queues) queue.engine->set_journal(journal);
}

/// Queues first: a status alone would say that they have nothing in flight.
void DeviceCore::change_journal(Journal& journal, std::move_only_function<void()> done) {
  state_->options.journal = &journal;
  const auto all =
      JoinedCompletion::of(queue_count() + std::size_t{1},
                           [weak = std::weak_ptr(state_), &journal, done = std::move(done)](const Status&) mutable {
                             if (const auto state = weak.lock())
                               journal.status_changing(state->status, state->accepted);
                             done();
                           });
  for (State::Queue& queue : state_->queues) {
    state_->on_loop(queue,
                    [engine = queue.engine, &journal, all = all, loop = queue.loop, home = &state_->control]() mutable {
                      engine->change_journal(journal);
                      if (loop == home) return all->part_done();
                      home->post([all = std::move(all)] { all->part_done(); });
                    });
  }
  all->part_done();
}

std::uint8_t DeviceCore::status() const { return state_->status; }
void DeviceCore::write_status(std::uint8_t value) { state_->write_status(value); }
bool DeviceCore::broken() const { return state_->broken.load(std::memory_order_relaxed); }

std::uint32_t DeviceCore::driver_features(std::uint32_t select) const { return state_->accepted.word(select); }

void DeviceCore::write_driver_features(std::uint32_t select, std::uint32_t value) {
  // VIRTIO 1.4, 3.1.1: features are agreed on between DRIVER and FEATURES_OK; afterwards the set is frozen.
  const State& state = *state_;
  const bool open = state.has(spec::status::driver) && !state.has(spec::status::features_ok);
  if (!open || state.stuck() || state.resetting) return;
  if (select >= Features::words) {
    state_->accepted_beyond |= value != 0;
  } else {
    state_->accepted.set_word(select, value);
  }
}

// Device configuration space.

void DeviceCore::read_config(std::uint32_t offset, MutableBytes into) {
  std::ranges::fill(into, std::byte{0xff});
  config_generation();  // a driver that compares generations must see the change that it reads
  if (offset >= identity_.config_size) return;
  const auto length = std::min<std::uint64_t>(into.size(), identity_.config_size - offset);
  state_->device.read_config(offset, into.first(length));
}

void DeviceCore::write_config(std::uint32_t offset, Bytes from) {
  // VIRTIO 1.4, 3.1.1: a driver writes no configuration before FEATURES_OK.
  if (!state_->has(spec::status::features_ok) || state_->stuck() || state_->resetting) return;
  if (from.empty() || !range_within(offset, from.size(), identity_.config_size)) return;
  state_->device.write_config(offset, from);
}

/// VIRTIO 1.4, 4.1.4.3.1: the generation differs after a change that a driver might have seen half of. It moves when a
/// change is looked at, not with each change: eight bits would soon be round.
std::uint8_t DeviceCore::config_generation() {
  if (std::exchange(state_->config_has_changed, false)) ++state_->generation;
  return state_->generation;
}

// Host.

void DeviceCore::violation(std::string_view clause, std::string_view what) { state_->break_device(clause, what); }

void DeviceCore::config_changed(std::uint32_t /*offset*/, std::uint32_t /*length*/) {
  state_->config_has_changed = true;
  if (state_->live() && !state_->resetting) state_->events.notify_config();
}

Features DeviceCore::negotiated() const { return state_->negotiated(); }
Loop& DeviceCore::control_loop() { return state_->control; }

Loop& DeviceCore::queue_loop(unsigned queue) { return state_->options.loop_of(queue, state_->control); }

const Log& DeviceCore::log() const { return state_->log; }

// Queues.

std::uint16_t DeviceCore::queue_max_size(unsigned queue) const {
  const auto* found = state_->queue(queue);
  return found != nullptr ? found->max_size : std::uint16_t{0};
}

std::uint16_t DeviceCore::queue_size(unsigned queue) const {
  const auto* found = state_->queue(queue);
  return found != nullptr ? found->size : std::uint16_t{0};
}

void DeviceCore::set_queue_size(unsigned queue, std::uint16_t size) {
  State::Queue* found = state_->queue(queue);
  if (found == nullptr || !state_->may_set_up(*found)) return;
  if (size > found->max_size || !legal_queue_size(state_->negotiated(Feature::ring_packed), size)) return;
  found->size = size;
}

memory::Iova DeviceCore::queue_address(unsigned queue, unsigned area) const {
  const auto* found = state_->queue(queue);
  return found != nullptr && area < ring_parts ? found->address[area] : memory::Iova{};
}

void DeviceCore::set_queue_address(unsigned queue, unsigned area, memory::Iova address) {
  State::Queue* found = state_->queue(queue);
  if (found != nullptr && area < ring_parts && state_->may_set_up(*found)) found->address[area] = address;
}

bool DeviceCore::queue_enabled(unsigned queue) const {
  const auto* found = state_->queue(queue);
  return found != nullptr && found->enabled;
}

void DeviceCore::enable_queue(unsigned queue) { state_->enable_queue(queue); }

bool DeviceCore::queue_resetting(unsigned queue) const {
  const auto* found = state_->queue(queue);
  return found != nullptr && found->resetting;
}

void DeviceCore::reset_queue(unsigned queue) { state_->reset_queue(queue); }

void DeviceCore::kick(unsigned queue) {
  if (const auto* found = state_->queue(queue)) found->engine->kick();
}

void DeviceCore::kick_now(unsigned queue) {
  if (const auto* found = state_->queue(queue)) found->engine->process();
}

// Coming to rest.

void DeviceCore::stop(StopMode mode, std::move_only_function<void(Status)> done) {
  const auto all = JoinedCompletion::of(queue_count() + 1U, std::move(done));
  State* const state = state_.get();
  state->hold_reset([&] {
    for (unsigned queue = 0; queue < state->queues.size() && !state->gone; ++queue) {
      state->stop_queue(queue, mode, [all, mode, state](const Result<QueueState>& stopped) {
        if (stopped) return all->part_done();
        if (mode == StopMode::discard) state->break_device("outboard", stopped.error().message());
        all->part_done(std::unexpected(stopped.error()));
      });
    }
    all->part_done();
  });
}

void DeviceCore::reset(std::move_only_function<void(Status)> done) { state_->start_reset(std::move(done)); }

void DeviceCore::after_reset(std::move_only_function<void()> ended) {
  if (!state_->resetting) return ended();
  state_->reset_followers.push_back(std::move(ended));
}

void DeviceCore::stop_queue(unsigned queue, StopMode mode, std::move_only_function<void(Result<QueueState>)> done) {
  if (state_->queue(queue) == nullptr) return done(Error(EINVAL, "no such queue"));
  state_->stop_queue(queue, mode, std::move(done));
}

Status DeviceCore::start_queue(unsigned queue, const QueueState& state) {
  State::Queue* found = state_->queue(queue);
  if (found == nullptr) return Error(EINVAL, "no such queue");
  if (!found->at_rest()) return Error(EBUSY, "the queue is running");
  if (state_->resetting) return Error(EBUSY, "a reset of the device is still in progress");
  OUTBOARD_CHECK(state_->check(*found, state));
  found->size = state.size;
  found->address = {state.descriptors, state.driver, state.device};
  found->enabled = state.enabled;
  found->was_reset = false;
  if (state.enabled && state_->has(spec::status::driver_ok)) return state_->launch(queue, state);
  found->saved = state;
  return {};
}

void DeviceCore::break_device(std::string_view what) { state_->break_device("transport", what); }

void DeviceCore::set_paused(bool paused) { state_->set_paused(paused); }

}  // namespace outboard::virtio
