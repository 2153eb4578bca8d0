#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include <outboard/base/together.hpp>
#include <outboard/vduse/export.hpp>
#include <outboard/vduse/interrupts.hpp>
#include <outboard/virtio/spec.hpp>

/// The kernel's messages. Each is answered exactly once, one after the other.
namespace outboard::vduse {

namespace {

namespace bit = virtio::spec::status;

template <typename Payload>
Payload payload_of(const spec::Request& request) {
  static_assert(sizeof(Payload) <= sizeof request.payload);
  Payload payload;
  std::memcpy(&payload, request.payload.data(), sizeof payload);
  return payload;
}

}  // namespace

void Export::messages_waiting(Ready ready) {
  while (!answering_ && node_) {
    if (backlog_.empty()) {
      if (ready != Ready::none && has(ready, Ready::hangup))
        return give_up(Error(EPERM, "the kernel has given the device up: a message was not answered in time"));
      auto read = node_->read();
      if (!read) return give_up(read.error());
      if (!*read) return;
      backlog_.push_back(**read);
    }
    const spec::Request request = backlog_.front();
    backlog_.pop_front();
    take(request);
  }
  // What comes next waits in the kernel until this one has been answered.
  if (answering_ && node_) [[maybe_unused]]
    const auto silenced = control_.rewatch(messages_, Ready::none);
}

void Export::take(const spec::Request& request) {
  const std::uint32_t id = request.request_id;
  answering_ = id;
  undo_ = nullptr;
  switch (static_cast<spec::RequestType>(request.type)) {
    case spec::RequestType::get_vq_state:
      return get_vq_state(id, payload_of<spec::VqStateRequest>(request).index);
    case spec::RequestType::set_status:
      return set_status(id, payload_of<spec::StatusRequest>(request).status);
    case spec::RequestType::update_iotlb: {
      const bool grouped = options_.api_version != spec::api_version_0;
      return update_iotlb(id, grouped ? payload_of<spec::UpdateIotlbRequest>(request).asid : 0);
    }
    case spec::RequestType::set_vq_group_asid:
      return set_group_space(id, payload_of<spec::GroupAsidRequest>(request));
    case spec::RequestType::set_vq_ready:
      return set_vq_ready(id, payload_of<spec::VqReadyRequest>(request));
    case spec::RequestType::suspend:
      return suspend(id);
  }
  log_.warning("the kernel sends a message of type {}, which is not known here", request.type);
  answer(id, spec::result::failed);
}

void Export::answer(std::uint32_t id, std::uint32_t result, Bytes payload) {
  if (answering_ != id || !node_) return;  // its time was over, and it has been answered
  answering_.reset();
  budget_.reset();
  spec::Response response{};
  response.request_id = id;
  response.result = result;
  std::ranges::copy(payload.first(std::min(payload.size(), response.payload.size())), response.payload.begin());
  const Status replied = node_->reply(response);
  if (!replied && replied.error().code() == ENOENT) {
    if (undo_) std::exchange(undo_, nullptr)();
  } else if (!replied) {
    log_.error("the kernel does not take an answer: {}", replied.error().message());
  }
  if (!messages_.active()) return;
  if (auto listening = control_.rewatch(messages_, Ready::readable); !listening) return give_up(listening.error());
  if (!backlog_.empty())
    control_.post([this, weak = std::weak_ptr(self_)] {
      if (!weak.expired()) messages_waiting(Ready::none);
    });
}

/// Whoever waited for the answer was killed. The kernel goes on as if it had been refused, and its status stays what it
/// was; going back to the start here lets the next driver begin, since a status is taken with all that leads up to it.
void Export::undo_status() {
  log_.warning("whoever changed the status was killed before it was acknowledged: it is undone");
  live_ = false;
  late_.reset();
  interrupts_->set_live(false);
  core_->reset([this, weak = std::weak_ptr(self_)](const Status&) {
    if (!weak.expired()) forget_memory([] {});
  });
}

// Status.

void Export::set_status(std::uint32_t id, std::uint8_t status) {
  if (status == 0) return reset(id);
  const std::uint8_t before = core_->status();
  const auto added = static_cast<std::uint8_t>(status & ~before);
  if ((added & bit::features_ok) != 0) {
    undo_ = [this] { undo_status(); };
    accept_features(status);
    // The one status that may be refused: the driver reads it back. DRIVER_OK, in the same message, nobody reads back.
    if ((core_->status() & bit::features_ok) == 0 && (added & bit::driver_ok) == 0) {
      log_.warning("the driver's features are refused");
      return answer(id, spec::result::failed);
    }
  }
  if ((added & bit::driver_ok) != 0) {
    undo_ = [this] { undo_status(); };
    start_device(status);
  } else {
    core_->write_status(status);
  }
  answer(id, spec::result::ok);
  if (events_.status) events_.status(status);
}

void Export::accept_features(std::uint8_t status) {
  // What leads up to it: after a reset that came late, or one that was withdrawn, the kernel has these and we do not.
  core_->write_status(static_cast<std::uint8_t>(status & (bit::acknowledge | bit::driver)));
  const auto features = node_->driver_features();
  if (!features) return log_.error("the driver's features cannot be asked for: {}", features.error().message());
  // The kernel lets a driver accept what was never offered: the core looks.
  core_->write_driver_features(0, static_cast<std::uint32_t>(*features));
  core_->write_driver_features(1, static_cast<std::uint32_t>(*features >> 32));
  core_->write_status(static_cast<std::uint8_t>(status & ~bit::driver_ok));
}

/// After the answer the driver frees its rings. What does not come to rest in time has its results dropped: nothing is
/// written to a ring afterwards, but a read that still runs may write to a buffer. So the answer is no. The kernel resets its
/// side all the same; virtio-vdpa has its bounce buffers taken out of reach then and does not look at the answer, vhost-vdpa
/// tells its VMM. New features are not taken before the reset has ended.
void Export::reset(std::uint32_t id) {
  live_ = false;
  late_.reset();
  config_retry_.reset();
  interrupts_->set_live(false);
  core_->reset([this, weak = std::weak_ptr(self_), id](const Status& stopped) {
    if (weak.expired()) return;
    auto end = [this, weak, id](std::uint32_t result) {
      if (weak.expired()) return;
      answer(id, result);
      if (events_.status) events_.status(0);
    };
    if (stopped) return forget_memory([end] { end(spec::result::ok); });
    log_.error("reset: {}; the kernel is told no, and the results are dropped", stopped.error().message());
    forget_memory([] {});
    end(spec::result::failed);
  });
}

// Memory.

void Export::update_iotlb(std::uint32_t id, std::uint32_t asid) {
  budget_ = control_.after(options_.budget, [this, id] { iotlb_is_late(id); });
  const auto all = Together::of(groups_.size() + 1, [this, weak = std::weak_ptr(self_), id](const Status&) {
    if (weak.expired()) return;
    answer(id, spec::result::ok);
    if (live_) look_for_late_queues();
  });
  for (const auto& group : groups_) {
    if (group->address_space() != asid) {
      all->one();
    } else {
      group->refresh([all](const Status&) { all->one(); });
    }
  }
  all->one();
}

/// Some I/O does not let go of memory that is not the driver's any more. The kernel is told no, and nothing is started that
/// might touch it.
void Export::iotlb_is_late(std::uint32_t id) {
  log_.error("requests did not let go of memory that the driver has taken away: the device is stopped");
  core_->stop(virtio::StopMode::discard, [](const Status&) {});
  answer(id, spec::result::failed);
}

void Export::set_group_space(std::uint32_t id, const spec::GroupAsidRequest& request) {
  const bool known = options_.api_version != spec::api_version_0 && request.group < groups_.size() &&
                     request.asid < options_.address_spaces;
  if (!known) return answer(id, spec::result::failed);
  const std::uint32_t before = groups_[request.group]->address_space();
  undo_ = [this, group = request.group, before] {
    log_.warning("whoever gave group {} another address space was killed: it is undone", group);
    groups_[group]->set_address_space(before, [](const Status&) {});
    tell_spaces();
  };
  groups_[request.group]->set_address_space(request.asid, [this, weak = std::weak_ptr(self_), id](const Status&) {
    if (weak.expired()) return;
    tell_spaces();
    answer(id, spec::result::ok);
  });
}

/// Nobody can ask the kernel for it later.
void Export::tell_spaces() {
  std::vector<std::uint32_t> spaces;
  for (const auto& group : groups_) spaces.push_back(group->address_space());
  if (events_.groups) events_.groups(spaces);
}

// Queues.

/// The one number that VDUSE passes on says where the device goes on. What the device keeps without having begun it is
/// taken back to before it was popped; where that cannot be said with the number, the answer is no.
void Export::get_vq_state(std::uint32_t id, std::uint32_t index) {
  if (index >= queue_count() || lost_place_) return answer(id, spec::result::failed);
  rest(index, stop_mode(index), [this, id, index](const Result<virtio::QueueState>& stopped) {
    if (!stopped || !can_rewind(index, *stopped)) {
      log_.warning("queue {}: where it stopped cannot be told{}", index,
                   stopped ? "" : ": " + stopped.error().message());
      return answer(id, spec::result::failed);
    }
    const virtio::QueueState& at = *stopped;
    spec::VqStateResponse response{};
    response.index = index;
    if (packed()) {
      response.state.packed = {.last_avail_counter = at.used_wrap,
                               .last_avail_idx = at.next_used,
                               .last_used_counter = at.used_wrap,
                               .last_used_idx = at.next_used};
    } else {
      response.state.split.avail_index = at.next_used;
    }
    answer(id, spec::result::ok, as_bytes_of(response));
  });
}

// The end.

void Export::give_up(const Error& why) {
  if (!node_) return;
  log_.error("{}: nothing is served any more", why.message());
  messages_.reset();
  backlog_.clear();
  answering_.reset();
  shut_down([this, weak = std::weak_ptr(self_), told = why](const Status&) {
    if (!weak.expired() && events_.gone) events_.gone(told);
  });
}

}  // namespace outboard::vduse
