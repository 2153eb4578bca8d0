#include <outboard/virtio/driver_queue.hpp>

#include <algorithm>
#include <bit>
#include <string>

#include <outboard/virtio/internal/packed_driver_ring.hpp>
#include <outboard/virtio/internal/split_driver_ring.hpp>
#include <outboard/virtio/ring.hpp>
#include <outboard/virtio/spec.hpp>

namespace outboard::virtio {

namespace {

constexpr std::uint64_t max_buffer_bytes = UINT64_C(1) << 32;
/// Parts that different sides write lie this far apart: two cache lines, since processors fetch lines in pairs.
constexpr std::size_t part_alignment = 128;

constexpr std::size_t aligned(std::size_t size) {
  return (size + part_alignment - 1) / part_alignment * part_alignment;
}

struct PartOffsets {
  std::size_t driver, device, end;
};

PartOffsets lay_out(bool packed, std::uint16_t size) {
  const std::size_t driver = aligned(ring_part(packed, RingPart::descriptors, size).size);
  const std::size_t device = driver + aligned(ring_part(packed, RingPart::driver, size).size);
  return {driver, device, device + aligned(ring_part(packed, RingPart::device, size).size)};
}

/// What the queue's size will be; 0 when there is no such queue.
std::uint16_t choose_size(bool packed, std::uint16_t device_max, std::uint16_t wanted) {
  // docs/spec-map.md, VR-15: a split ring whose maximum is no power of two gets the next smaller one; setup_queue reads it
  // back.
  const auto size =
      static_cast<std::uint16_t>(std::min({std::uint32_t{device_max}, std::uint32_t{wanted}, spec::max_queue_size}));
  return packed ? size : std::bit_floor(size);
}

/// Sets the queue up with the vector asked for, else with one that is shared, else with none (docs/spec-map.md, VR-23).
Result<Doorbell> set_up(Transport& transport, unsigned index, QueueSetup setup, std::optional<unsigned>& got) {
  while (true) {
    auto doorbell = transport.setup_queue(index, setup);
    got = setup.vector;
    if (doorbell || doorbell.error().code() != ENOSPC || !setup.vector) return doorbell;
    setup.vector = *setup.vector != 0 ? std::optional(0U) : std::nullopt;
  }
}

}  // namespace

struct DriverQueue::State {
  // What a request touches comes first.
  std::optional<SplitDriverRing> split;
  std::optional<PackedDriverRing> packed;
  Doorbell doorbell;
  std::uint16_t index = 0;
  std::uint16_t size = 0;
  std::uint16_t table_entries = 0;  ///< 0: no indirect tables
  std::uint16_t direct_elements = 0;
  bool notification_data = false;
  bool broken = false;
  std::optional<unsigned> vector;

  // Made once, so that being full costs no allocation.
  Error full{EAGAIN, "the queue is full"};
  Error gone{EIO, "the queue is broken"};

  memory::DmaBuffer rings;
  memory::DmaBuffer tables;

  template <typename Use>
  decltype(auto) ring(Use&& use) {
    return split ? use(*split) : use(*packed);
  }

  std::uint16_t free() {
    return ring([](auto& r) { return r.free(); });
  }
  DriverBuffers& buffers() { return split ? split->buffers() : packed->buffers(); }

  /// Whether a chain goes through a table.
  bool through_table(std::size_t elements, std::uint16_t free_slots) const {
    if (table_entries == 0 || elements < 2 || elements > table_entries) return false;
    return elements > direct_elements || free_slots - elements < size / 2U || elements > free_slots;
  }

