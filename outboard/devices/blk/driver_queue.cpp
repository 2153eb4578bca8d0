#include <outboard/devices/blk/driver_queue.hpp>

#include <algorithm>
#include <cstring>

#include <outboard/devices/blk/internal/driver_core.hpp>
#include <outboard/memory/internal/keep_for_good.hpp>

namespace outboard::blk {

namespace {

constexpr std::uint32_t max_elements = 64;  // of a chain, header and status included
constexpr unsigned max_attempts = 3;
constexpr unsigned max_at_once = 1024;  // completions, before others on the loop get their turn
constexpr unsigned ticks_per_timeout = 4;
constexpr std::uint8_t no_status = 0xff;  // what no device says

/// The part of a slot that the device sees.
struct SlotMemory {
  spec::RequestHeader header;
  spec::RangeSegment segment;
  char id[spec::id_size];
  std::uint8_t status;
  std::uint8_t unused[11];
};
static_assert(sizeof(SlotMemory) == 64);

std::uint32_t type_of(Io::Kind kind) {
  switch (kind) {
    case Io::Kind::read:
      return spec::type::in;
    case Io::Kind::write:
      return spec::type::out;
    case Io::Kind::flush:
      return spec::type::flush;
    case Io::Kind::discard:
      return spec::type::discard;
    case Io::Kind::write_zeroes:
      return spec::type::write_zeroes;
    case Io::Kind::get_id:
      return spec::type::get_id;
  }
  return spec::type::flush;
}

}  // namespace

/// One request with the device.
struct Queue::Slot {
  Io* io = nullptr;
  IoProgress::Place from{};  ///< where its part of the operation starts
  std::uint64_t sectors = 0;
  std::uint64_t since = 0;  ///< tick
  unsigned attempts = 0;
  std::byte* memory = nullptr;
  memory::Iova iova{};
  Slot* next_free = nullptr;

