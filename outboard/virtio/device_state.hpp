#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <outboard/virtio/features.hpp>
#include <outboard/virtio/queue_state.hpp>

namespace outboard::virtio {

/// The state of a stopped device, from which another device object of the same type, or another process, can continue without
/// the driver noticing. The transport saves its own state (interrupt vectors, BARs) itself.
struct DeviceState {
  std::uint32_t device_id = 0;  ///< virtio device ID
  std::uint8_t status = 0;  ///< bits of spec::status, as the driver reads them
  std::uint8_t generation = 0;  ///< of the configuration
  Features accepted;  ///< the features that the driver has written; also without FEATURES_OK
  std::vector<QueueState> queues;  ///< one for each queue of the identity, enabled or not
  /// The result of Device::save_state(); nullopt: it was not called, because the process that ran the device was killed.
  std::optional<std::vector<std::byte>> device;

  friend bool operator==(const DeviceState&, const DeviceState&) = default;
};

}  // namespace outboard::virtio
