#include <outboard/virtio/saved_device.hpp>

#include <gtest/gtest.h>

namespace outboard::virtio {
namespace {

DeviceState a_state() {
  DeviceState state{.device_id = 2, .status = 0xf, .generation = 3, .accepted = {}, .queues = {}, .device = {}};
  state.accepted.set(Feature::version_1);
  state.accepted.set(Feature::ring_packed);
  state.queues.push_back({.size = 8,
                          .descriptors = memory::Iova{0x1000},
                          .driver = memory::Iova{0x2000},
                          .device = memory::Iova{0x3000},
                          .enabled = true,
                          .next_avail = 5,
                          .next_used = 3,
                          .avail_wrap = false,
                          .used_wrap = true,
                          .in_flight = {}});
  state.queues[0].in_flight.push_back(
      {.head = 3, .id = 9, .descriptors = 2, .chain = {{memory::Iova{0x8000}, 512, 2}, {memory::Iova{0x9000}, 1, 0}}});
  state.queues.emplace_back();
  state.device = {std::byte{7}, std::byte{8}};
  return state;
}

std::vector<std::byte> bytes_of(const DeviceState& state) {
  StateWriter writer;
  save(state, writer);
  return std::move(writer).finish().value();
}

TEST(SavedDevice, IsReadAsItWasWritten) {
  auto state = a_state();
  EXPECT_EQ(load_device_state(bytes_of(state)).value(), state);
  state.device.reset();
  EXPECT_EQ(load_device_state(bytes_of(state)).value(), state);
  EXPECT_EQ(load_device_state(bytes_of(DeviceState{})).value(), DeviceState{});
}

TEST(SavedDevice, EachCutIsRefused) {
  const auto bytes = bytes_of(a_state());
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(load_device_state(Bytes(bytes).first(size))) << size;
}

TEST(SavedDevice, NoByteMakesItReadBeyondItsEnd) {
  const auto good = bytes_of(a_state());
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (const int value : {0x00, 0x01, 0x7f, 0xff}) {
      auto bytes = good;
      bytes[at] = static_cast<std::byte>(value);
      const auto loaded = load_device_state(bytes);
      EXPECT_TRUE(loaded || loaded.error().code() == EINVAL || loaded.error().code() == ENOTSUP) << at;
    }
  }
}

}  // namespace
}  // namespace outboard::virtio
