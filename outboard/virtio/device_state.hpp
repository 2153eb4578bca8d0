#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <outboard/virtio/features.hpp>
#include <outboard/virtio/queue_state.hpp>

namespace outboard::virtio {

/// A whole device at rest: what lets another device object of the same type, or another process, go on as if nothing had
/// happened. What the transport has beside it (interrupt vectors, BARs) is the transport's to keep.
struct DeviceState {
  std::uint32_t device_id = 0;  ///< virtio device ID
  std::uint8_t status = 0;  ///< bits of spec::status, as the driver saw them
  std::uint8_t generation = 0;  ///< of the configuration
  Features accepted;  ///< as the driver wrote it, whether FEATURES_OK is set or not
  std::vector<QueueState> queues;  ///< one for each queue of the identity, enabled or not
  /// What Device::save_state() gave. Nothing: it was not asked, because the process that ran the device was killed.
  std::optional<std::vector<std::byte>> device;

  friend bool operator==(const DeviceState&, const DeviceState&) = default;
};

}  // namespace outboard::virtio
