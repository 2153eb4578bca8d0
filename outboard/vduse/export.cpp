#include <outboard/vduse/export.hpp>

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include <outboard/vduse/internal/adoption.hpp>
#include <outboard/vduse/internal/config_copy.hpp>
#include <outboard/vduse/internal/driver_session.hpp>
#include <outboard/vduse/internal/groups.hpp>
#include <outboard/vduse/internal/interrupts.hpp>
#include <outboard/vduse/internal/messages.hpp>
#include <outboard/vduse/internal/queues.hpp>

namespace outboard::vduse {

namespace {

using virtio::Feature;
using virtio::Features;
using virtio::StopMode;

/// Features that VDUSE does not support, or not for this device type.
Features left_out(const virtio::Identity& identity) {
  Features without;
  const std::uint64_t refused = refused_features(identity.device_id);
  for (unsigned bit = 0; bit < Features::count; ++bit) {
    // The kernel's interface has 64 bits.
    if (bit >= 64 || (refused >> bit & 1) != 0) without.set(Feature{static_cast<unsigned char>(bit)});
  }
  return without;
}

std::string numbers(const Features& features) {
  std::string text;
  for (unsigned bit = 0; bit < Features::count; ++bit) {
    if (features.has(Feature{static_cast<unsigned char>(bit)}))
      text += fmt::format("{}{}", text.empty() ? "" : ", ", bit);
  }
  return text;
}

Error destroyed() { return Error(ECANCELED, "the device is gone"); }

}  // namespace

// Building.

Result<std::unique_ptr<Export>> Export::create(std::unique_ptr<virtio::Device> device, Loop& control, Options options) {
  std::unique_ptr<Export> made(new Export(std::move(device), control, std::move(options)));
  OUTBOARD_CHECK(made->build());
  return made;
}

Export::Export(std::unique_ptr<virtio::Device> device, Loop& control, Options options)
    : device_(std::move(device)),
      control_(control),
      options_(std::move(options)),
      log_(options_.log),
      self_(std::make_shared<Export*>(this)) {}

/// Everything that can fail is made before there is a driver.
Status Export::build() {
  const std::vector<Loop*> loops = queue_loops();
  groups_ = std::make_unique<Groups>(control_, options_.groups,
                                     Iotlb::Options{.own_bounce = options_.own_bounce, .log = log_});
  for (unsigned queue = 0; queue < std::max<std::size_t>(loops.size(), 1); ++queue)
    queue_memory_.push_back(&groups_->memory_of(queue));
  OUTBOARD_CHECK(build_core(loops));
  OUTBOARD_TRY(queues_, Queues::create({.core = *core_,
                                        .control = control_,
                                        .loops = loops,
                                        .memory = queue_memory_,
                                        .device = phase_,
                                        .log = log_}));
  config_ = std::make_unique<ConfigCopy>(*core_, control_, log_, [this](Bytes config) {
    if (events_.config) events_.config(config);
  });
  messages_ = std::make_unique<Messages>(
      control_, log_,
      Messages::Handlers{.message = [this](const spec::Request& request) { session_->handle(request); },
                         .lost = [this](const Error& why) { lose(why); }});
  session_ = std::make_unique<DriverSession>(DriverSession::Parts{.core = *core_,
                                                                  .groups = *groups_,
                                                                  .queues = *queues_,
                                                                  .interrupts = *interrupts_,
                                                                  .config = *config_,
                                                                  .messages = *messages_,
                                                                  .phase = phase_,
                                                                  .options = options_,
                                                                  .events = events_});
  return {};
}

Status Export::build_core(const std::vector<Loop*>& loops) {
  const virtio::Identity identity = device_->identity();
  const Features without = left_out(identity);
  if (const Features missed = identity.features & without; !missed.empty())
    log_.info("VDUSE does not support feature bits {} of the device: they are left out", numbers(missed));
  auto& core = options_.core;
  core.without = core.without | without;
  core.access_platform = virtio::AccessPlatform::require;
  core.notification_data = false;
  core.queue_memory = queue_memory_;
  core.answers_when_broken = core.contains_faults = true;
  core.log = log_;
  interrupts_ = std::make_unique<Interrupts>(loops, log_);
  OUTBOARD_TRY(core_, virtio::DeviceCore::create(*device_, memory(), control_, *this, core));
  return {};
}

std::vector<Loop*> Export::queue_loops() const {
  std::vector<Loop*> loops;
  for (unsigned queue = 0; queue < device_->identity().queue_sizes.size(); ++queue)
    loops.push_back(&options_.core.loop_of(queue, control_));
  return loops;
}

Export::~Export() {
  self_.reset();
  session_.reset();
  messages_.reset();
  if (queues_) queues_->end_kicks();
  if (interrupts_) interrupts_->disconnect();
  groups_->use(nullptr);
  core_.reset();
}

DeviceShape Export::shape(const std::string& name) {
  const bool grouped = options_.api_version != spec::api_version_0;
  DeviceShape shape{.name = name,
                    .device_id = core_->identity().device_id,
                    .vendor_id = options_.vendor_id,
                    .features = core_->offered().low(),
                    .queue_sizes = core_->identity().queue_sizes,
                    .groups = grouped ? groups_->count() : 0,
                    .address_spaces = grouped ? options_.address_spaces : 0,
                    .config = std::vector<std::byte>(core_->identity().config_size)};
  core_->read_config(0, shape.config);
  return shape;
}

// Beginning.

Status Export::start(std::unique_ptr<Node> node) {
  node_ = std::move(node);
  for (unsigned queue = 0; queue < core_->queue_count(); ++queue)
    OUTBOARD_CHECK(node_->set_up_queue(queue, core_->identity().queue_sizes[queue], groups_->group_of(queue)));
  // The device has been created with the configuration of that moment, which may have changed since.
  config_->use(node_.get());
  config_->assume({});
  config_->publish();
  return connect();
}

Status Export::adopt(std::unique_ptr<Node> node, const Predecessor& predecessor) {
  node_ = std::move(node);
  Adoption adoption({.core = *core_,
                     .groups = *groups_,
                     .queues = *queues_,
                     .config = *config_,
                     .messages = *messages_,
                     .session = *session_,
                     .phase = phase_},
                    *node_, predecessor);
  const auto adopted = [&]() -> Status {
    OUTBOARD_CHECK(adoption.prepare());
    OUTBOARD_CHECK(connect());
    return adoption.take_over();
  }();
  if (!adopted) disconnect();
  return adopted;
}

Status Export::connect() {
  interrupts_->connect(*node_);
  groups_->use(node_.get());
  queues_->use(node_.get());
  config_->use(node_.get());
  session_->use(node_.get());
  return messages_->listen(*node_);
}

void Export::disconnect() {
  messages_->disconnect();
  interrupts_->disconnect();
  groups_->use(nullptr);
  queues_->use(nullptr);
  config_->use(nullptr);
  session_->use(nullptr);
  node_.reset();
}

// Ending.

void Export::lose(const Error& why) {
  if (!node_) return;
  log_.error("{}: nothing is served any more", why.message());
  messages_->drop();
  shut_down([this, weak = std::weak_ptr(self_), told = why](const Status&) {
    if (!weak.expired() && events_.gone) events_.gone(told);
  });
}

void Export::shut_down(Done done) {
  messages_->stop_reading();
  session_->move(DeviceEvent::ended);
  core_->stop(StopMode::drain, [this, weak = std::weak_ptr(self_), done = std::move(done)](Status drained) mutable {
    if (weak.expired()) return done(destroyed());
    end_after_drain(std::move(drained), std::move(done));
  });
}

/// A queue that is switched off and late has been told to discard before, and takes no drain.
void Export::end_after_drain(Status drained, Done done) {
  if (drained || drained.error().code() != ECANCELED) return end(std::move(drained), std::move(done));
  core_->stop(StopMode::discard, [this, weak = std::weak_ptr(self_), done = std::move(done)](Status stopped) mutable {
    if (weak.expired()) return done(destroyed());
    end(std::move(stopped), std::move(done));
  });
}

void Export::end(Status stopped, Done done) {
  if (stopped) {
    return groups_->forget([this, weak = std::weak_ptr(self_), done = std::move(done)]() mutable {
      if (weak.expired()) return done(destroyed());
      disconnect();
      done({});
    });
  }
  // A queue that is late would go on once it has come to rest. I/O that still runs keeps its memory, perhaps for ever.
  core_->stop(StopMode::discard, [](const Status&) {});
  groups_->forget([] {});
  disconnect();
  done(std::move(stopped));
}

// virtio::TransportEvents

void Export::notify_queue(unsigned queue) { interrupts_->raise(queue); }

void Export::notify_config() {
  if (core_->broken()) {
    // The kernel has no call by which a device says so, and NEEDS_RESET is in no message.
    log_.error(
        "the device is broken, and VDUSE has no way to tell its driver: what was in flight is finished, new requests "
        "wait until the driver resets the device (unbind it from the vDPA bus, or `outboard vduse remove`)");
    return;
  }
  config_->publish();
  if (is_live(phase_)) config_->interrupt();
}

void Export::was_reset() { queues_->was_reset(); }

}  // namespace outboard::vduse
