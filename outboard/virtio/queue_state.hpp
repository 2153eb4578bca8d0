#pragma once

#include <cstdint>
#include <vector>

#include <outboard/memory/iova.hpp>

namespace outboard::virtio {

/// How a queue is to come to rest.
enum class StopMode : std::uint8_t {
  drain,  ///< requests with back-end work running are finished and published; kept ones are given up and stay in flight
  discard,  ///< no answer is published any more; what is running ends for itself, its answer dropped
};

/// A descriptor as the driver wrote it, once it is the device's own.
struct ChainDescriptor {
  memory::Iova address{};  ///< of the element, or of the indirect table
  std::uint32_t length = 0;  ///< bytes
  std::uint16_t flags = 0;  ///< spec::descriptor::write, spec::descriptor::indirect
  friend bool operator==(const ChainDescriptor&, const ChainDescriptor&) = default;
};

/// A buffer that was popped and not used yet.
struct InFlight {
  std::uint16_t head = 0;  ///< split: descriptor index. Packed: slot in the ring where the chain starts
  std::uint16_t id = 0;  ///< packed: the buffer id
  std::uint16_t descriptors = 1;  ///< packed: ring slots the chain takes
  /// Packed: the descriptors themselves. The slots they were in may have been overwritten by used descriptors of
  /// buffers that were popped later and finished earlier. Split: empty; the driver leaves its table alone until a
  /// buffer is used.
  std::vector<ChainDescriptor> chain{};
  friend bool operator==(const InFlight&, const InFlight&) = default;
};

/// A buffer that has been answered, as a ring and a journal need it.
struct UsedBuffer {
  std::uint16_t head = 0;  ///< split: descriptor index. Packed: slot in the ring where the chain starts
  std::uint16_t id = 0;  ///< what the used entry names
  std::uint16_t ring_count = 1;  ///< descriptors in the ring
  bool filled = false;  ///< every writable byte was written
  std::uint32_t length = 0;  ///< used length, bytes
};

/// Where a queue's rings are and how far its device got: everything that lets another device object, or another
/// process, go on. Cursors are those of the device.
struct QueueState {
  std::uint16_t size = 0;  ///< entries
  memory::Iova descriptors{};  ///< where the driver put the descriptor area (VIRTIO 1.4, 2.6)
  memory::Iova driver{};  ///< the driver area: split, the available ring
  memory::Iova device{};  ///< the device area: split, the used ring
  bool enabled = false;  ///< by the driver

  std::uint16_t next_avail = 0;  ///< split: free-running index. Packed: slot
  std::uint16_t next_used = 0;  ///< likewise: where the next used buffer goes
  bool avail_wrap = true;  ///< packed only
  bool used_wrap = true;  ///< packed only
  std::vector<InFlight> in_flight;  ///< in the order they were popped

  friend bool operator==(const QueueState&, const QueueState&) = default;
};

}  // namespace outboard::virtio
