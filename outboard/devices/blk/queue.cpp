#include <outboard/devices/blk/queue.hpp>

#include <algorithm>
#include <cstring>

#include <outboard/devices/blk/driver_core.hpp>

namespace outboard::blk {

namespace {

constexpr std::uint32_t most_elements = 64;               // of a chain, header and status included
constexpr std::uint64_t most_bytes = UINT64_C(16) << 20;  // of one request; larger operations are cut up
constexpr unsigned most_attempts = 3;
constexpr unsigned most_at_once = 1024;  // completions, before others on the loop get their turn
constexpr unsigned ticks_per_deadline = 4;
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

bool has_data(Io::Kind kind) { return kind == Io::Kind::read || kind == Io::Kind::write; }
bool has_range(Io::Kind kind) { return kind == Io::Kind::discard || kind == Io::Kind::write_zeroes; }

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
      static_cast<std::uint16_t>(std::min<std::uint64_t>(std::uint64_t{limits.seg_max} + 2, most_elements));
  OUTBOARD_TRY(auto ring, virtio::DriverQueue::create(
                              core_.transport(), index_, features,
                              {.vector = vector, .indirect = core_.options().indirect, .max_elements = elements}));
  if (ring.size() < 3)
    return Error(EPROTO, "a queue of less than 3 entries holds no request").on("queue " + std::to_string(index_));
  ring_.emplace(std::move(ring));
  vector_.store(ring_->vector().value_or(no_vector), std::memory_order_relaxed);
  seg_max_ = std::min<std::uint32_t>(elements, ring_->size()) - 2;
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
  readable_.reserve(most_elements);
  writable_.reserve(most_elements);
  resend_.reserve(depth);
  return {};
}

Status Queue::check(Io& io) const {
  if (dead_ != 0) return Error(dead_, "the device has been given up");
  io.progress.total_ = io.sectors;
  if (has_data(io.kind)) {
    std::uint64_t bytes = 0;
    for (const auto& element : io.data) {
      if (element.length == 0) return Error(EINVAL, "an element without bytes");
      bytes += element.length;
    }
    if (bytes == 0 || bytes % sector_size != 0) return Error(EINVAL, "the data are not whole sectors");
    io.progress.total_ = bytes / sector_size;
  } else if (!has_range(io.kind)) {
    io.progress.total_ = 0;
    if (io.kind == Io::Kind::get_id && io.id == nullptr) return Error(EINVAL, "nowhere to put the id");
    return {};
  }
  if (io.progress.total_ == 0) return Error(EINVAL, "a range of no sectors");
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
  io.progress.next_waiting_ = nullptr;
  if (has_data(io.kind)) {
    IoProgress::Place end;
    if (plan(io, end) == 0) return Error(EINVAL, "the elements are too small for the segments that the device takes");
  }
  ++in_flight_;
  arm_timer();
  if (waiting_first_ == nullptr && issue(io)) return {};
  (waiting_first_ == nullptr ? waiting_first_ : waiting_last_->progress.next_waiting_) = &io;
  waiting_last_ = &io;
  return {};
}

/// How many sectors, from io.progress.next_ on, one request can carry; `end` is where they end. 0: not even one.
std::uint64_t Queue::plan(const Io& io, IoProgress::Place& end) const {
  std::uint64_t bytes = 0;
  std::uint64_t aligned = 0;
  IoProgress::Place at = io.progress.next_;
  IoProgress::Place last = at;
  for (std::uint32_t count = 0; count < seg_max_ && at.element < io.data.size() && bytes < most_bytes; ++count) {
    const std::uint32_t left = io.data[at.element].length - at.offset;
    const auto take = static_cast<std::uint32_t>(std::min<std::uint64_t>({left, limits_.size_max, most_bytes - bytes}));
    // The last place inside this piece at which whole sectors end.
    const std::uint64_t whole = (bytes + take) / sector_size * sector_size;
    if (whole > bytes) {
      aligned = whole;
      last = at;
      last.offset += static_cast<std::uint32_t>(whole - bytes);
      if (last.offset == io.data[at.element].length) last = {0, at.element + 1, 0};
    }
    bytes += take;
    at.offset += take;
    if (take == left) at = {0, at.element + 1, 0};
  }
  end = last;
  end.sectors = io.progress.next_.sectors + aligned / sector_size;
  return aligned / sector_size;
}

/// Hands as much of it to the device as there is room for. True: nothing of it waits any more. It may have ended then, and
/// been destroyed by its `done`.
bool Queue::issue(Io& io) {
  while (!io.progress.issued_) {
    if (paused_ || free_ == nullptr) return false;
    IoProgress::Place end = io.progress.next_;
    const std::uint64_t sectors = next_part(io, end);
    // The limits have shrunk since submit().
    if (io.progress.total_ != 0 && sectors == 0) {
      give_up_rest(io);
      return true;
    }
    if (!issue_part(io, sectors, end)) return false;
  }
  return true;
}

/// How many sectors the next request can carry; `end` is where they end. 0: an operation without sectors, or none fits.
std::uint64_t Queue::next_part(const Io& io, IoProgress::Place& end) const {
  if (has_data(io.kind)) return plan(io, end);
  if (!has_range(io.kind)) return 0;
  const std::uint64_t sectors = std::min<std::uint64_t>(io.progress.total_ - end.sectors, most_sectors(io.kind));
  end.sectors += sectors;
  return sectors;
}

/// What one request for a range may cover.
std::uint32_t Queue::most_sectors(Io::Kind kind) const {
  return kind == Io::Kind::discard ? limits_.max_discard_sectors : limits_.max_write_zeroes_sectors;
}

/// What has not been sent of it cannot be. Ends it where nothing of it is with the device: `io` may be destroyed then.
void Queue::give_up_rest(Io& io) {
  io.error = EINVAL;
  io.progress.issued_ = true;
  if (io.progress.parts_ == 0) finish(io);
}

/// False: no room now.
bool Queue::issue_part(Io& io, std::uint64_t sectors, const IoProgress::Place& end) {
  Slot& slot = *free_;
  slot.io = &io;
  slot.from = io.progress.next_;
  slot.sectors = sectors;
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

/// Whether the device takes the request as it is, now that its limits may be others than when it was first sent.
bool Queue::fits(const Slot& slot) const {
  const Io& io = *slot.io;
  if (has_range(io.kind)) return slot.sectors <= most_sectors(io.kind);
  return !has_data(io.kind) || count_pieces(slot) <= seg_max_;
}

/// Calls `each(element)` for the pieces of a slot's data, none longer than size_max, for as long as it returns true.
template <typename Each>
void Queue::each_piece(const Slot& slot, Each each) const {
  std::uint64_t left = slot.sectors * sector_size;
  std::size_t element = slot.from.element;
  std::uint32_t offset = slot.from.offset;
  while (left != 0) {
    const virtio::Element& whole = slot.io->data[element];
    const auto size =
        static_cast<std::uint32_t>(std::min<std::uint64_t>({left, whole.length - offset, limits_.size_max}));
    if (!each(virtio::Element{whole.address + offset, size})) return;
    left -= size;
    offset += size;
    if (offset == whole.length) {
      ++element;
      offset = 0;
    }
  }
}

/// No further than one more than the device takes.
std::size_t Queue::count_pieces(const Slot& slot) const {
  std::size_t count = 0;
  each_piece(slot, [&](const virtio::Element&) { return ++count <= seg_max_; });
  return count;
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
    each_piece(slot, [&](const virtio::Element& piece) {
      elements.push_back(piece);
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
  if (!paused_) ring_->publish();
}

void Queue::issue_waiting() {
  while (!resend_.empty()) {
    if (paused_ || !send(*resend_.back())) return;
    resend_.pop_back();
  }
  // Taken out while it is being issued: it may end in there, and is then the caller's again.
  while (Io* io = pop_waiting()) {
    if (issue(*io)) continue;
    io->progress.next_waiting_ = waiting_first_;
    if (waiting_first_ == nullptr) waiting_last_ = io;
    waiting_first_ = io;
    return;
  }
}

Io* Queue::pop_waiting() {
  Io* io = waiting_first_;
  if (io != nullptr) waiting_first_ = io->progress.next_waiting_;
  return io;
}

void Queue::remove_waiting(Io& io) {
  Io* before = nullptr;
  Io* at = waiting_first_;
  while (at != nullptr && at != &io) before = std::exchange(at, at->progress.next_waiting_);
  if (at == nullptr) return;
  (before == nullptr ? waiting_first_ : before->progress.next_waiting_) = io.progress.next_waiting_;
  if (waiting_last_ == &io) waiting_last_ = before;
}

unsigned Queue::poll() {
  if (paused_ || delivering_ != 0) return 0;
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
  for (std::size_t left = 2 * slots_.size(); left != 0 && !paused_; --left) {
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
  if (paused_ || delivering_ != 0) return;
  for (unsigned done = 0; done < most_at_once;) {
    done += std::max(poll(), 1U);
    // False: armed, and nothing came between the last look and that.
    if (paused_ || !vector() || !ring_->enable_interrupts()) return;
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
  std::uint64_t least = 1;
  if (io.kind == Io::Kind::read) least += slot.sectors * sector_size;
  if (io.kind == Io::Kind::get_id) least += spec::id_size;
  if (status == spec::status::unsupp) return ENOTSUP;
  // What the device does not claim to have written is not taken for data: VIRTIO 1.4, 2.7.8.3.
  return status == spec::status::ok && length >= least ? 0 : EIO;
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
    remove_waiting(io);
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
  const Duration deadline = core_.options().deadline;
  if (deadline.count() == 0 || timer_.active()) return;
  timer_ = loop_.after(deadline / ticks_per_deadline, [this] {
    timer_.reset();
    tick();
  });
}

/// A lost interrupt is made up for; a request that is overdue is a device to reset.
void Queue::tick() {
  ++now_;
  if (in_flight_ == 0) return;
  arm_timer();
  if (paused_) return;
  interrupted();
  const bool late =
      std::ranges::any_of(slots_, [this](const Slot& slot) { return slot.io != nullptr && now_ - slot.since > 1; });
  const bool overdue = std::ranges::any_of(
      slots_, [this](const Slot& slot) { return slot.io != nullptr && now_ - slot.since > ticks_per_deadline; });
  if (overdue && !paused_) {
    protocol_error(Error(ETIMEDOUT, "a request was not answered in time").on("queue " + std::to_string(index_)));
  } else if (late) {
    core_.suspect();
  }
}

void Queue::pause() {
  paused_ = true;
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
  if (dead_ != 0) return;
  resend_.clear();
  std::vector<std::pair<Slot*, int>> given_up;
  for (Slot& slot : slots_) {
    if (slot.io == nullptr) continue;
    slot.since = now_;
    if (slot.io->error != 0 || ++slot.attempts > most_attempts) {
      given_up.emplace_back(&slot, reason);
    } else if (!fits(slot)) {
      given_up.emplace_back(&slot, EINVAL);
    } else {
      resend_.push_back(&slot);
    }
  }
  for (const auto& [slot, error] : given_up) part_ended(*slot, error);  // still paused: what its caller submits waits
  paused_ = false;
  if (!vector() && !core_.options().poll && !poller_.active()) poller_ = loop_.poll([this] { return poll() != 0; });
  issue_waiting();
  publish();
  interrupted();
}

void Queue::give_up(int error) {
  paused_ = true;
  if (dead_ == 0) dead_ = error;
  more_.reset();
  timer_.reset();
  poller_.reset();
  for (Slot& slot : slots_) {
    if (slot.io != nullptr) part_ended(slot, error);
  }
  while (Io* io = pop_waiting()) {
    io->progress.issued_ = true;
    if (io->error == 0) io->error = error;
    if (io->progress.parts_ == 0) finish(*io);
  }
  resend_.clear();
}

void Queue::abandon_memory() {
  // Lost on purpose. The bytes go when the transport's memory as a whole is taken from the device.
  if (ring_) static_cast<void>(new virtio::DriverQueue(std::move(*ring_)));
  ring_.reset();
  static_cast<void>(new memory::DmaBuffer(std::move(slot_memory_)));
}

}  // namespace outboard::blk
