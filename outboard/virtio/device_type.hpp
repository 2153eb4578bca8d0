#pragma once

#include <memory>
#include <span>
#include <string_view>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/options.hpp>
#include <outboard/virtio/device.hpp>

namespace outboard::virtio {

/// A kind of device that can be made from the words a person types (`serve blk --image ...`, `local:blk,image=...`).
/// Each device folder defines one in its registration.hpp, named `registration`; the table of them is generated from
/// outboard_add_device(). Constant data: no static initialisers.
struct DeviceType {
  std::string_view name;     ///< "blk"
  std::string_view summary;  ///< one line for help
  std::span<const OptionHelp> options;

  /// Makes a device. `words` has the device's words only: those of the transport (packed, poll, in-order and the like)
  /// have been taken out. Refuses words it does not know. `loop` is the control loop and outlives the device.
  Result<std::unique_ptr<Device>> (*make)(OptionSet& words, Loop& loop, const Log& log);
};

}  // namespace outboard::virtio
