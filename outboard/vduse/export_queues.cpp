#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include <outboard/memory/shared.hpp>
#include <outboard/vduse/export.hpp>
#include <outboard/vduse/interrupts.hpp>
#include <outboard/virtio/device_queue.hpp>
#include <outboard/virtio/ring.hpp>
#include <outboard/virtio/spec.hpp>

/// Queues: where the driver has put them, when they become ready, how they stop and go on.
namespace outboard::vduse {

namespace {

namespace bit = virtio::spec::status;
using virtio::PackedCursor;
using virtio::QueueState;
using virtio::RingPart;

constexpr Duration first_look = std::chrono::milliseconds(1);
constexpr Duration longest_look = std::chrono::seconds(1);

memory::IovaRange range_of(const QueueState& ring, bool packed, RingPart part) {
  const memory::Iova at[] = {ring.descriptors, ring.driver, ring.device};
  return {at[static_cast<unsigned>(part)], virtio::ring_part(packed, part, ring.size).size};
}

bool parts_overlap(const QueueState& ring, bool packed) {
  const auto descriptors = range_of(ring, packed, RingPart::descriptors);
  const auto driver = range_of(ring, packed, RingPart::driver);
  const auto device = range_of(ring, packed, RingPart::device);
  return descriptors.overlaps(driver) || descriptors.overlaps(device) || driver.overlaps(device);
}

}  // namespace

/// DRIVER_OK. Whatever becomes of the queues, the answer will be yes: a driver of the kernel's does not look.
void Export::start_device(std::uint8_t status) {
  if ((core_->status() & bit::features_ok) == 0) accept_features(status);
  unsigned later = 0;
  for (unsigned queue = 0; queue < queue_count(); ++queue) later += set_up(queue) == Setup::later ? 1 : 0;
  live_ = true;
  interrupts_->set_live(true);
  core_->write_status(status);
  if ((core_->status() & bit::driver_ok) == 0)
    return log_.error("the device cannot run, and VDUSE has no way to tell its driver, which will wait for ever");
  for (unsigned queue = 0; queue < queue_count(); ++queue) {
    if (core_->queue_enabled(queue)) connect(queue);
  }
  if (later == 0) return;
  // Drivers by way of vhost may make a queue ready now, and no message says so.
  late_pause_ = first_look;
  late_ = control_.after(late_pause_, [this] { look_for_late_queues(); });
}

Export::Setup Export::set_up(unsigned queue) {
  Line& line = *lines_[queue];
  const bool paused = line.off && line.rest;
  if (core_->queue_enabled(queue) && !paused) return line.off ? Setup::later : Setup::running;
  if (line.failed) return Setup::never;
  const auto info = node_->queue_info(queue);
  if (!info) {
    log_.error("queue {}: {}", queue, info.error().message());
    return Setup::later;
  }
  if (info->ready == 0) return Setup::later;
  if (paused && goes_on(queue, *info)) return Setup::running;
  const auto ring = ring_of(queue, *info);
  if (ring && !is_mapped(queue, *ring)) {
    if (!std::exchange(line.said_unmapped, true))
      log_.error("queue {}: its ring is in no memory that the driver has given; it is started when that comes", queue);
    return Setup::later;
  }
  const Status started = ring ? core_->start_queue(queue, *ring) : Status(std::unexpected(ring.error()));
  line.begun = *info;
  if (started) return Setup::running;
  log_.error("queue {} is not run: {}", queue, started.error().message());
  line.failed = true;
  return Setup::never;
}

/// What a driver by way of vhost says is checked by nobody before.
Result<QueueState> Export::ring_of(unsigned queue, const spec::VqInfo& info) const {
  const bool is_packed = packed();
  if (!virtio::legal_queue_size(is_packed, info.num) || info.num > core_->queue_max_size(queue))
    return Error(EINVAL, fmt::format("its size is {}", info.num));
  QueueState ring{.size = static_cast<std::uint16_t>(info.num),
                  .descriptors = memory::Iova{info.desc_addr},
                  .driver = memory::Iova{info.driver_addr},
                  .device = memory::Iova{info.device_addr},
                  .enabled = true,
                  .in_flight = {}};
  for (const RingPart part : {RingPart::descriptors, RingPart::driver, RingPart::device}) {
    const auto range = range_of(ring, is_packed, part);
    if (!virtio::legal_ring_address(range.start, virtio::ring_part(is_packed, part, ring.size)))
      return Error(EINVAL, fmt::format("a part of its ring is at {:#x}", raw(range.start)));
  }
  if (parts_overlap(ring, is_packed)) return Error(EINVAL, "the parts of its ring overlap");
  if (is_packed) {
    const spec::VqStatePacked& state = info.state.packed;
    ring.next_avail = ring.next_used = state.last_avail_idx;
    ring.avail_wrap = ring.used_wrap = state.last_avail_counter != 0;
    const bool same = state.last_used_idx == state.last_avail_idx &&
                      (state.last_used_counter != 0) == (state.last_avail_counter != 0);
    if (!same) return Error(EINVAL, "it begins with buffers in flight, and does not say which");
  } else {
    ring.next_avail = ring.next_used = info.state.split.avail_index;
  }
  return ring;
}

bool Export::is_mapped(unsigned queue, const QueueState& ring) {
  const memory::AddressMap& map = *queue_memory_[queue];
  for (const RingPart part : {RingPart::descriptors, RingPart::driver, RingPart::device})
    map.resolve(range_of(ring, packed(), part), memory::Access::read);
  return virtio::locate_ring(*map.current(), packed(), ring).has_value();
}

/// Kicks that came before are lost or kept, as the kernel likes: the ring is looked at in any case.
void Export::connect(unsigned queue) {
  if (const Status set = node_->set_kick(queue, &lines_[queue]->kick); !set)
    log_.error("queue {}: the driver's notifications do not come through: {}", queue, set.error().message());
  core_->kick(queue);
}

void Export::look_for_late_queues() {
  late_.reset();
  if (!live_ || suspended_ || !node_) return;
  bool later = false;
  for (unsigned queue = 0; queue < queue_count(); ++queue) {
    if (core_->queue_enabled(queue) && !lines_[queue]->off) continue;
    const Setup now = set_up(queue);
    if (now == Setup::running) connect(queue);
    later |= now == Setup::later;
  }
  if (!later) return;
  late_pause_ = std::clamp(late_pause_ * 2, first_look, longest_look);
  late_ = control_.after(late_pause_, [this] { look_for_late_queues(); });
}

void Export::kicked(unsigned queue) {
  if (lines_[queue]->rests.load(std::memory_order_acquire)) [[unlikely]] {
    control_.post([this, weak = std::weak_ptr(self_), queue] {
      if (!weak.expired()) kicked_at_rest(queue);
    });
    return;
  }
  core_->kick_now(queue);
}

/// Whether what is in flight is what was popped last, in that order: then the queue is where it was before it popped them.
bool Export::can_rewind(unsigned queue, const QueueState& state) const {
  if (state.in_flight.empty()) return true;
  if (packed()) {
    PackedCursor at{state.next_used, state.used_wrap};
    for (const auto& buffer : state.in_flight) {
      if (buffer.head != at.slot) return false;
      at = at.plus(buffer.descriptors, state.size);
    }
    return at == PackedCursor{state.next_avail, state.avail_wrap};
  }
  const auto ring = virtio::locate_ring(*queue_memory_[queue]->current(), false, state);
  if (!ring) return false;
  for (std::size_t i = 0; i < state.in_flight.size(); ++i) {
    const auto slot = static_cast<std::uint16_t>(state.next_used + i) % state.size;
    const memory::Shared<le16> entry(ring->driver + virtio::spec::avail::ring + slot * sizeof(le16));
    if (entry.load(std::memory_order_relaxed) != state.in_flight[i].head) return false;
  }
  return true;
}

}  // namespace outboard::vduse
