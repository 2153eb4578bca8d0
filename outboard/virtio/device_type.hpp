#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/options.hpp>
#include <outboard/virtio/device.hpp>
#include <outboard/virtio/names.hpp>

namespace outboard::virtio {

/// A type of virtio device that is created from options (`serve blk --image ...`, `local:blk,image=...`).
/// Each device folder defines one in its registration.hpp, named `registration`; the table of them is generated from
/// outboard_add_device(). Constant data: no static initialisers.
struct DeviceType {
  std::string_view name;     ///< "blk"
  std::string_view summary;  ///< one line for help
  std::span<const OptionHelp> options;  ///< the options of make(), for help and for refusing others
  std::uint32_t device_id = 0;               ///< VIRTIO 1.4, chapter 5
  std::span<const FeatureName> features{};   ///< of the device type: 0...23, 50...127; for display

  /// Makes a device. `set` has the device's own options only; those of the transport (packed, poll, in-order and so on) have been
  /// taken out. EINVAL: an unknown option. `loop` is the control loop and outlives the device.
  Result<std::unique_ptr<Device>> (*make)(OptionSet& set, Loop& loop, const Log& log);
};

}  // namespace outboard::virtio
