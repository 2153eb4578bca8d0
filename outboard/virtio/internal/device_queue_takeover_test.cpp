// A packed ring whose device was killed between writing a batch of used descriptors and publishing it: the next device
// takes back what the driver must not take for used.

#include <optional>

#include <gtest/gtest.h>

#include <tests/support/device_rig.hpp>

namespace outboard::virtio {
namespace {

using testing::DeviceRig;
using testing::HandDriver;
using Used = std::vector<HandDriver::Used>;

constexpr std::uint16_t size = 4;

/// Buffers in each slot of the ring, which begin at `first`, and go round its end.
class KilledDevice : public ::testing::TestWithParam<std::uint16_t> {
 protected:
  void SetUp() override {
    rig.run();
    for (unsigned i = 0; i < GetParam(); ++i) {
      rig.driver().chain().writable(1).publish();
      rig.process();
    }
    ASSERT_EQ(rig.driver().take_used().size(), GetParam());
    rig.device.on_request = rig.device.keep();
    for (unsigned i = 0; i < size; ++i) ids_.push_back(rig.driver().chain().writable(1).publish());
    rig.process();
    rig.core->stop_queue(0, StopMode::drain, [&](const Result<QueueState>& at) { state = at.value(); });
    ASSERT_EQ(state.in_flight.size(), size);
  }

  /// The slot of the buffer that was made available as number `index`.
  PackedCursor slot(std::uint16_t index) const {
    return PackedCursor{state.next_used, state.used_wrap}.plus(index, size);
  }
  /// What the device writes when it has used it.
  void write_used(std::uint16_t index) {
    const PackedCursor at = slot(index);
    rig.driver().put_packed(at.slot, {0, 1, static_cast<std::uint16_t>(ids_[index]),
                                      static_cast<std::uint16_t>(used_bits(at.wrap) | spec::descriptor::write)});
  }

  DeviceRig rig{{.packed = true, .size = size}};
  QueueState state;

 private:
  std::vector<std::uint32_t> ids_;
};
INSTANTIATE_TEST_SUITE_P(From, KilledDevice, ::testing::Range<std::uint16_t>(0, size));

TEST_P(KilledDevice, WhatItHasNotPublishedIsNotTakenForUsed) {
  // All but the first of its batch, whose flags would have published it.
  for (std::uint16_t index = 1; index < size; ++index) write_used(index);
  ASSERT_TRUE(rig.core->start_queue(0, state));
  rig.settle();
  ASSERT_EQ(rig.device.kept.size(), size);
  for (std::uint16_t index = 0; index < size; ++index) {
    rig.device.kept[index].complete();
    rig.settle();
    EXPECT_EQ(rig.driver().take_used().size(), 1U) << index << ", and nothing behind it";
  }
}

TEST_P(KilledDevice, WhatTheDriverWroteStaysAsItIs) {
  write_used(2);
  std::vector<spec::PackedDescriptor> before;
  for (std::uint16_t i = 0; i < size; ++i) before.push_back(rig.driver().packed_at(i));
  ASSERT_TRUE(rig.core->start_queue(0, state));
  rig.settle();
  for (std::uint16_t index = 0; index < size; ++index) {
    const PackedCursor at = slot(index);
    const spec::PackedDescriptor now = rig.driver().packed_at(at.slot);
    EXPECT_EQ(std::uint16_t{now.flags}, index == 2 ? available_bits(at.wrap) : std::uint16_t{before[at.slot].flags});
    EXPECT_EQ(std::uint16_t{now.id}, std::uint16_t{before[at.slot].id});
  }
}

}  // namespace
}  // namespace outboard::virtio
