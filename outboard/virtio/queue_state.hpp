#pragma once

#include <cstdint>
#include <vector>

#include <outboard/memory/iova.hpp>

namespace outboard::virtio {

/// How a queue stops.
enum class StopMode : std::uint8_t {
  drain,  ///< requests whose work is running are completed and published; kept ones stay in flight
  discard,  ///< no answer is published any more; running work ends, and its answer is dropped
};

/// A copy of a descriptor as the driver wrote it.
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
  /// Packed: the descriptors. Used descriptors of buffers that were popped later and used earlier may have overwritten their
  /// slots. Split: empty; the driver does not change the descriptors of a buffer until it is used.
  std::vector<ChainDescriptor> chain{};
  friend bool operator==(const InFlight&, const InFlight&) = default;
};

/// A buffer that has been answered: what a ring and a journal need to know.
struct UsedBuffer {
  std::uint16_t head = 0;  ///< split: descriptor index. Packed: slot in the ring where the chain starts
  std::uint16_t id = 0;  ///< what the used entry names
  std::uint16_t ring_count = 1;  ///< descriptors in the ring
  bool filled = false;  ///< every writable byte was written
  std::uint32_t length = 0;  ///< used length, bytes
};

/// The addresses of a queue's rings and the device's position in them: from this another device object, or another process, can
/// continue. The cursors are the device's.
struct QueueState {
  std::uint16_t size = 0;  ///< entries
  memory::Iova descriptors{};  ///< address of the descriptor area (VIRTIO 1.4, 2.6)
  memory::Iova driver{};  ///< the driver area: split, the available ring
  memory::Iova device{};  ///< the device area: split, the used ring
  bool enabled = false;  ///< by the driver

  std::uint16_t next_avail = 0;  ///< split: free-running index. Packed: slot
  std::uint16_t next_used = 0;  ///< likewise: the place of the next used buffer
  bool avail_wrap = true;  ///< packed only
  bool used_wrap = true;  ///< packed only
  std::vector<InFlight> in_flight;  ///< in the order they were popped

  friend bool operator==(const QueueState&, const QueueState&) = default;
};

}  // namespace outboard::virtio