  Status check(std::span<const Element> elements, std::uint64_t& total) const;
  Error protocol_error() const;
};

Status DriverQueue::State::check(std::span<const Element> elements, std::uint64_t& total) const {
  for (const Element& element : elements) {
    if (element.length == 0) return Error(EINVAL, "an element without bytes");
    total += element.length;
  }
  return {};
}

Error DriverQueue::State::protocol_error() const {
  return Error(EPROTO, "the device returned a buffer that it was not given")
      .on("queue " + std::to_string(index))
      .cure("reset the device before its memory is used for anything else");
}

Result<DriverQueue> DriverQueue::create(Transport& transport, unsigned index, const Features& features,
                                        const Options& options) {
  const bool packed = features.has(Feature::ring_packed);
  OUTBOARD_TRY(const std::uint16_t device_max, transport.queue_max_size(index));
  const std::uint16_t size = choose_size(packed, device_max, options.size);
  if (size == 0 || index > UINT16_MAX)
    return Error(ENOENT, "the device has no queue " + std::to_string(index)).on(transport.name());

  auto state = std::make_unique<State>();
  state->index = static_cast<std::uint16_t>(index);
  state->size = size;
  state->direct_elements = options.direct_elements;
  state->notification_data = features.has(Feature::notification_data);
  const PartOffsets parts = lay_out(packed, size);
  OUTBOARD_TRY(state->rings, transport.dma().allocate(parts.end, {.alignment = part_alignment}));
  DriverRingLayout layout{.descriptors = state->rings.data(),
                          .driver = state->rings.data() + parts.driver,
                          .device = state->rings.data() + parts.device,
                          .size = size,
                          .event_idx = features.has(Feature::event_idx),
                          .in_order = features.has(Feature::in_order)};
  if (options.indirect && features.has(Feature::indirect_desc) && options.max_elements > 1) {
    // VIRTIO 1.4, 2.7.5.3.1: "A driver MUST NOT create a descriptor chain longer than the Queue Size of the device."
    layout.table_entries = state->table_entries = std::min(options.max_elements, size);
    OUTBOARD_TRY(state->tables, transport.dma().allocate(std::uint64_t{size} * layout.table_bytes()));
    layout.tables = state->tables.data();
    layout.tables_iova = state->tables.iova();
  }
  if (packed) {
    state->packed.emplace(layout);
  } else {
    state->split.emplace(layout);
  }
  const QueueSetup setup{.size = size,
                         .descriptors = state->rings.iova(),
                         .driver = state->rings.iova() + parts.driver,
                         .device = state->rings.iova() + parts.device,
                         .vector = options.vector};
  OUTBOARD_TRY(state->doorbell, set_up(transport, index, setup, state->vector));
  return DriverQueue(std::move(state));
}

DriverQueue::DriverQueue(std::unique_ptr<State> state) : state_(std::move(state)) {}
DriverQueue::DriverQueue(DriverQueue&&) noexcept = default;
DriverQueue& DriverQueue::operator=(DriverQueue&&) noexcept = default;
DriverQueue::~DriverQueue() = default;

std::uint16_t DriverQueue::size() const { return state_->size; }
unsigned DriverQueue::index() const { return state_->index; }
std::uint16_t DriverQueue::in_flight() const { return state_->buffers().in_flight(); }
std::optional<unsigned> DriverQueue::vector() const { return state_->vector; }
bool DriverQueue::broken() const { return state_->broken; }
std::uint64_t DriverQueue::clamped_lengths() const { return state_->buffers().clamped(); }

bool DriverQueue::has_room(std::size_t elements) const {
  if (state_->broken || elements == 0) return false;
  const std::uint16_t free = state_->free();
  return elements <= free || (free != 0 && elements <= state_->table_entries);
}

Status DriverQueue::add(std::span<const Element> readable, std::span<const Element> writable, void* cookie) {
  State& s = *state_;
  if (s.broken) return s.gone;
  std::uint64_t read_bytes = 0, write_bytes = 0;
  OUTBOARD_CHECK(s.check(readable, read_bytes));
  OUTBOARD_CHECK(s.check(writable, write_bytes));
  const std::size_t elements = readable.size() + writable.size();
  if (elements == 0) return Error(EINVAL, "a buffer without elements");
  if (elements > s.size) return Error(EINVAL, "more elements than the queue takes: " + std::to_string(elements));
  // VIRTIO 1.4, 2.7.5.2: "Drivers MUST NOT add a descriptor chain longer than 2^32 bytes in total."
  if (read_bytes + write_bytes > max_buffer_bytes) return Error(EINVAL, "a buffer of more than 2^32 bytes");

  const std::uint16_t free = s.free();
  const bool indirect = s.through_table(elements, free);
  if (free < (indirect ? 1 : elements)) return s.full;
  const DriverChain chain{.readable = readable,
                          .writable = writable,
                          .writable_bytes = write_bytes,
                          .indirect = indirect,
                          .cookie = cookie};
  s.ring([&](auto& ring) { ring.add(chain); });
  return {};
}

bool DriverQueue::publish() {
  State& s = *state_;
  if (s.broken) return false;
  if (!s.ring([](auto& ring) { return ring.publish(); })) return false;
  // Row S13, P13: after the fence in publish(), so what the device fetches when it is told is there.
  std::uint32_t value = s.index;
  if (s.notification_data) value |= std::uint32_t{s.ring([](auto& ring) { return ring.position(); })} << 16;
  s.doorbell.ring(value);
  return true;
}

Result<std::optional<DriverQueue::Used>> DriverQueue::next_used() {
  State& s = *state_;
  if (s.broken) return s.protocol_error();
  Used used;
  const Taken taken = s.split ? s.split->take(used) : s.packed->take(used);
  if (taken == Taken::one) return std::optional<Used>(used);
  if (taken == Taken::none) return std::optional<Used>();
  s.broken = true;
  return s.protocol_error();
}

bool DriverQueue::enable_interrupts() {
  if (state_->broken) return true;  // whoever looks gets to know why
  return state_->ring([](auto& ring) { return ring.arm(); });
}

void DriverQueue::disable_interrupts() {
  state_->ring([](auto& ring) { ring.disarm(); });
}

std::vector<void*> DriverQueue::take_in_flight() {
  state_->broken = true;
  return state_->buffers().take_all();
}

}  // namespace outboard::virtio
