// One pass of a queue is bounded, in requests and in bytes: others on the loop have their turn.

#include <memory>

#include <gtest/gtest.h>

#include <outboard/virtio/internal/device_queue.hpp>
#include <tests/support/device_rig.hpp>

namespace outboard::virtio {
namespace {

using testing::DeviceRig;

constexpr std::uint32_t half_of_a_pass = static_cast<std::uint32_t>(DeviceQueue::max_pass_bytes / 2);

constexpr std::uint32_t max_chain = 1U << 14;

class OnePass : public ::testing::TestWithParam<bool> {
 protected:
  OnePass() : rig({.packed = GetParam(), .without = Features{Feature::event_idx}, .max_chain = max_chain}) {
    rig.run();
  }

  /// What one turn of the loop hands to the device.
  unsigned of_a_turn() {
    const unsigned before = rig.device.requests;
    rig.loop.run_once();
    return rig.device.requests - before;
  }
  void answer_at_once() {
    rig.device.on_request = [](Request request) { request.complete(); };
  }

  DeviceRig rig;
};
INSTANTIATE_TEST_SUITE_P(Rings, OnePass, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

TEST_P(OnePass, EndsThoughTheDriverGoesOnAddingBuffers) {
  answer_at_once();
  unsigned added = 0;
  rig.on_notify = [&](unsigned) {
    rig.driver().take_used();
    if (++added < 1000) rig.driver().chain().writable(1).publish();
  };
  rig.driver().chain().writable(1).publish();
  rig.core->kick(0);
  EXPECT_EQ(of_a_turn(), rig.driver().size());
  EXPECT_EQ(of_a_turn(), rig.driver().size()) << "and goes on at the next turn, without a kick";
}

TEST_P(OnePass, EndsWhenTheRequestsHaveEnoughBytes) {
  answer_at_once();
  const auto at = rig.driver().allocate(half_of_a_pass);
  for (unsigned i = 0; i < 5; ++i) rig.driver().chain().writable_at(at, half_of_a_pass).publish();
  rig.core->kick(0);
  for (const unsigned expected : {2U, 2U, 1U, 0U}) EXPECT_EQ(of_a_turn(), expected);
  EXPECT_EQ(rig.driver().used_count(), 5U);
}

TEST_P(OnePass, EndsAfterSoManySmallRequestsWhateverTheSizeOfTheQueue) {
  constexpr unsigned size = 2 * DeviceQueue::max_pass_requests;
  DeviceRig large({.packed = GetParam(), .size = size});
  large.run();
  large.device.on_request = [](Request request) { request.complete(); };
  for (unsigned i = 0; i < size; ++i) large.driver().chain().writable(1).publish();
  large.core->kick(0);
  large.loop.run_once();
  EXPECT_EQ(large.device.requests, DeviceQueue::max_pass_requests);
  large.loop.run_once();
  EXPECT_EQ(large.device.requests, size);
}

TEST_P(OnePass, TakesSmallRequestsBehindTheLastBytesAndNoOtherOne) {
  answer_at_once();
  const auto at = rig.driver().allocate(half_of_a_pass);
  const auto add = [&](std::uint32_t length) { rig.driver().chain().writable_at(at, length).publish(); };
  for (unsigned i = 0; i < 2; ++i) add(half_of_a_pass);
  add(Chain::small_bytes);
  add(Chain::small_bytes + 1);
  add(1);
  rig.core->kick(0);
  EXPECT_EQ(of_a_turn(), 3U);
  EXPECT_EQ(of_a_turn(), 2U);
}

TEST_P(OnePass, HandsOverOneRequestHoweverLargeItIs) {
  answer_at_once();
  const auto at = rig.driver().allocate(half_of_a_pass);
  for (unsigned i = 0; i < 2; ++i) {
    auto chain = rig.driver().chain();
    chain.indirect();
    for (unsigned element = 0; element < 8; ++element) chain.readable_at(at, half_of_a_pass);
    chain.writable(1).publish();
  }
  rig.core->kick(0);
  EXPECT_EQ(of_a_turn(), 1U);
  EXPECT_EQ(of_a_turn(), 1U);
  EXPECT_EQ(rig.driver().used_count(), 2U);
}

TEST_P(OnePass, CountsElementsWhichTakeTimeThoughTheyAreEmpty) {
  answer_at_once();
  constexpr unsigned in_a_pass =
      static_cast<unsigned>(DeviceQueue::max_pass_bytes / DeviceQueue::element_cost) / max_chain;
  static_assert(in_a_pass == 4);
  for (unsigned i = 0; i < in_a_pass + 1; ++i) {
    auto chain = rig.driver().chain();
    chain.indirect();
    for (unsigned element = 0; element < max_chain; ++element) chain.readable_at(memory::Iova{0}, 0);
    chain.publish();
  }
  rig.core->kick(0);
  EXPECT_EQ(of_a_turn(), in_a_pass);
  EXPECT_EQ(of_a_turn(), 1U);
  EXPECT_EQ(rig.driver().used_count(), in_a_pass + 1);
}

TEST_P(OnePass, OfAPollingQueueEndsToo) {
  DeviceRig polling({.packed = GetParam(), .options = {.poll = true}});
  polling.run();
  polling.device.on_request = [](Request request) { request.complete(); };
  const auto at = polling.driver().allocate(half_of_a_pass);
  for (unsigned i = 0; i < 5; ++i) polling.driver().chain().writable_at(at, half_of_a_pass).publish();
  polling.loop.run_once();
  EXPECT_EQ(polling.device.requests, 2U);
}

}  // namespace
}  // namespace outboard::virtio
