// A device with one queue, or more, over a ring of either kind.

#pragma once

#include <memory>
#include <optional>

#include <gtest/gtest.h>

#include <outboard/virtio/internal/device_queue.hpp>
#include <tests/support/device_rig.hpp>

namespace outboard::virtio {

using memory::Access;
using memory::Iova;
using testing::DeviceRig;
using testing::HandDriver;
using testing::ScriptedDevice;

using Used = std::vector<HandDriver::Used>;

class EitherDeviceQueue : public ::testing::TestWithParam<bool> {
 protected:
  bool packed() const { return GetParam(); }
  DeviceRig& make(DeviceRig::Setup setup = {}) {
    setup.packed = packed();
    rig_ = std::make_unique<DeviceRig>(setup);
    return *rig_;
  }
  DeviceRig& running(const DeviceRig::Setup& setup = {}) {
    make(setup).run();
    return *rig_;
  }
  /// A completion that keeps the state that a queue stopped with.
  static auto into(std::optional<QueueState>& state) {
    return [&state](const Result<QueueState>& result) {
      if (result) state = result.value();
    };
  }
  /// Stops queue 0 and returns what it says.
  QueueState stop(StopMode mode) {
    std::optional<QueueState> state;
    rig_->core->stop_queue(0, mode, into(state));
    rig_->settle();
    EXPECT_TRUE(state);
    return state.value_or(QueueState{});
  }
  std::unique_ptr<DeviceRig> rig_;
};
}  // namespace outboard::virtio
