#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/options.hpp>
#include <outboard/virtio/device.hpp>
#include <outboard/virtio/features.hpp>

namespace outboard::virtio {

/// What the specification calls a feature bit of a device type, without its prefix: "FLUSH".
struct FeatureName {
  Feature bit;            ///< of the device type: 0...23, 50...127
  std::string_view name;  ///< as the chapter has it, without VIRTIO_<TYPE>_F_
  std::string_view option{};  ///< the option of the device that alone decides whether it is offered, if there is one
};

/// A kind of device that can be made from the words a person types (`serve blk --image ...`, `local:blk,image=...`).
/// Each device folder defines one in its registration.hpp, named `registration`; the table of them is generated from
/// outboard_add_device(). Constant data: no static initialisers.
struct DeviceType {
  std::string_view name;     ///< "blk"
  std::string_view summary;  ///< one line for help
  std::span<const OptionHelp> options;  ///< the words that make() takes, for help and for refusing others
  std::uint32_t device_id = 0;               ///< VIRTIO 1.4, chapter 5
  std::span<const FeatureName> features{};   ///< of the device type, for those who show them

  /// Makes a device. `words` has the device's words only: those of the transport (packed, poll, in-order and the like)
  /// have been taken out. Refuses words it does not know. `loop` is the control loop and outlives the device.
  Result<std::unique_ptr<Device>> (*make)(OptionSet& words, Loop& loop, const Log& log);
};

}  // namespace outboard::virtio
