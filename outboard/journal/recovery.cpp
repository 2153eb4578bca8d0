#include <algorithm>
#include <array>
#include <cstddef>

#include <fmt/format.h>

#include <outboard/journal/internal/file_state.hpp>
#include <outboard/journal/internal/queue_region.hpp>
#include <outboard/virtio/internal/device_queue.hpp>
#include <outboard/virtio/spec.hpp>

/// The way back: what a region says, what its ring says, and the state that follows from both. The file may be damaged and
/// the ring is a driver's: what does not fit is an error, never a guess.
namespace outboard::journal {

using namespace layout;  // NOLINT(google-build-using-namespace): the layout of this very file
namespace spec = virtio::spec;

namespace {

Error misfit(std::string_view what) {
  return Error(EBADMSG, fmt::format("the journal does not fit the ring: {}", what));
}

virtio::PackedCursor packed_cursor(std::uint16_t off_wrap) {
  return {static_cast<std::uint16_t>(off_wrap & spec::event::offset_mask), (off_wrap & spec::event::wrap) != 0};
}

/// Slots, or buffers, from `from` to `to`.
std::uint32_t distance(const QueueRecord& record, std::uint16_t from, std::uint16_t to) {
  if (!record.packed) return static_cast<std::uint16_t>(to - from);
  const virtio::PackedCursor a = packed_cursor(from), b = packed_cursor(to);
  if (a.wrap == b.wrap) return static_cast<std::uint32_t>(b.slot - a.slot);  // backwards: far too much
  return static_cast<std::uint32_t>(record.ring.size - a.slot + b.slot);
}

}  // namespace

bool QueueRecord::in_batch(std::uint16_t entry) const { return std::ranges::find(batch, entry) != batch.end(); }

// A region.

Result<std::optional<QueueRecord>> QueueRegion::read(std::uint32_t epoch) const {
  // J5: acquired, so that what counts has been written.
  const std::uint64_t run = word(offsetof(Queue, run)).load(std::memory_order_acquire);
  if (run == 0) return std::nullopt;
  if (!sealed(run, run_place)) return damaged("whether the queue runs");
  if (unseal(run) != epoch) return std::nullopt;  // it ran before the last reset
  QueueRecord record;
  OUTBOARD_CHECK(read_head(epoch, record));
  OUTBOARD_CHECK(read_progress(record));
  OUTBOARD_CHECK(record.packed ? read_packed(record) : read_split(record));
  std::ranges::sort(record.entries, {}, &QueueRecord::Entry::order);
  const auto twice = std::ranges::adjacent_find(record.entries, {}, &QueueRecord::Entry::order);
  if (twice != record.entries.end()) return damaged("two buffers were popped at once");
  OUTBOARD_CHECK(check_batch(record));
  return record;
}

Status QueueRegion::read_head(std::uint32_t epoch, QueueRecord& record) const {
  Queue head{};
  head.run = seal(epoch, run_place);
  head.size = word16(offsetof(Queue, size)).load(std::memory_order_relaxed);
  head.format = word16(offsetof(Queue, format)).load(std::memory_order_relaxed);
  head.descriptors = word(offsetof(Queue, descriptors)).load(std::memory_order_relaxed);
  head.driver = word(offsetof(Queue, driver)).load(std::memory_order_relaxed);
  head.device = word(offsetof(Queue, device)).load(std::memory_order_relaxed);
  const std::uint32_t checksum = word32(offsetof(Queue, checksum)).load(std::memory_order_relaxed);
  if (crc32c(as_bytes_of(head).first(offsetof(Queue, progress))) != checksum)
    return damaged("the checksum of the queue's setup");
  record.packed = head.format == packed_ring;
  if (!record.packed && head.format != split_ring) return damaged("the format of the ring");
  if (head.size > max_size_ || !virtio::legal_queue_size(record.packed, head.size))
    return damaged("the size of the ring");
  record.ring = {.size = head.size,
                 .descriptors = memory::Iova{std::uint64_t{head.descriptors}},
                 .driver = memory::Iova{std::uint64_t{head.driver}},
                 .device = memory::Iova{std::uint64_t{head.device}},
                 .enabled = true,
                 .in_flight = {}};
  return {};
}

Status QueueRegion::read_progress(QueueRecord& record) const {
  const std::uint64_t stored = word(offsetof(Queue, progress)).load(std::memory_order_acquire);
  record.progress = Progress::of(stored);
  const Progress& progress = record.progress;
  if (progress.word() != stored) return damaged("the check of the used index");
  const std::uint16_t size = record.ring.size;
  if (record.packed && (packed_cursor(progress.from).slot >= size || packed_cursor(progress.to).slot >= size))
    return damaged("the used index");
  const std::uint32_t moved = distance(record, progress.from, progress.to);
  if (moved > size || progress.count > moved || (progress.count == 0) != (moved == 0))
    return damaged("the range of used indices");
  std::vector<bool> seen(size);
  for (std::uint16_t i = 0; i < progress.count; ++i) {
    const std::uint16_t entry = batch_entry(i).load(std::memory_order_relaxed);
    if (entry >= size || seen[entry]) return damaged("a buffer that was being published");
    seen[entry] = true;
    record.batch.push_back(entry);
  }
  return {};
}

Status QueueRegion::read_split(QueueRecord& record) const {
  for (std::uint16_t head = 0; head < record.ring.size; ++head) {
    const std::uint64_t entry = split_entry(head).load(std::memory_order_acquire);
    if (entry == 0) continue;
    if (!sealed(entry, head)) return damaged(fmt::format("the check of head {}", head));
    record.entries.push_back({unseal(entry), head, {.head = head, .id = head, .descriptors = 1, .chain = {}}});
  }
  return {};
}

Status QueueRegion::read_packed(QueueRecord& record) const {
  std::vector<bool> seen(record.ring.size);
  std::uint32_t descriptors = 0;
  for (std::uint16_t entry = 0; entry < record.ring.size; ++entry) {
    const std::uint64_t order = packed_entry(entry, 0).load(std::memory_order_acquire);
    if (order == 0) continue;
    if (!sealed(order, entry)) return damaged(fmt::format("the check of entry {}", entry));
    QueueRecord::Entry buffer{unseal(order), entry, {}};
    OUTBOARD_CHECK(read_chain(entry, seen, buffer));
    descriptors += buffer.buffer.descriptors;
    if (descriptors > record.ring.size) return damaged("more descriptors are in flight than the ring has");
    record.entries.push_back(std::move(buffer));
  }
  return {};
}

Status QueueRegion::read_chain(std::uint16_t first, std::vector<bool>& seen, QueueRecord::Entry& into) const {
  virtio::InFlight& buffer = into.buffer;
  for (std::uint16_t entry = first; entry != none;) {
    if (entry >= seen.size() || seen[entry]) return damaged("a chain leaves the entries, or comes to one twice");
    if (entry != first && packed_entry(entry, 0).load(std::memory_order_relaxed) != 0)
      return damaged("a chain comes to another one");
    seen[entry] = true;
    const std::uint64_t address = packed_entry(entry, 1).load(std::memory_order_relaxed);
    const std::uint64_t shape = packed_entry(entry, 2).load(std::memory_order_relaxed);
    const std::uint64_t whole = packed_entry(entry, 3).load(std::memory_order_relaxed);
    if (fold16(address, shape, whole << 16 >> 16, entry) != whole >> 48)
      return damaged(fmt::format("the check of entry {}", entry));
    if (entry == first) {
      buffer.id = static_cast<std::uint16_t>(whole);
      buffer.head = static_cast<std::uint16_t>(whole >> 16);
      buffer.descriptors = static_cast<std::uint16_t>(whole >> 32);
    }
    const auto flags = static_cast<std::uint16_t>(shape >> 32);
    if ((flags & ~(spec::descriptor::write | spec::descriptor::indirect)) != 0)
      return damaged(fmt::format("the flags of entry {}", entry));
    buffer.chain.push_back({memory::Iova{address}, static_cast<std::uint32_t>(shape), flags});
    entry = static_cast<std::uint16_t>(shape >> 48);
  }
  const bool indirect = (buffer.chain.front().flags & spec::descriptor::indirect) != 0;
  if (buffer.head >= seen.size() || buffer.descriptors != buffer.chain.size() || (indirect && buffer.chain.size() != 1))
    return damaged(fmt::format("the buffer in entry {}", first));
  return {};
}

/// A buffer of the batch that is no longer in flight has been forgotten after the batch was published (J4), which the ring
/// has to confirm.
Status QueueRegion::check_batch(const QueueRecord& record) const {
  std::uint32_t in_flight = 0, used = 0;
  for (const QueueRecord::Entry& entry : record.entries) {
    if (!record.in_batch(entry.entry)) continue;
    ++in_flight;
    used += entry.buffer.descriptors;
  }
  const std::uint32_t moved = distance(record, record.progress.from, record.progress.to);
  const bool whole = in_flight == record.batch.size();
  if (used > moved || (whole && used != moved)) return damaged("the buffers that were being published");
  return {};
}

// A ring.

namespace {

/// Whether the batch was published, or the reason why the ring cannot be that of the record.
Result<bool> published_split(const QueueRecord& record, const virtio::RingPointers& ring) {
  // S6 by the process that was killed.
  const std::uint16_t used = memory::Shared<le16>(ring.device + spec::used::idx).load(std::memory_order_acquire);
  if (used == record.progress.from) return false;
  if (!record.batch.empty() && used == record.progress.to) return true;
  return misfit(fmt::format("its used index is {}, the journal's {}", used, record.progress.from));
}

/// VIRTIO 1.4, 2.8.1: a descriptor that is available has USED other than the wrap counter, a used one the same, and one
/// that the driver has made available again since then, a turn later, too.
Result<bool> published_packed(const QueueRecord& record, const virtio::RingPointers& ring) {
  if (record.entries.empty() && record.batch.empty()) return false;
  const virtio::PackedCursor at = packed_cursor(record.progress.from);
  std::byte* flags =
      ring.descriptors + at.slot * sizeof(spec::PackedDescriptor) + offsetof(spec::PackedDescriptor, flags);
  // P4 by the process that was killed.
  const std::uint16_t found = memory::Shared<le16>(flags).load(std::memory_order_acquire);
  const bool used = ((found & spec::descriptor::used) != 0) == at.wrap;
  if (used && record.batch.empty()) return misfit("a buffer has been used that is not in the journal");
  return used;
}

/// What was popped was available.
Status check_available(const virtio::QueueState& state, const virtio::RingPointers& ring) {
  const std::uint16_t available = memory::Shared<le16>(ring.driver + spec::avail::idx).load(std::memory_order_acquire);
  const auto ahead = static_cast<std::uint16_t>(available - state.next_avail);
  if (ahead > state.size - state.in_flight.size())
    return misfit(
        fmt::format("its available index is {}, and buffers before {} have been taken", available, state.next_avail));
  return {};
}

Result<virtio::RingPointers> find_ring(memory::AddressMap& memory, bool packed, const virtio::QueueState& ring,
                                       std::shared_ptr<const memory::Snapshot>& snapshot) {
  const std::array<memory::Iova, virtio::ring_parts> parts{ring.descriptors, ring.driver, ring.device};
  for (unsigned part = 0; part < virtio::ring_parts; ++part) {
    const auto layout = virtio::ring_part(packed, virtio::RingPart{static_cast<std::uint8_t>(part)}, ring.size);
    if (!virtio::legal_ring_address(parts[part], layout)) return damaged("the address of the ring");
  }
  snapshot = memory.current();
  auto found = locate_ring(*snapshot, packed, ring);
  if (found) return *found;
  for (unsigned part = 0; part < virtio::ring_parts; ++part) {
    const auto which = virtio::RingPart{static_cast<std::uint8_t>(part)};
    const auto access = which == virtio::RingPart::device ? memory::Access::write : memory::Access::read;
    memory.resolve({parts[part], virtio::ring_part(packed, which, ring.size).size}, access);
  }
  snapshot = memory.current();
  found = locate_ring(*snapshot, packed, ring);
  if (found) return *found;
  return Error(ENXIO, "its ring is not in mapped memory");
}

struct Recovered {
  virtio::QueueState state;
  bool published = false;
};

Result<Recovered> recover_queue(const QueueRecord& record, memory::AddressMap& memory) {
  std::shared_ptr<const memory::Snapshot> snapshot;  // keeps what the pointers point to
  OUTBOARD_TRY(const virtio::RingPointers ring, find_ring(memory, record.packed, record.ring, snapshot));
  OUTBOARD_TRY(const bool published, record.packed ? published_packed(record, ring) : published_split(record, ring));
  Recovered recovered{record.ring, published};
  virtio::QueueState& state = recovered.state;
  std::uint32_t descriptors = 0, of_batch = 0;
  for (const QueueRecord::Entry& entry : record.entries) {
    if (record.in_batch(entry.entry)) {
      ++of_batch;
      if (published) continue;
    }
    descriptors += entry.buffer.descriptors;
    state.in_flight.push_back(entry.buffer);
  }
  if (!published && of_batch != record.batch.size())
    return misfit("buffers that have not been published are missing from the journal");
  const std::uint16_t used = published ? record.progress.to : record.progress.from;
  if (record.packed) {
    const virtio::PackedCursor at = packed_cursor(used), next = at.plus(descriptors, state.size);
    state.next_used = at.slot;
    state.used_wrap = at.wrap;
    state.next_avail = next.slot;
    state.avail_wrap = next.wrap;
    return recovered;
  }
  state.next_used = used;
  state.next_avail = static_cast<std::uint16_t>(used + descriptors);
  OUTBOARD_CHECK(check_available(state, ring));
  return recovered;
}

}  // namespace

// The device.

Result<virtio::DeviceState> File::recover(memory::AddressMap& memory,
                                          std::span<memory::AddressMap* const> queue_memory) {
  OUTBOARD_TRY(const State::Life life, state_->life());
  virtio::DeviceState device{
      .device_id = state_->device_id, .status = life.status, .accepted = {}, .queues = {}, .device = {}};
  device.queues.resize(state_->queues.size());
  if ((life.status & spec::status::features_ok) != 0) {
    OUTBOARD_TRY(device.accepted, state_->accepted());
  }
  // Before DRIVER_OK nothing can have been popped, whatever has been made ready for it.
  if ((life.status & spec::status::driver_ok) == 0) return device;

  struct Ending {
    QueueRegion* queue;
    QueueRecord record;
    bool published;
  };
  std::vector<Ending> endings;  // when all is known to be well
  for (std::size_t index = 0; index < state_->queues.size(); ++index) {
    const auto on_queue = [&](const Error& error) {
      return Error(error).while_doing(fmt::format("recovering queue {}", index)).on(path_);
    };
    QueueRegion& queue = state_->queues[index];
    auto record = queue.read(life.epoch);
    if (!record) return on_queue(record.error());
    if (!*record) continue;
    if ((*record)->packed != device.accepted.has(virtio::Feature::ring_packed))
      return on_queue(damaged("the format of the ring is not what was negotiated"));
    memory::AddressMap* own = index < queue_memory.size() ? queue_memory[index] : nullptr;
    auto recovered = recover_queue(**record, own != nullptr ? *own : memory);
    if (!recovered) return on_queue(recovered.error());
    device.queues[index] = std::move(recovered->state);
    endings.push_back({&queue, std::move(**record), recovered->published});
  }
  for (const Ending& ending : endings) ending.queue->settle(ending.record, ending.published);
  return device;
}

}  // namespace outboard::journal
