#include <outboard/virtio/internal/ring_memory.hpp>

#include <algorithm>

namespace outboard::virtio {

using memory::Access;
using memory::Iova;
using memory::IovaRange;

namespace {

/// What the device does to a part of a ring.
Access part_access(bool packed, RingPart part) {
  if (part == RingPart::device) return Access::write;
  return packed && part == RingPart::descriptors ? Access::read_write : Access::read;
}

struct Part {
  IovaRange range;
  Access access;
};

std::array<Part, ring_parts> parts_of(bool packed, const QueueState& ring) {
  const auto part = [&](RingPart which, Iova at) {
    return Part{{at, ring_part(packed, which, ring.size).size}, part_access(packed, which)};
  };
  return {part(RingPart::descriptors, ring.descriptors), part(RingPart::driver, ring.driver),
          part(RingPart::device, ring.device)};
}

}  // namespace

std::optional<RingPointers> locate_ring(const memory::Snapshot& snapshot, bool packed, const QueueState& ring) {
  const auto parts = parts_of(packed, ring);
  std::array<std::byte*, ring_parts> at{};
  for (std::size_t i = 0; i < ring_parts; ++i) {
    at[i] = snapshot.contiguous(parts[i].range, parts[i].access);
    if (at[i] == nullptr) return std::nullopt;
    // The I/O address is aligned, but the host memory behind it need not be.
    const std::size_t needed = std::min<std::size_t>(
        ring_part(packed, RingPart{static_cast<std::uint8_t>(i)}, ring.size).alignment, alignof(std::uint64_t));
    if (reinterpret_cast<std::uintptr_t>(at[i]) % needed != 0) return std::nullopt;
  }
  return RingPointers{at[0], at[1], at[2]};
}

std::optional<RingPointers> RingMemory::find(MemoryView& view, bool packed, const QueueState& ring) {
  auto found = locate_ring(view.snapshot(), packed, ring);
  if (!found) {
    for (const Part& part : parts_of(packed, ring)) view.look_again(part.range, part.access);
    found = locate_ring(view.snapshot(), packed, ring);
  }
  generation_ = view.generation();
  if (!found) {
    forget();
    return found;
  }
  const auto parts = parts_of(packed, ring);
  const std::byte* const at[] = {found->descriptors, found->driver, found->device};
  for (std::size_t i = 0; i < ring_parts; ++i) {
    memory_[i] = view.snapshot().find(parts[i].range.start)->memory;
    bytes_[i] = Bytes(at[i], parts[i].range.size);
    written_[i] = memory::allows(parts[i].access, Access::write) ? parts[i].range : IovaRange{};
  }
  return found;
}

void RingMemory::note_written_parts(const memory::DeviceWrites& writes) const {
  for (const IovaRange& range : written_) {
    if (range.size != 0) writes.note(range);
  }
}

void RingMemory::forget() { memory_ = {}; }

}  // namespace outboard::virtio
