// A whole device, taken from one object and given to another.

#include <optional>

#include <gtest/gtest.h>

#include <outboard/testing/device_rig.hpp>

namespace outboard::virtio {
namespace {

using testing::DeviceRig;
using testing::RingDriver;
using testing::ScriptedDevice;
namespace bit = spec::status;

constexpr std::uint8_t live = bit::acknowledge | bit::driver | bit::features_ok | bit::driver_ok;

class Captured : public ::testing::TestWithParam<bool> {
 protected:
  Captured() { rig.run(); }

  DeviceState capture() {
    std::optional<DeviceState> state;
    rig.core->capture([&](Result<DeviceState> captured) { state = captured.value(); });
    rig.settle();
    EXPECT_TRUE(state);
    return state.value_or(DeviceState{});
  }
  /// Restores into another device, which sees the same memory.
  Status restore(const DeviceState& state) {
    EXPECT_TRUE(other.map.map(rig.driver().mapping()));
    const Status restored = other.core->restore(state);
    other.settle();
    return restored;
  }

  DeviceRig rig{{.packed = GetParam()}};
  DeviceRig other{{.packed = GetParam()}};
};
INSTANTIATE_TEST_SUITE_P(Rings, Captured, ::testing::Bool(),
                         [](const auto& format) { return format.param ? "Packed" : "Split"; });

TEST_P(Captured, GoesOnElsewhereWithWhatWasInFlight) {
  rig.device.on_request = rig.device.keep();
  auto chain = rig.driver().chain();
  chain.readable("moved").writable(8).publish();
  rig.process();
  rig.device.host->config_changed(0, 4);
  const auto generation = rig.core->config_generation();

  ASSERT_TRUE(restore(capture()));
  EXPECT_EQ(other.core->status(), live);
  EXPECT_EQ(other.core->config_generation(), generation);
  EXPECT_EQ(other.device.host->negotiated(), rig.core->offered());
  EXPECT_EQ(rig.driver().take_used(), (std::vector<RingDriver::Used>{{0, 5}}));
  EXPECT_EQ(rig.driver().text(chain.at(1), 5), "moved");
}

TEST_P(Captured, AQueueThatWasResetCanBeSetUpElsewhere) {
  rig.core->reset_queue(0);
  rig.settle();
  ASSERT_TRUE(restore(capture()));
  EXPECT_FALSE(other.core->queue_enabled(0));
  rig.driver().restart();
  for (unsigned area = 0; area < 3; ++area) other.core->set_queue_address(0, area, rig.driver().address(area));
  other.core->enable_queue(0);
  EXPECT_TRUE(other.core->queue_enabled(0));
  rig.driver().chain().readable("x").writable(1).publish();
  other.process();
  EXPECT_EQ(rig.driver().used_count(), 1U);
}

TEST_P(Captured, Row68_AStateThatCannotBeIsRefusedAndNothingHasChanged) {
  const DeviceState good = capture();
  ASSERT_TRUE(other.map.map(rig.driver().mapping()));
  const auto refused = [&](auto change) {
    DeviceState bad = good;
    change(bad);
    const Status restored = other.core->restore(bad);
    return !restored && restored.error().code() == EINVAL && other.core->status() == 0 &&
           other.core->driver_features(0) == 0;
  };
  EXPECT_TRUE(refused([](DeviceState& s) { ++s.device_id; }));
  EXPECT_TRUE(refused([](DeviceState& s) { s.status |= bit::suspend; }));
  EXPECT_TRUE(refused([](DeviceState& s) { s.status = live & ~bit::features_ok; }));
  EXPECT_TRUE(refused([](DeviceState& s) { s.accepted.set(static_cast<Feature>(3)); }));
  EXPECT_TRUE(refused([](DeviceState& s) { s.accepted.clear(Feature::version_1); }));
  EXPECT_TRUE(refused([](DeviceState& s) { s.queues.pop_back(); }));
  EXPECT_TRUE(refused([](DeviceState& s) { s.queues[0].next_used = 100; }));
  EXPECT_TRUE(refused([](DeviceState& s) { s.queues[0].size = 32; }));
  EXPECT_TRUE(refused([](DeviceState& s) { s.device = {std::byte{1}}; }));
  EXPECT_TRUE(other.core->restore(good));
  EXPECT_EQ(other.core->restore(good).error().code(), EBUSY);
}

}  // namespace
}  // namespace outboard::virtio
