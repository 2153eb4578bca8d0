#include <outboard/vduse/internal/adoption.hpp>

#include <algorithm>

#include <fmt/format.h>

#include <outboard/base/internal/wait.hpp>
#include <outboard/vduse/internal/config_copy.hpp>
#include <outboard/vduse/internal/driver_session.hpp>
#include <outboard/vduse/internal/groups.hpp>
#include <outboard/vduse/internal/messages.hpp>
#include <outboard/vduse/internal/queues.hpp>
#include <outboard/virtio/spec.hpp>

namespace outboard::vduse {

namespace {

namespace bit = virtio::spec::status;

Error not_as_in_journal(std::string_view what) {
  return Error(ESTALE, fmt::format("the device is not as its journal has it: {}", what));
}

bool is_reset(std::uint8_t status) { return status == 0; }
bool is_driver_ok(std::uint8_t status) { return (status & bit::driver_ok) != 0; }

}  // namespace

Status Adoption::prepare() {
  // Looked at before anything else is done: it may be a reset.
  OUTBOARD_CHECK(parts_.messages.read_ahead(node_));
  const auto& spaces = predecessor_.address_spaces;
  for (std::uint32_t group = 0; group < std::min<std::size_t>(parts_.groups.count(), spaces.size()); ++group)
    parts_.groups.set_address_space(group, spaces[group], [] {});
  return {};
}

Status Adoption::take_over() {
  OUTBOARD_TRY(const InKernel driver, probe(Duration(0)));
  const bool has_state = predecessor_.recover || driver == InKernel::runs;
  if (has_state && !is_pending(is_reset)) OUTBOARD_CHECK(restore(driver));
  parts_.config.assume(predecessor_.config.value_or(std::vector<std::byte>{}));
  parts_.config.publish();
  if (is_live(parts_.phase)) {
    parts_.queues.connect();
    parts_.queues.look_soon();
  }
  parts_.messages.handle_pending();
  return {};
}

/// Goes on where the journal says, if that is where the driver is.
Status Adoption::restore(InKernel driver) {
  if (!predecessor_.recover)
    return predecessor_.unknown_because.value_or(not_as_in_journal("its driver runs, and there is no journal"));
  OUTBOARD_TRY(auto state, predecessor_.recover());
  // Its driver was never told that the device is broken, and waits for what is in flight. What broke the device may break it again.
  state.status &= static_cast<std::uint8_t>(~bit::needs_reset);
  const bool ran = is_driver_ok(state.status);
  if (driver == InKernel::runs && !ran) return not_as_in_journal("its driver runs");
  const bool starts = is_pending(is_driver_ok);
  if (ran && driver == InKernel::does_not_run && !starts) {
    OUTBOARD_TRY(driver, probe(predecessor_.driver_ok_timeout));
  }
  const Status same = check_state(state);
  // DRIVER_OK may be in the journal and not in the kernel: whoever attached the device was killed before it was acknowledged.
  const bool runs = ran && (driver == InKernel::runs || starts);
  if (runs && !same) return same;
  // Or the device is suspended: its queues have come to rest, and nobody has recorded where.
  if (ran && !runs) {
    parts_.session.move(DeviceEvent::taken_over_in_doubt);
    return {};
  }
  // Where no driver runs nothing is in flight, and a driver that begins says everything anew.
  if (!same) return {};
  if (runs) parts_.session.move(DeviceEvent::taken_over);
  OUTBOARD_CHECK(parts_.core.restore(state));
  parts_.queues.restored();
  return {};
}

/// Asks whether the kernel has DRIVER_OK by a configuration interrupt: there is no other way, and one too many does no harm.
Result<Adoption::InKernel> Adoption::probe(Duration timeout) {
  constexpr Duration pause = std::chrono::milliseconds(1);
  const Status probed =
      retry_while(is_code(EINVAL), Clock::system().now() + timeout, pause, "the kernel to store DRIVER_OK",
                  [this] { return node_.inject_config_interrupt(); });
  if (!probed && probed.error().code() != EINVAL) return probed.error();
  return probed ? InKernel::runs : InKernel::does_not_run;
}

/// What the kernel says of the device must be what the journal says.
Status Adoption::check_state(const virtio::DeviceState& state) {
  if ((state.status & bit::features_ok) != 0) {
    OUTBOARD_TRY(const auto features, node_.driver_features());
    const std::uint64_t logged = state.accepted.low();
    if (features != logged)
      return not_as_in_journal(fmt::format("its driver has accepted {:#x}, not {:#x}", features, logged));
  }
  if (state.queues.size() != parts_.core.queue_count()) return not_as_in_journal("its number of queues");
  for (unsigned queue = 0; queue < state.queues.size(); ++queue) {
    if (!state.queues[queue].enabled) continue;
    OUTBOARD_TRY(const bool is_in_place, parts_.queues.is_in_place(queue, state.queues[queue]));
    if (!is_in_place) return not_as_in_journal(fmt::format("queue {}", queue));
  }
  return {};
}

bool Adoption::is_pending(bool (*matches)(std::uint8_t status)) const {
  return std::ranges::any_of(parts_.messages.pending(), [matches](const spec::Request& request) {
    return request.type == static_cast<std::uint32_t>(spec::RequestType::set_status) &&
           matches(payload_of<spec::StatusRequest>(request).status);
  });
}

}  // namespace outboard::vduse
