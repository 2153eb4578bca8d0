#include <algorithm>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include <outboard/vduse/export.hpp>
#include <outboard/vduse/interrupts.hpp>
#include <outboard/virtio/spec.hpp>

/// Taking over a device whose server has died: docs/vduse.md.
namespace outboard::vduse {

namespace {

namespace bit = virtio::spec::status;

Error not_as_left(std::string_view what) {
  return Error(ESTALE, fmt::format("the device is not as its journal has it: {}", what));
}

bool is_status(const spec::Request& request, bool (*matches)(std::uint8_t)) {
  return request.type == static_cast<std::uint32_t>(spec::RequestType::set_status) &&
         matches(static_cast<std::uint8_t>(request.payload[0]));
}

}  // namespace

Status Export::adopt(std::unique_ptr<Node> node, Living living) {
  node_ = std::move(node);
  Status done = take_over(living);
  if (done) return done;
  messages_.reset();
  interrupts_->disconnect();
  for (const auto& group : groups_) group->use(nullptr);
  node_.reset();
  return done;
}

Status Export::take_over(Living& living) {
  // What the dead server had read and not answered comes again. Looked at before anything else: it may be a reset.
  while (true) {
    OUTBOARD_TRY(const auto request, node_->read());
    if (!request) break;
    backlog_.push_back(*request);
  }
  for (std::size_t group = 0; group < std::min(groups_.size(), living.address_spaces.size()); ++group)
    groups_[group]->set_address_space(living.address_spaces[group], [](const Status&) {});
  OUTBOARD_CHECK(listen());

  const auto pending = [this](bool (*matches)(std::uint8_t)) {
    return std::ranges::any_of(backlog_, [&](const auto& request) { return is_status(request, matches); });
  };
  const bool resets = pending([](std::uint8_t status) { return status == 0; });
  const bool starts = pending([](std::uint8_t status) { return (status & bit::driver_ok) != 0; });
  Status probed = probe(Duration(0));
  if (!probed && probed.error().code() != EINVAL) return probed;

  if (!resets && (living.recover || probed)) {
    if (!living.recover) return living.why_not.value_or(not_as_left("its driver runs, and there is no journal"));
    OUTBOARD_TRY(auto state, living.recover());
    // Its driver has never heard that it is broken, and waits for what is in flight. What broke it may break it again.
    state.status &= static_cast<std::uint8_t>(~bit::needs_reset);
    const bool ran = (state.status & bit::driver_ok) != 0;
    if (probed && !ran) return not_as_left("its driver runs");
    if (ran && !probed && !starts) probed = probe(living.patience);
    const Status same = check_living(state);
    // Where no driver runs nothing is in flight, and one that begins says all of it anew. DRIVER_OK may have been logged,
    // and then whoever attached the device was killed: the kernel has never heard of it.
    const bool runs = ran && (probed || starts);
    lost_place_ = ran && !runs;  // suspended, perhaps: then it has been at rest, and nobody noted where
    if (runs && !same) return same;
    if (runs || (!ran && same)) {
      live_ = ran;
      interrupts_->set_live(ran);
      OUTBOARD_CHECK(core_->restore(state));
    }
  }
  config_ = living.config.value_or(std::vector<std::byte>{});
  publish_config();
  if (live_) {
    for (unsigned queue = 0; queue < queue_count(); ++queue) {
      if (core_->queue_enabled(queue)) connect(queue);
    }
    look_for_late_queues();
  }
  control_.post([this, weak = std::weak_ptr(self_)] {
    if (!weak.expired()) messages_waiting(Ready::none);
  });
  return {};
}

/// Whether the kernel has DRIVER_OK: EINVAL where it has not. There is no way to ask; a configuration interrupt too many
/// hurts nobody.
Status Export::probe(Duration patience) {
  const TimePoint end = Clock::system().now() + patience;
  while (true) {
    Status probed = node_->inject_config_interrupt();
    if (probed || probed.error().code() != EINVAL || Clock::system().now() >= end) return probed;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

/// What the kernel says of the device must be what the journal says.
Status Export::check_living(const virtio::DeviceState& state) {
  if ((state.status & bit::features_ok) != 0) {
    OUTBOARD_TRY(const auto features, node_->driver_features());
    const std::uint64_t logged = state.accepted.low();
    if (features != logged)
      return not_as_left(fmt::format("its driver has accepted {:#x}, not {:#x}", features, logged));
  }
  if (state.queues.size() != queue_count()) return not_as_left("its number of queues");
  for (unsigned queue = 0; queue < queue_count(); ++queue) {
    const virtio::QueueState& logged = state.queues[queue];
    if (!logged.enabled) continue;
    OUTBOARD_TRY(const auto info, node_->queue_info(queue));
    const bool same = info.ready != 0 && info.num == logged.size && info.desc_addr == raw(logged.descriptors) &&
                      info.driver_addr == raw(logged.driver) && info.device_addr == raw(logged.device);
    if (!same) return not_as_left(fmt::format("queue {}", queue));
    lines_[queue]->begun = info;
  }
  return {};
}

}  // namespace outboard::vduse
