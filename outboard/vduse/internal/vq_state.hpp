#pragma once

#include <outboard/base/result.hpp>
#include <outboard/memory/address_map.hpp>
#include <outboard/vduse/spec.hpp>
#include <outboard/virtio/queue_state.hpp>

/// The kernel's words for a queue (VDUSE_VQ_GET_INFO, GET_VQ_STATE), and those of virtio. `packed`: RING_PACKED was negotiated.
namespace outboard::vduse {

/// The ring that the driver has set up, at its first position. A driver may set it through vhost-vdpa, where the kernel does
/// not check it. EINVAL: a size above `max_size` or not allowed by VIRTIO; parts that are misaligned, wrap or overlap; a
/// position with buffers in flight.
Result<virtio::QueueState> ring_of(const spec::VqInfo& info, bool packed, std::uint16_t max_size);

/// Whether both put the queue in the same place, at the same position. The kernel's position does not move while a queue runs,
/// so another one is the driver's wish.
bool is_same_ring(const spec::VqInfo& one, const spec::VqInfo& other, bool packed);

/// Whether the whole ring is mapped. Asks the resolver of `map` for what is not.
bool is_mapped(memory::AddressMap& map, const virtio::QueueState& ring, bool packed);

/// Whether the buffers in flight are those that were popped last, in that order: then the queue can go back to the position
/// before them, and one number says where it stopped.
bool can_rewind(const memory::AddressMap& map, const virtio::QueueState& stopped, bool packed);

/// The position of a queue that has stopped and can be rewound.
spec::VqState rewound_state(const virtio::QueueState& stopped, bool packed);

}  // namespace outboard::vduse