  void store(std::size_t offset, Bytes bytes) { std::memcpy(memory + offset, bytes.data(), bytes.size()); }
};

Queue::Queue(DriverCore& core, unsigned index, Loop& loop) : core_(core), index_(index), loop_(loop) {}
Queue::~Queue() = default;

Status Queue::build(const virtio::Features& features, const Limits& limits, std::optional<unsigned> vector) {
  limits_ = limits;
  ring_.reset();
  const auto elements =
      static_cast<std::uint16_t>(std::min<std::uint64_t>(std::uint64_t{limits.seg_max} + 2, max_elements));
  OUTBOARD_TRY(auto ring, virtio::DriverQueue::create(
                              core_.transport(), index_, features,
                              {.vector = vector, .indirect = core_.options().indirect, .max_elements = elements}));
  if (ring.size() < 3)
    return Error(EPROTO, "a queue of less than 3 entries holds no request").on("queue " + std::to_string(index_));
  ring_.emplace(std::move(ring));
  vector_.store(ring_->vector().value_or(no_vector), std::memory_order_relaxed);
  splitter_.set_limits(limits, std::min<std::uint32_t>(elements, ring_->size()) - 2);
  ring_->disable_interrupts();
  if (!slots_.empty()) return {};

  const std::size_t depth = std::min<std::size_t>(core_.options().depth, ring_->size());
  OUTBOARD_TRY(slot_memory_, core_.transport().dma().allocate(depth * sizeof(SlotMemory)));
  slots_.resize(depth);
  for (std::size_t i = depth; i-- > 0;) {
    slots_[i].memory = slot_memory_.data() + i * sizeof(SlotMemory);
    slots_[i].iova = slot_memory_.iova() + i * sizeof(SlotMemory);
    slots_[i].next_free = free_;
    free_ = &slots_[i];
  }
  readable_.reserve(max_elements);
  writable_.reserve(max_elements);
  resend_.reserve(depth);
  return {};
}

Status Queue::check(Io& io) const {
  if (phase_ == Phase::given_up) return Error(given_up_, "the device has been given up");
  io.progress.total_ = io.sectors;
  if (has_data(io.kind)) {
    std::uint64_t bytes = 0;
    for (const auto& element : io.data) {
      if (element.length == 0) return Error(EINVAL, "an element of 0 bytes");
      bytes += element.length;
    }
    if (bytes == 0 || bytes % sector_size != 0) return Error(EINVAL, "the data are not whole sectors");
    io.progress.total_ = bytes / sector_size;
  } else if (!has_range(io.kind)) {
    io.progress.total_ = 0;
    if (io.kind == Io::Kind::get_id && io.id == nullptr) return Error(EINVAL, "no buffer for the id is given");
    return {};
  }
  if (io.progress.total_ == 0) return Error(EINVAL, "a range of 0 sectors");
  if (!range_within(raw(io.sector), io.progress.total_, core_.capacity()))
    return Error(EINVAL, "beyond the end of the disk");
  if (io.kind != Io::Kind::read && limits_.read_only) return Error(EROFS, "the disk is read-only");
  if (io.kind == Io::Kind::discard && limits_.max_discard_sectors == 0)
    return Error(ENOTSUP, "the device has no discard");
  if (io.kind == Io::Kind::write_zeroes && limits_.max_write_zeroes_sectors == 0)
    return Error(ENOTSUP, "the device has no write-zeroes");
  return {};
}

Status Queue::submit(Io& io) {
  OUTBOARD_CHECK(check(io));
  io.progress.next_ = {};
  io.progress.parts_ = 0;
  io.progress.issued_ = false;
  io.error = 0;
  const auto end = splitter_.end_of_request(io, io.progress.next_);
  if (!end) return Error(EINVAL, "the elements are too small for the segments that the device takes");
  ++in_flight_;
  arm_timer();
  if (!waiting_.empty() || !issue(io, *end)) waiting_.push_back(io);
  return {};
}

/// Hands as much of it to the device as there is room for; `end`: where its next request ends. True: nothing of it waits any
/// more. It may have ended then, and been destroyed by its `done`.
bool Queue::issue(Io& io, IoProgress::Place end) {
  while (issue_part(io, end)) {
    if (io.progress.issued_) return true;
    if (!has_room()) return false;  // the limits may be others when there is room
    const auto next = splitter_.end_of_request(io, io.progress.next_);
    if (!next) return give_up_rest(io);
    end = *next;
  }
  return false;
}

/// The same for one that has waited: the limits may have shrunk since submit().
bool Queue::issue_waiting(Io& io) {
  if (!has_room()) return false;
  const auto end = splitter_.end_of_request(io, io.progress.next_);
  return end ? issue(io, *end) : give_up_rest(io);
}

/// What has not been sent of it cannot be. Ends it where nothing of it is with the device: `io` may be destroyed then.
bool Queue::give_up_rest(Io& io) {
  io.error = EINVAL;
  io.progress.issued_ = true;
  if (io.progress.parts_ == 0) finish(io);
  return true;
}

/// Makes one request of it available. False: no room now.
bool Queue::issue_part(Io& io, const IoProgress::Place& end) {
  if (!has_room()) return false;
  Slot& slot = *free_;
  slot.io = &io;
  slot.from = io.progress.next_;
  slot.sectors = end.sectors - slot.from.sectors;
  slot.attempts = 1;
  if (!send(slot)) {
    slot.io = nullptr;
    return false;
  }
  free_ = slot.next_free;
  ++io.progress.parts_;
  io.progress.next_ = end;
  io.progress.issued_ = end.sectors == io.progress.total_;
  return true;
}

/// Makes the slot's request available. False: no room now.
bool Queue::send(Slot& slot) {
  const Io& io = *slot.io;
  const std::uint64_t sector = has_data(io.kind) ? raw(io.sector) + slot.from.sectors : 0;
  slot.store(offsetof(SlotMemory, header), as_bytes_of(spec::RequestHeader{type_of(io.kind), 0, sector}));
  slot.store(offsetof(SlotMemory, status), as_bytes_of(no_status));
  readable_.clear();
  writable_.clear();
  readable_.push_back({slot.iova, sizeof(spec::RequestHeader)});
  if (has_data(io.kind)) {
    auto& elements = io.kind == Io::Kind::read ? writable_ : readable_;
    splitter_.each_segment(io, slot.from, slot.sectors, [&](const virtio::Element& segment) {
      elements.push_back(segment);
      return true;
    });
  }
  if (has_range(io.kind)) {
    const std::uint32_t flags = io.kind == Io::Kind::write_zeroes && io.unmap ? spec::RangeSegment::unmap : 0;
    const spec::RangeSegment segment{raw(io.sector) + slot.from.sectors, static_cast<std::uint32_t>(slot.sectors),
                                     flags};
    slot.store(offsetof(SlotMemory, segment), as_bytes_of(segment));
    readable_.push_back({slot.iova + offsetof(SlotMemory, segment), sizeof segment});
  }
  if (io.kind == Io::Kind::get_id) writable_.push_back({slot.iova + offsetof(SlotMemory, id), spec::id_size});
  writable_.push_back({slot.iova + offsetof(SlotMemory, status), 1});
  if (!ring_->has_room(readable_.size() + writable_.size())) return false;
  slot.since = now_;
  return ring_->add(readable_, writable_, &slot).has_value();
}

void Queue::publish() {
  if (running()) ring_->publish();
}

void Queue::issue_waiting() {
  while (!resend_.empty()) {
    if (!running() || !send(*resend_.back())) return;
    resend_.pop_back();
  }
  // Taken out while it is being issued: it may end in there, and is then the caller's again.
  while (Io* io = waiting_.pop_front()) {
    if (!issue_waiting(*io)) return waiting_.push_front(*io);
  }
}

unsigned Queue::poll() {
  if (!running() || delivering_ != 0) return 0;
  const unsigned count = take_used();
  if (count == 0) {
    // Somebody who only polls has no timers running.
    if (in_flight_ != 0 && core_.options().poll && ++idle_polls_ % (1U << 20) == 0) core_.suspect();
    return 0;
  }
  issue_waiting();
  publish();
  return count;
}

/// Completes what the device has used, at most as much as was in flight twice over: a completion may submit anew.
unsigned Queue::take_used() {
  unsigned count = 0;
  for (std::size_t left = 2 * slots_.size(); left != 0 && running(); --left) {
    const auto used = ring_->next_used();
    if (!used) {
      protocol_error(used.error());
      break;
    }
    if (!*used) break;
    part_done(*static_cast<Slot*>((*used)->cookie), (*used)->length);
    ++count;
  }
  return count;
}

void Queue::interrupted() {
  if (!running() || delivering_ != 0) return;
  for (unsigned done = 0; done < max_at_once;) {
    done += std::max(poll(), 1U);
    // False: armed, and nothing came between the last look and that.
    if (!running() || !vector() || !ring_->enable_interrupts()) return;
  }
  more_ = loop_.after(Duration(0), [this] {
    more_.reset();
    interrupted();
  });
}

/// What came of a request, as an errno value.
int Queue::outcome(const Slot& slot, std::uint32_t length) const {
  std::uint8_t status = no_status;
  std::memcpy(&status, slot.memory + offsetof(SlotMemory, status), 1);
  const Io& io = *slot.io;
  std::uint64_t min_length = 1;
  if (io.kind == Io::Kind::read) min_length += slot.sectors * sector_size;
  if (io.kind == Io::Kind::get_id) min_length += spec::id_size;
  if (status == spec::status::unsupp) return ENOTSUP;
  // What the device does not claim to have written is not taken for data: VIRTIO 1.4, 2.7.8.3.
  return status == spec::status::ok && length >= min_length ? 0 : EIO;
}

void Queue::part_done(Slot& slot, std::uint32_t length) {
  const int error = outcome(slot, length);
  if (error == 0 && slot.io->kind == Io::Kind::get_id)
    std::memcpy(slot.io->id->data(), slot.memory + offsetof(SlotMemory, id), spec::id_size);
  part_ended(slot, error);
}

void Queue::part_ended(Slot& slot, int error) {
  Io& io = *slot.io;
  slot.io = nullptr;
  slot.next_free = free_;
  free_ = &slot;
  --io.progress.parts_;
  if (io.error == 0) io.error = error;
  if (io.error != 0 && !io.progress.issued_) {  // the rest need not be tried
    io.progress.issued_ = true;
    waiting_.remove(io);
  }
  if (io.progress.issued_ && io.progress.parts_ == 0) finish(io);
}

void Queue::finish(Io& io) {
  --in_flight_;
  ++delivering_;
  io.done(io);
  --delivering_;
}

void Queue::protocol_error(const Error& error) {
  pause();
  core_.report(error);
}

void Queue::arm_timer() {
  const Duration timeout = core_.options().timeout;
  if (timeout.count() == 0 || timer_.active()) return;
  timer_ = loop_.after(timeout / ticks_per_timeout, [this] {
    timer_.reset();
    tick();
  });
}

/// A lost interrupt is made up for; a request that is overdue is a device to reset.
void Queue::tick() {
  ++now_;
  if (in_flight_ == 0) return;
  arm_timer();
  if (!running()) return;
  interrupted();
  const bool late =
      std::ranges::any_of(slots_, [this](const Slot& slot) { return slot.io != nullptr && now_ - slot.since > 1; });
  const bool overdue = std::ranges::any_of(
      slots_, [this](const Slot& slot) { return slot.io != nullptr && now_ - slot.since > ticks_per_timeout; });
  if (overdue && running()) {
    protocol_error(Error(ETIMEDOUT, "a request was not answered in time").on("queue " + std::to_string(index_)));
  } else if (late) {
    core_.suspect();
  }
}

void Queue::pause() {
  if (phase_ == Phase::running) phase_ = Phase::paused;
  more_.reset();
}

void Queue::stop() {
  pause();
  watch_.reset();
  timer_.reset();
  poller_.reset();
}

/// The device is there (again), with a new ring: what was in flight goes out again. Everything a disk does can be done
/// twice. What has been sent too often ends with `reason`.
void Queue::resume(int reason) {
  if (phase_ == Phase::given_up) return;
  resend_.clear();
  std::vector<std::pair<Slot*, int>> given_up;
  for (Slot& slot : slots_) {
    if (slot.io == nullptr) continue;
    slot.since = now_;
    if (slot.io->error != 0 || ++slot.attempts > max_attempts) {
      given_up.emplace_back(&slot, reason);
    } else if (!splitter_.fits(*slot.io, slot.from, slot.sectors)) {
      given_up.emplace_back(&slot, EINVAL);
    } else {
      resend_.push_back(&slot);
    }
  }
  for (const auto& [slot, error] : given_up) part_ended(*slot, error);  // still paused: what its caller submits waits
  phase_ = Phase::running;
  if (!vector() && !core_.options().poll && !poller_.active()) poller_ = loop_.poll([this] { return poll() != 0; });
  issue_waiting();
  publish();
  interrupted();
}

void Queue::give_up(int error) {
  if (phase_ != Phase::given_up) given_up_ = error;
  phase_ = Phase::given_up;
  more_.reset();
  timer_.reset();
  poller_.reset();
  for (Slot& slot : slots_) {
    if (slot.io != nullptr) part_ended(slot, error);
  }
  while (Io* io = waiting_.pop_front()) {
    io->progress.issued_ = true;
    if (io->error == 0) io->error = error;
    if (io->progress.parts_ == 0) finish(*io);
  }
  resend_.clear();
}

void Queue::abandon_memory() {
  // The bytes go when the transport's memory as a whole is taken from the device.
  if (ring_) memory::keep_for_good(std::move(*ring_));
  ring_.reset();
  memory::keep_for_good(std::move(slot_memory_));
}

}  // namespace outboard::blk
