// What transports other than PCI want of the core: address spaces for queues, and an end for what is in flight.

#include <gtest/gtest.h>

#include <tests/support/device_rig.hpp>

namespace outboard::virtio {
namespace {

using testing::DeviceRig;

class EitherRingOfACore : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Rings, EitherRingOfACore, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

void break_with_one_in_flight(DeviceRig& rig) {
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().readable("in flight").writable(16).publish();
  rig.process();
  rig.device.host->violation("test", "a violation");
  rig.settle();
}

TEST_P(EitherRingOfACore, VDUSE29_InFlightIsAnsweredIfTheDriverCannotBeTold) {
  DeviceRig rig({.packed = GetParam(), .options = {.answers_when_broken = true}});
  rig.run();
  break_with_one_in_flight(rig);
  rig.driver().chain().readable("later").writable(16).publish();
  rig.process();
  EXPECT_EQ(rig.device.requests, 1U);
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 1U);
  EXPECT_EQ(rig.notified[0], 1U);
}

TEST_P(EitherRingOfACore, WhereTheDriverIsToldNothingIsAnsweredAnyMore) {
  DeviceRig rig({.packed = GetParam()});
  rig.run();
  break_with_one_in_flight(rig);
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 0U);
}

TEST_P(EitherRingOfACore, AQueueWorksInItsOwnAddressSpace) {
  testing::ManualLoop loop;
  memory::AddressMap own(loop);
  DeviceRig rig({.packed = GetParam(), .queues = 2, .options = {.queue_memory = {nullptr, &own}}});
  rig.map_driver(0);
  ASSERT_TRUE(own.map(rig.driver(1).mapping()));
  rig.negotiate();
  rig.set_up_queue(0);
  rig.set_up_queue(1);
  rig.driver_ok();
  for (unsigned queue = 0; queue < 2; ++queue) {
    rig.driver(queue).chain().readable("mine").writable(4).publish();
    rig.process(queue);
    EXPECT_EQ(rig.driver(queue).used_count(), 1U) << queue;
  }
  rig.core.reset();
}

TEST_P(EitherRingOfACore, AQueueWhoseRingIsInAnotherAddressSpaceCannotStart) {
  testing::ManualLoop loop;
  memory::AddressMap own(loop);
  DeviceRig rig({.packed = GetParam(), .options = {.queue_memory = {&own}}});
  rig.map_driver();
  rig.negotiate();
  rig.set_up_queue();
  rig.driver_ok();
  EXPECT_TRUE(rig.needs_reset());
  rig.core.reset();
}

}  // namespace
}  // namespace outboard::virtio
