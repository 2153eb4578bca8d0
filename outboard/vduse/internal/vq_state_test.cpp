#include <outboard/vduse/internal/vq_state.hpp>

#include <gtest/gtest.h>

#include <outboard/testing/manual_loop.hpp>

namespace outboard::vduse {
namespace {

using virtio::QueueState;

spec::VqInfo a_queue() {
  return {.index = 0,
          .num = 16,
          .desc_addr = 0x1000,
          .driver_addr = 0x2000,
          .device_addr = 0x3000,
          .state = {.packed = {}},
          .ready = 1};
}

TEST(VqState, ASplitRingBeginsAtTheAvailableIndex) {
  auto info = a_queue();
  info.state.split.avail_index = 7;
  const auto ring = ring_of(info, false, 16);
  ASSERT_TRUE(ring);
  EXPECT_EQ(ring->next_avail, 7);
  EXPECT_EQ(ring->next_used, 7);
  EXPECT_TRUE(ring->enabled);
}

TEST(VqState, APackedRingBeginsWithNothingInFlight) {
  auto info = a_queue();
  info.state.packed = {.last_avail_counter = 0, .last_avail_idx = 5, .last_used_counter = 0, .last_used_idx = 5};
  const auto ring = ring_of(info, true, 16);
  ASSERT_TRUE(ring);
  EXPECT_EQ(ring->next_avail, 5);
  EXPECT_FALSE(ring->avail_wrap);
  info.state.packed.last_used_idx = 4;
  EXPECT_EQ(ring_of(info, true, 16).error().code(), EINVAL);
}

TEST(VqState, ASizeBeyondTheQueuesOrNoPowerOfTwoIsRefused) {
  auto info = a_queue();
  for (const std::uint32_t size : {0U, 3U, 32U, 0x10010U}) {
    info.num = size;
    EXPECT_FALSE(ring_of(info, false, 16)) << size;
  }
}

TEST(VqState, AnotherAddressSizeOrPositionIsAnotherRing) {
  for (const bool packed : {false, true}) {
    const auto one = a_queue();
    EXPECT_TRUE(is_same_ring(one, one, packed));
    auto other = one;
    other.num = 8;
    EXPECT_FALSE(is_same_ring(one, other, packed));
    other = one;
    other.device_addr += 64;
    EXPECT_FALSE(is_same_ring(one, other, packed));
    other = one;
    if (packed) {
      other.state.packed.last_used_idx = 1;
    } else {
      other.state.split.avail_index = 1;
    }
    EXPECT_FALSE(is_same_ring(one, other, packed));
  }
}

/// A packed queue of 16 slots that has popped three buffers of two descriptors and used the first `used` of them.
QueueState packed_queue(unsigned used) {
  QueueState stopped{.size = 16, .enabled = true, .next_avail = 6, .next_used = 0, .in_flight = {}};
  for (std::uint16_t i = 0; i < 3; ++i)
    stopped.in_flight.push_back({.head = static_cast<std::uint16_t>(2 * i), .descriptors = 2});
  stopped.in_flight.erase(stopped.in_flight.begin(), stopped.in_flight.begin() + used);
  stopped.next_used = static_cast<std::uint16_t>(2 * used);
  return stopped;
}

TEST(VqState, APackedQueueGoesBackBeforeTheBuffersPoppedLast) {
  outboard::testing::ManualLoop loop;
  const memory::AddressMap map(loop);
  for (const unsigned used : {0U, 1U, 3U}) {
    const QueueState stopped = packed_queue(used);
    EXPECT_TRUE(can_rewind(map, stopped, true)) << used;
    EXPECT_EQ(rewound_state(stopped, true).packed.last_avail_idx, 2 * used);
    EXPECT_EQ(rewound_state(stopped, true).packed.last_used_idx, 2 * used);
  }
}

TEST(VqState, AGapInTheMiddleIsNoOnePosition) {
  outboard::testing::ManualLoop loop;
  const memory::AddressMap map(loop);
  QueueState stopped = packed_queue(0);
  stopped.in_flight.erase(stopped.in_flight.begin() + 1);
  EXPECT_FALSE(can_rewind(map, stopped, true));
}

}  // namespace
}  // namespace outboard::vduse
