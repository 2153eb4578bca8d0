#include <outboard/vduse/internal/driver_session.hpp>

#include <utility>

#include <outboard/vduse/internal/config_copy.hpp>
#include <outboard/vduse/internal/groups.hpp>
#include <outboard/vduse/internal/interrupts.hpp>
#include <outboard/vduse/internal/messages.hpp>
#include <outboard/vduse/internal/queues.hpp>
#include <outboard/virtio/spec.hpp>

namespace outboard::vduse {

namespace bit = virtio::spec::status;

DriverSession::DriverSession(const Parts& parts)
    : core_(parts.core),
      groups_(parts.groups),
      queues_(parts.queues),
      interrupts_(parts.interrupts),
      config_(parts.config),
      messages_(parts.messages),
      phase_(parts.phase),
      options_(parts.options),
      events_(parts.events),
      log_(parts.options.log),
      self_(std::make_shared<DriverSession*>(this)) {}

bool DriverSession::move(DeviceEvent event) {
  const auto next = next_phase(phase_, event);
  if (!next) return false;
  phase_ = *next;
  interrupts_.set_live(is_live(phase_));
  if (is_live(phase_)) return true;
  queues_.stop_looking();
  config_.stop_interrupting();
  return true;
}

void DriverSession::handle(const spec::Request& request) {
  const std::uint32_t id = request.request_id;
  switch (static_cast<spec::RequestType>(request.type)) {
    case spec::RequestType::get_vq_state:
      return get_vq_state(id, payload_of<spec::VqStateRequest>(request).index);
    case spec::RequestType::set_status:
      return set_status(id, payload_of<spec::StatusRequest>(request).status);
    case spec::RequestType::update_iotlb:
      return update_iotlb(id, has_address_spaces() ? payload_of<spec::UpdateIotlbRequest>(request).asid : 0);
    case spec::RequestType::set_vq_group_asid:
      return set_group_asid(id, payload_of<spec::GroupAsidRequest>(request));
    case spec::RequestType::set_vq_ready:
      return set_vq_ready(id, payload_of<spec::VqReadyRequest>(request));
    case spec::RequestType::suspend:
      return suspend(id);
  }
  log_.warning("the kernel sent a message of an unknown type, {}: it is refused", request.type);
  answer(id, false);
}

void DriverSession::answer(std::uint32_t id, bool is_done) {
  messages_.answer(id, is_done ? spec::result::ok : spec::result::failed);
}

// Status.

void DriverSession::set_status(std::uint32_t id, std::uint8_t status) {
  if (status == 0) return reset(id);
  if (!take_status(status)) {
    log_.warning("the driver's features are refused");
    return answer(id, false);
  }
  answer(id, true);
  if (events_.status) events_.status(status);
}

/// Whether it is acknowledged.
bool DriverSession::take_status(std::uint8_t status) {
  if (phase_ == DevicePhase::positions_lost) {
    log_.warning(
        "the driver has written status {:#04x}: nothing is started before it resets the device, since how far "
        "the queues have got is not known",
        status);
    return true;
  }
  const auto added = static_cast<std::uint8_t>(status & ~core_.status());
  if ((added & bit::features_ok) != 0) {
    messages_.undo_with([this] { undo_status(); });
    accept_features(status);
    // FEATURES_OK alone may be refused: the driver reads it back. With DRIVER_OK in the same message no driver reads back.
    if ((core_.status() & bit::features_ok) == 0 && (added & bit::driver_ok) == 0) return false;
  }
  if ((added & bit::driver_ok) != 0) {
    messages_.undo_with([this] { undo_driver_ok(); });
    start_device(status);
  } else {
    core_.write_status(status);
  }
  return true;
}

void DriverSession::accept_features(std::uint8_t status) {
  // ACKNOWLEDGE and DRIVER first: after a reset that was late or withdrawn the kernel has them and the core does not.
  core_.write_status(static_cast<std::uint8_t>(status & (bit::acknowledge | bit::driver)));
  const auto features = node_->driver_features();
  if (!features) return log_.error("the kernel does not say the driver's features: {}", features.error().message());
  // The kernel lets a driver accept features that were never offered: the core checks them.
  core_.write_driver_features(0, static_cast<std::uint32_t>(*features));
  core_.write_driver_features(1, static_cast<std::uint32_t>(*features >> 32));
  core_.write_status(static_cast<std::uint8_t>(status & ~bit::driver_ok));
}

/// DRIVER_OK. Whatever becomes of the queues, the answer is yes: a driver of the kernel's does not check it.
void DriverSession::start_device(std::uint8_t status) {
  if (!move(DeviceEvent::driver_ok)) return;
  if ((core_.status() & bit::features_ok) == 0) accept_features(status);
  queues_.set_up();
  core_.write_status(status);
  if ((core_.status() & bit::driver_ok) == 0)
    return log_.error("the device cannot run, and VDUSE has no way to tell its driver, which will wait for ever");
  queues_.connect();
}

/// As undo_status(). The queues may have begun, so only a reset lets the next driver begin.
void DriverSession::undo_driver_ok() {
  move(DeviceEvent::driver_ok_undone);
  undo_status();
}

/// Whoever waited for the answer was killed. The kernel goes on as if the status had been refused, and keeps the one before. A
/// reset here lets the next driver begin, since each status is taken with all that leads up to it.
void DriverSession::undo_status() {
  log_.warning("the process that changed the status was killed before it was acknowledged: it is undone");
  core_.reset([this, weak = std::weak_ptr(self_)](const Status&) {
    if (!weak.expired()) groups_.forget([] {});
  });
}

/// After the answer the driver frees its rings. A reset that is late has its results dropped: nothing is written to a ring
/// afterwards, but a read that still runs may write to a buffer. So the answer is no. The kernel resets its side all the same:
/// virtio-vdpa puts its bounce buffers out of reach and does not check the answer, vhost-vdpa tells its VMM. New features are not
/// accepted before the reset has ended.
void DriverSession::reset(std::uint32_t id) {
  move(DeviceEvent::reset);
  core_.reset([this, weak = std::weak_ptr(self_), id](const Status& stopped) {
    if (!weak.expired()) end_reset(id, stopped);
  });
}

void DriverSession::end_reset(std::uint32_t id, const Status& stopped) {
  if (stopped)
    return groups_.forget([this, weak = std::weak_ptr(self_), id] {
      if (!weak.expired()) acknowledge_reset(id, true);
    });
  log_.error("reset: {}; the kernel is told no, and the results are dropped", stopped.error().message());
  groups_.forget([] {});
  acknowledge_reset(id, false);
}

void DriverSession::acknowledge_reset(std::uint32_t id, bool is_done) {
  answer(id, is_done);
  if (events_.status) events_.status(0);
}

// Memory.

void DriverSession::update_iotlb(std::uint32_t id, std::uint32_t asid) {
  messages_.answer_within(options_.answer_timeout, [this, id] { fail_late_update(id); });
  groups_.refresh(asid, [this, weak = std::weak_ptr(self_), id] {
    if (weak.expired()) return;
    answer(id, true);
    queues_.look_for_ready();
  });
}

/// Some I/O still uses memory that is not the driver's any more. The kernel is told no, and nothing is started that might touch
/// that memory.
void DriverSession::fail_late_update(std::uint32_t id) {
  log_.error("requests still use memory that the driver has unmapped: the device is stopped");
  core_.stop(virtio::StopMode::discard, [](const Status&) {});
  answer(id, false);
}

void DriverSession::set_group_asid(std::uint32_t id, const spec::GroupAsidRequest& request) {
  const bool is_valid =
      has_address_spaces() && request.group < groups_.count() && request.asid < options_.address_spaces;
  if (!is_valid) return answer(id, false);
  const std::uint32_t before = groups_.address_spaces()[request.group];
  messages_.undo_with([this, group = request.group, before] { undo_group_asid(group, before); });
  groups_.set_address_space(request.group, request.asid, [this, weak = std::weak_ptr(self_), id] {
    if (weak.expired()) return;
    tell_address_spaces();
    answer(id, true);
  });
}

void DriverSession::undo_group_asid(std::uint32_t group, std::uint32_t before) {
  log_.warning("the process that gave group {} another address space was killed: it is undone", group);
  groups_.set_address_space(group, before, [] {});
  tell_address_spaces();
}

/// The kernel cannot be asked for them later.
void DriverSession::tell_address_spaces() {
  if (events_.groups) events_.groups(groups_.address_spaces());
}

// Queues.

/// The answer has room for one position. Buffers that the device keeps without having begun them are handed back by a position
/// before them; where no one position says that, the answer is no.
void DriverSession::get_vq_state(std::uint32_t id, std::uint32_t index) {
  if (index >= core_.queue_count() || phase_ == DevicePhase::positions_lost) return answer(id, false);
  queues_.stop(index, [this, id, index](const Result<virtio::QueueState>& stopped) {
    const auto position = stopped ? queues_.told_position(index, *stopped) : std::nullopt;
    if (!position) {
      log_.warning("queue {}: where it stopped cannot be told{}", index,
                   stopped ? "" : ": " + stopped.error().message());
      return answer(id, false);
    }
    const spec::VqStateResponse response{.index = index, .state = *position};
    messages_.answer(id, spec::result::ok, as_bytes_of(response));
  });
}

/// Must never be refused: the kernel gives the device up for that. It stores the new readiness when it has the answer.
void DriverSession::set_vq_ready(std::uint32_t id, const spec::VqReadyRequest& request) {
  if (request.index >= core_.queue_count() || !is_live(phase_)) return answer(id, true);
  if (request.ready != 0) {
    answer(id, true);
    return queues_.look_soon();
  }
  if (!queues_.is_started(request.index)) return answer(id, true);
  queues_.switch_off(request.index, [this, id](const Result<virtio::QueueState>&) { answer(id, true); });
}

/// After the answer the kernel takes no interrupts and passes on no kicks before the next reset.
void DriverSession::suspend(std::uint32_t id) {
  if (!is_live(phase_)) return answer(id, false);
  const std::vector<unsigned> running = queues_.running();
  move(DeviceEvent::suspended);
  messages_.undo_with([this, running] {
    log_.warning("the process that suspended the device was killed: the device goes on");
    undo_suspend(running);
  });
  queues_.stop_all([this, weak = std::weak_ptr(self_), id, running](const Status& rested) {
    if (!weak.expired()) end_suspend(id, rested, running);
  });
}

void DriverSession::end_suspend(std::uint32_t id, const Status& rested, const std::vector<unsigned>& stopped) {
  interrupts_.flush();
  if (rested) return answer(id, true);
  log_.error("the device cannot be suspended: {}", rested.error().message());
  answer(id, false);
  undo_suspend(stopped);
}

/// Queues that were at rest before stay so, unless they were kicked meanwhile.
void DriverSession::undo_suspend(const std::vector<unsigned>& stopped) {
  if (move(DeviceEvent::suspend_undone)) queues_.go_on(stopped);
}

}  // namespace outboard::vduse
