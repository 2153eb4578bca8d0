#include <outboard/journal/internal/queue_region.hpp>

#include <array>
#include <cstring>

#include <outboard/virtio/spec.hpp>

/// The stores of a running queue. Their order is what recovery relies on; a kill may come between any two.
namespace outboard::journal {

using namespace layout;  // NOLINT(google-build-using-namespace): the layout of this very file
namespace spec = virtio::spec;

QueueRegion::QueueRegion(std::byte* region, std::uint16_t max_size)
    : region_(region), entries_(queue_entries(max_size)), max_size_(max_size) {}

void QueueRegion::store_progress(const Progress& progress) const {
  word(offsetof(Queue, progress)).store(progress.word(), std::memory_order_release);
}

// The four points.

/// J2: the chain first; then the first entry's number, which makes it count.
void QueueRegion::popped_packed(const virtio::InFlight& buffer) {
  std::uint16_t next = none;
  for (auto descriptor = buffer.chain.rbegin(); descriptor != buffer.chain.rend(); ++descriptor) {
    const std::uint16_t entry = free_.back();
    free_.pop_back();
    const std::uint64_t address = raw(descriptor->address);
    const std::uint64_t shape =
        std::uint64_t{descriptor->length} | std::uint64_t{descriptor->flags} << 32 | std::uint64_t{next} << 48;
    const std::uint64_t whole =
        std::uint64_t{buffer.id} | std::uint64_t{buffer.head} << 16 | std::uint64_t{buffer.descriptors} << 32;
    const std::uint64_t check = fold16(address, shape, whole, entry);
    packed_entry(entry, 1).store(address, std::memory_order_relaxed);
    packed_entry(entry, 2).store(shape, std::memory_order_relaxed);
    packed_entry(entry, 3).store(whole | check << 48, std::memory_order_relaxed);
    next = entry;
  }
  packed_entry(next, 0).store(seal(++order_, next), std::memory_order_release);
  below_[next] = first_at_[buffer.head];
  first_at_[buffer.head] = next;
}

/// The first entry of a buffer that is used, which is forgotten here. There may be several that start at the same slot: one
/// that has been in flight for longer than the ring took to go round.
std::uint16_t QueueRegion::take_entry(const virtio::UsedBuffer& buffer) {
  std::uint16_t* link = &first_at_[buffer.head];
  while (*link != none) {
    const std::uint16_t entry = *link;
    const std::uint64_t whole = packed_entry(entry, 3).load(std::memory_order_relaxed);
    if (static_cast<std::uint16_t>(whole) == buffer.id) {
      *link = below_[entry];
      return entry;
    }
    link = &below_[entry];
  }
  return none;
}

/// J3: the batch first; then the word that makes it count. After that the ring tells whether it has been published.
void QueueRegion::publishing(std::span<const virtio::UsedBuffer> batch, std::uint16_t next_used, bool used_wrap) {
  std::uint16_t count = 0;
  if (packed_) {
    batch_.clear();
    for (const virtio::UsedBuffer& buffer : batch) {
      const std::uint16_t entry = take_entry(buffer);
      if (entry == none) continue;  // it was never popped: nothing to forget
      batch_.push_back(entry);
      batch_entry(count++).store(entry, std::memory_order_relaxed);
    }
  } else {
    for (const virtio::UsedBuffer& buffer : batch) batch_entry(count++).store(buffer.head, std::memory_order_relaxed);
  }
  store_progress({.from = used_, .to = cursor(next_used, used_wrap), .count = count});
}

/// J4: each buffer of the batch, then the word that says that there is none. Done in part, it can be done again.
void QueueRegion::published(std::span<const virtio::UsedBuffer> batch, std::uint16_t next_used, bool used_wrap) {
  used_ = cursor(next_used, used_wrap);
  if (!packed_) {
    for (const virtio::UsedBuffer& buffer : batch) split_entry(buffer.head).store(0, std::memory_order_release);
    store_progress({.from = used_, .to = used_, .count = 0});
    return;
  }
  for (const std::uint16_t entry : batch_) packed_entry(entry, 0).store(0, std::memory_order_release);
  store_progress({.from = used_, .to = used_, .count = 0});
  for (std::uint16_t entry : batch_) {
    while (entry != none) {
      free_.push_back(entry);
      entry = static_cast<std::uint16_t>(packed_entry(entry, 2).load(std::memory_order_relaxed) >> 48);
    }
  }
}

// Start.

void QueueRegion::clear() { word(offsetof(Queue, run)).store(0, std::memory_order_release); }

void QueueRegion::start(const virtio::QueueState& state, bool packed, std::uint32_t epoch) {
  if (!says(state, packed, epoch)) {
    packed_ = packed;
    write(state, epoch);
  }
  const auto record = read(epoch);
  if (record && *record) adopt(**record);
}

bool QueueRegion::says(const virtio::QueueState& state, bool packed, std::uint32_t epoch) const {
  const auto record = read(epoch);
  if (!record || !*record || (*record)->packed != packed || (*record)->progress.count != 0) return false;
  virtio::QueueState said = (*record)->ring;
  const std::uint16_t used = (*record)->progress.to;
  said.next_used = packed ? static_cast<std::uint16_t>(used & spec::event::offset_mask) : used;
  said.used_wrap = packed ? (used & spec::event::wrap) != 0 : state.used_wrap;
  for (const QueueRecord::Entry& entry : (*record)->entries) said.in_flight.push_back(entry.buffer);
  // These follow from what is compared.
  said.next_avail = state.next_avail;
  said.avail_wrap = state.avail_wrap;
  return said == state;
}

/// J5: void first, counting last.
void QueueRegion::write(const virtio::QueueState& state, std::uint32_t epoch) {
  clear();
  for (std::uint16_t entry = 0; entry < state.size; ++entry)
    order_of(packed_, entry).store(0, std::memory_order_relaxed);
  order_ = 0;
  free_.clear();
  first_at_.assign(packed_ ? state.size : 0, none);
  below_.assign(packed_ ? state.size : 0, none);
  if (packed_) {
    for (std::uint16_t entry = state.size; entry != 0; --entry) free_.push_back(static_cast<std::uint16_t>(entry - 1));
  }
  for (const virtio::InFlight& buffer : state.in_flight) popped(buffer);
  used_ = cursor(state.next_used, state.used_wrap);
  store_progress({.from = used_, .to = used_, .count = 0});

  Queue head{};
  head.run = seal(epoch, run_place);
  head.size = state.size;
  head.format = packed_ ? packed_ring : split_ring;
  head.descriptors = raw(state.descriptors);
  head.driver = raw(state.driver);
  head.device = raw(state.device);
  word16(offsetof(Queue, size)).store(head.size, std::memory_order_relaxed);
  word16(offsetof(Queue, format)).store(head.format, std::memory_order_relaxed);
  word(offsetof(Queue, descriptors)).store(head.descriptors, std::memory_order_relaxed);
  word(offsetof(Queue, driver)).store(head.driver, std::memory_order_relaxed);
  word(offsetof(Queue, device)).store(head.device, std::memory_order_relaxed);
  word32(offsetof(Queue, checksum))
      .store(crc32c(as_bytes_of(head).first(offsetof(Queue, progress))), std::memory_order_relaxed);
  word(offsetof(Queue, run)).store(head.run, std::memory_order_release);
}

void QueueRegion::adopt(const QueueRecord& record) {
  packed_ = record.packed;
  used_ = record.progress.to;
  order_ = record.entries.empty() ? 0 : record.entries.back().order;
  free_.clear();
  batch_.clear();
  if (!packed_) return;
  const std::uint16_t size = record.ring.size;
  batch_.reserve(size);
  first_at_.assign(size, none);
  below_.assign(size, none);
  std::vector<bool> taken(size);
  for (const QueueRecord::Entry& buffer : record.entries) {
    below_[buffer.entry] = first_at_[buffer.buffer.head];
    first_at_[buffer.buffer.head] = buffer.entry;
    for (std::uint16_t entry = buffer.entry; entry != none;) {
      taken[entry] = true;
      entry = static_cast<std::uint16_t>(packed_entry(entry, 2).load(std::memory_order_relaxed) >> 48);
    }
  }
  for (std::uint16_t entry = size; entry != 0; --entry) {
    if (!taken[entry - 1U]) free_.push_back(static_cast<std::uint16_t>(entry - 1));
  }
}

void QueueRegion::settle(const QueueRecord& record, bool published) {
  if (record.batch.empty()) return;
  if (published) {
    for (const std::uint16_t entry : record.batch)
      order_of(record.packed, entry).store(0, std::memory_order_release);  // J4
  }
  const std::uint16_t used = published ? record.progress.to : record.progress.from;
  store_progress({.from = used, .to = used, .count = 0});
}

}  // namespace outboard::journal
