#include <outboard/vduse/export.hpp>

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include <outboard/base/run_on.hpp>
#include <outboard/base/together.hpp>
#include <outboard/vduse/interrupts.hpp>

namespace outboard::vduse {

namespace {

using virtio::Feature;
using virtio::Features;

/// What no device has on VDUSE, and what this one must not have.
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

}  // namespace

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

Export::~Export() {
  self_.reset();
  for (unsigned queue = 0; queue < lines_.size(); ++queue)
    run_on(queue_loop(queue), [&line = *lines_[queue]] { line.watch.reset(); });
  if (interrupts_) interrupts_->disconnect();
  for (const auto& group : groups_) group->use(nullptr);
  core_.reset();
}

Status Export::build() {
  const virtio::Identity identity = device_->identity();
  const std::size_t queues = identity.queue_sizes.size();
  std::uint32_t groups = 1;
  for (const std::uint32_t group : options_.groups) groups = std::max(groups, group + 1);
  for (std::uint32_t group = 0; group < groups; ++group)
    groups_.push_back(
        std::make_unique<Iotlb>(control_, Iotlb::Options{.own_bounce = options_.own_bounce, .log = log_}));
  for (unsigned queue = 0; queue < std::max<std::size_t>(queues, 1); ++queue)
    queue_memory_.push_back(&groups_[group_of(queue)]->map());

  const Features without = left_out(identity);
  if (const Features missed = identity.features & without; !missed.empty())
    log_.info("VDUSE cannot have feature bits {} of the device: they are left out", numbers(missed));
  auto& core = options_.core;
  core.without = core.without | without;
  core.access_platform = virtio::AccessPlatform::require;
  core.notification_data = false;
  core.queue_memory = queue_memory_;
  core.answers_when_broken = core.contains_faults = true;
  core.log = log_;
  std::vector<Loop*> loops;
  for (unsigned queue = 0; queue < queues; ++queue) loops.push_back(&queue_loop(queue));
  interrupts_ = std::make_unique<Interrupts>(loops, log_);
  OUTBOARD_TRY(core_, virtio::DeviceCore::create(*device_, memory(), control_, *this, core));

  // Everything that can fail is there before a driver is.
  for (unsigned queue = 0; queue < queue_count(); ++queue) {
    lines_.push_back(std::make_unique<Line>());
    OUTBOARD_TRY(lines_.back()->kick, EventFd::create());
    Status watched;
    run_on(queue_loop(queue), [&] {
      auto watch = queue_loop(queue).watch_eventfd(lines_[queue]->kick, [this, queue] { kicked(queue); });
      if (watch) {
        lines_[queue]->watch = std::move(*watch);
      } else {
        watched = Status(std::unexpected(watch.error()));
      }
    });
    OUTBOARD_CHECK(watched);
  }
  return {};
}

std::uint32_t Export::group_of(unsigned queue) const {
  return queue < options_.groups.size() ? options_.groups[queue] : 0;
}

Loop& Export::queue_loop(unsigned queue) { return options_.core.loop_of(queue, control_); }

bool Export::packed() const {
  constexpr unsigned bit = static_cast<unsigned>(Feature::ring_packed);
  return (core_->driver_features(bit / 32) >> bit % 32 & 1) != 0;
}

DeviceShape Export::shape(const std::string& name) {
  const bool grouped = options_.api_version != spec::api_version_0;
  DeviceShape shape{.name = name,
                    .device_id = core_->identity().device_id,
                    .vendor_id = options_.vendor_id,
                    .features = core_->offered().low(),
                    .queue_sizes = core_->identity().queue_sizes,
                    .groups = grouped ? static_cast<std::uint32_t>(groups_.size()) : 0,
                    .address_spaces = grouped ? options_.address_spaces : 0,
                    .config = std::vector<std::byte>(core_->identity().config_size)};
  core_->read_config(0, shape.config);
  return shape;
}

Status Export::start(std::unique_ptr<Node> node) {
  node_ = std::move(node);
  for (unsigned queue = 0; queue < queue_count(); ++queue)
    OUTBOARD_CHECK(node_->set_up_queue(queue, core_->identity().queue_sizes[queue], group_of(queue)));
  // It has been created with the configuration of that moment, which may be another one by now.
  config_.clear();
  publish_config();
  return listen();
}

Status Export::listen() {
  interrupts_->connect(*node_);
  for (const auto& group : groups_) group->use(node_.get());
  OUTBOARD_TRY(messages_,
               control_.watch(node_->fd(), Ready::readable, [this](Ready ready) { messages_waiting(ready); }));
  return {};
}

void Export::shut_down(std::move_only_function<void(Status)> done) {
  messages_.reset();
  late_.reset();
  config_retry_.reset();
  live_ = false;
  interrupts_->set_live(false);
  auto end = [this, weak = std::weak_ptr(self_), done = std::move(done)](Status rested) mutable {
    if (weak.expired()) return done(Error(ECANCELED, "the device is gone"));
    stopped(std::move(rested), std::move(done));
  };
  // A queue that is off and late has been told to discard before, and takes no drain.
  core_->stop(virtio::StopMode::drain,
              [this, weak = std::weak_ptr(self_), end = std::move(end)](Status rested) mutable {
                const bool discards = !rested && rested.error().code() == ECANCELED;
                if (discards && !weak.expired()) return core_->stop(virtio::StopMode::discard, std::move(end));
                end(std::move(rested));
              });
}

void Export::stopped(Status stopped, std::move_only_function<void(Status)> done) {
  const bool rested = static_cast<bool>(stopped);
  auto close = [this, weak = std::weak_ptr(self_), stopped = std::move(stopped), done = std::move(done)]() mutable {
    if (weak.expired()) return done(Error(ECANCELED, "the device is gone"));
    interrupts_->disconnect();
    for (const auto& group : groups_) group->use(nullptr);
    node_.reset();
    done(std::move(stopped));
  };
  if (rested) return forget_memory(std::move(close));
  // A queue that is late would go on once it has come to rest. What goes on keeps its memory, and may do so for ever.
  core_->stop(virtio::StopMode::discard, [](const Status&) {});
  forget_memory([] {});
  close();
}

/// Drops every mapping of the driver's memory: nothing of a driver that has gone may be touched by way of what was learnt
/// from it.
void Export::forget_memory(std::move_only_function<void()> done) {
  const auto all = Together::of(groups_.size(), [done = std::move(done)](const Status&) mutable { done(); });
  for (const auto& group : groups_) group->clear([all](const Status&) { all->one(); });
}

// Configuration.

/// The kernel copies what it is given without a lock: what a driver reads meanwhile is whole only within one naturally
/// aligned field. So only what has changed is written, eight bytes at most at a time.
void Export::publish_config() {
  if (!node_) return;
  std::vector<std::byte> now(core_->identity().config_size);
  core_->read_config(0, now);
  if (config_ == now) return;
  const bool all = config_.size() != now.size();
  // Until the kernel has all of it, whoever comes after us does not know what it has, and writes it anew.
  if (events_.config) events_.config({});
  constexpr std::size_t step = 8;
  for (std::size_t offset = 0; offset < now.size(); offset += step) {
    const auto bytes = Bytes(now).subspan(offset, std::min(step, now.size() - offset));
    if (!all && std::ranges::equal(bytes, Bytes(config_).subspan(offset, bytes.size()))) continue;
    if (const Status set = node_->set_config(static_cast<std::uint32_t>(offset), bytes); !set)
      return log_.error("the configuration of the device cannot be changed: {}", set.error().message());
  }
  config_ = std::move(now);
  if (events_.config) events_.config(config_);
}

/// Before DRIVER_OK nobody is to be told, and for a moment after it the kernel does not know of it yet.
void Export::tell_config() {
  config_pause_ = std::chrono::microseconds(500);
  retry_config();
}

void Export::retry_config() {
  config_retry_.reset();
  if (!live_ || !node_) return;
  const Status told = node_->inject_config_interrupt();
  if (told || told.error().code() != EINVAL) return;
  constexpr Duration longest = std::chrono::milliseconds(20);
  config_pause_ = std::min(longest, config_pause_ * 2);
  config_retry_ = control_.after(config_pause_, [this] { retry_config(); });
}

// virtio::TransportEvents

void Export::notify_queue(unsigned queue) { interrupts_->raise(queue); }

void Export::notify_config() {
  if (core_->broken()) {
    // No call of the kernel's lets a device say so, and NEEDS_RESET is in no message.
    log_.error(
        "the device is broken, and VDUSE has no way to tell its driver: what was in flight is finished, new requests "
        "wait until the driver resets the device (unbind it from the vDPA bus, or `outboard vduse remove`)");
    return;
  }
  publish_config();
  tell_config();
}

void Export::was_reset() {
  for (const auto& line : lines_) {
    line->failed = line->said_unmapped = false;
    line->off = line->kicked = false;
    line->rest.reset();
    line->rests.store(false, std::memory_order_release);
  }
  lost_place_ = suspended_ = false;
}

}  // namespace outboard::vduse
