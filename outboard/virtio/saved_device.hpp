#pragma once

#include <outboard/base/state.hpp>
#include <outboard/virtio/device_state.hpp>

/// A DeviceState (the result of DeviceCore::capture()) as bytes.
namespace outboard::virtio {

/// Section "VDEV", version 1: device ID (32 bits), status, configuration generation (8 bits each), the accepted features (four
/// words of 32 bits), the number of queues (16 bits), a section "QUEU" for each, whether the device's own state was saved (a
/// flag), and that state (bytes).
///
/// Section "QUEU", version 1: size (16 bits), the addresses of the three areas (64 bits each), enabled (a flag), next_avail,
/// next_used (16 bits each), avail_wrap, used_wrap (flags), the number of buffers in flight (16 bits), and for each: head, id,
/// descriptors (16 bits each), the number of descriptors that are kept (32 bits), and for each of those: address (64 bits),
/// length (32), flags (16).
void save(const DeviceState& state, StateWriter& writer);

/// Reads the bytes of save(), which are not trusted. EINVAL, ENOTSUP: as StateReader. DeviceCore::restore() checks whether a
/// device can continue from the state.
Result<DeviceState> load_device_state(Bytes saved);
/// The same of the next section of `from`.
Result<DeviceState> load_device_state(StateReader& from);

}  // namespace outboard::virtio
