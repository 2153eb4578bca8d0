#pragma once

#include <cstdint>
#include <optional>

#include <outboard/devices/example/driver.hpp>
#include <outboard/devices/example/layout.hpp>
#include <outboard/memory/dma_space.hpp>
#include <outboard/virtio/driver_queue.hpp>

namespace outboard::example {

/// The driver's side of eventq: keeps buffers with the device and reads what it puts there. Lives from one start of the
/// device to its reset. One thread.
class EventBuffers {
 public:
  static Result<EventBuffers> create(virtio::Transport& transport, const virtio::Features& features,
                                     std::uint16_t count, std::optional<unsigned> vector);

  virtio::DriverQueue& ring() { return ring_; }

  /// The next used buffer, which goes straight back to the device (publish() shows it); nullopt: none for now.
  struct Next {
    std::optional<Event> event;  ///< nullopt: there is no valid event
  };
  Result<std::optional<Next>> next();
  void abandon_memory() &&;

 private:
  EventBuffers(virtio::DriverQueue ring, memory::DmaBuffer memory);
  Status give(std::uint64_t index);
  std::optional<Event> read(std::uint64_t index, std::uint32_t length) const;

  virtio::DriverQueue ring_;
  memory::DmaBuffer memory_;
};

}  // namespace outboard::example
