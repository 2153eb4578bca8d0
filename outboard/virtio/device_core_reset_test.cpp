// Resets and stops of a device that has requests out. VD-n is a row of docs/spec-map.md.

#include <functional>
#include <optional>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tests/support/device_rig.hpp>

namespace outboard::virtio {
namespace {

using memory::Iova;
using testing::DeviceRig;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
namespace bit = spec::status;

constexpr std::uint8_t s1 = bit::acknowledge, s4 = s1 | bit::driver | bit::features_ok | bit::driver_ok;
constexpr std::uint8_t needs_reset = bit::needs_reset;

class Resetting : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    rig.run();
    rig.device.on_request = rig.device.keep();
    rig.device.gives_up_kept = false;  // as when a back end is working on them
    chain_.writable(16).publish();
    rig.process();
    ASSERT_EQ(rig.device.kept.size(), 1U);
  }
  DeviceRig rig{{.packed = GetParam()}};
  testing::HandDriver::Chain chain_ = rig.driver().chain();
};
INSTANTIATE_TEST_SUITE_P(Rings, Resetting, ::testing::Bool(),
                         [](const auto& format) { return format.param ? "Packed" : "Split"; });

TEST_P(Resetting, VD51_StatusIsNotZeroBeforeTheLastRequestHasEnded) {
  rig.core->write_status(0);
  rig.settle();
  EXPECT_EQ(rig.core->status(), s4);
  rig.core->write_status(s1);  // ignored meanwhile
  EXPECT_EQ(rig.core->status(), s4);

  ASSERT_TRUE(rig.device.kept[0].write(le64{0x1111}));  // the back end is not done yet
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.core->status(), 0);
  EXPECT_EQ(rig.driver().used_count(), 0U);
  EXPECT_EQ(rig.notified[0], 0U);
}

TEST_P(Resetting, VD51_AfterStatusIsZeroNothingChangesMemory) {
  rig.device.gives_up_kept = true;
  rig.core->write_status(0);
  ASSERT_EQ(rig.core->status(), 0);
  EXPECT_TRUE(rig.device.kept.empty());
  const std::string before(rig.driver().text(memory::Iova{0x100000}, testing::HandDriver::memory_size));
  rig.process();
  rig.settle();
  EXPECT_EQ(rig.driver().text(memory::Iova{0x100000}, testing::HandDriver::memory_size), before);
}

TEST_P(Resetting, WhatDoesNotEndInTimeBreaksTheDeviceAndResetsItWhenItEnds) {
  std::vector<int> results;
  rig.core->reset([&](const Status& status) { results.push_back(status ? 0 : status.error().code()); });
  rig.loop.advance(std::chrono::milliseconds(1999));
  EXPECT_TRUE(results.empty());
  rig.loop.advance(std::chrono::milliseconds(2));
  EXPECT_EQ(results, (std::vector<int>{ETIMEDOUT}));
  EXPECT_TRUE(rig.needs_reset());
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.core->status(), 0);
  EXPECT_FALSE(rig.core->broken());
  EXPECT_EQ(results.size(), 1U);
}

TEST_P(Resetting, WhoeverWaitsForADeviceThatIsLateIsToldInTimeToo) {
  rig.core->reset_queue(0);
  rig.loop.advance(std::chrono::milliseconds(2001));
  ASSERT_FALSE(rig.needs_reset()) << "only the reset of the device is urgent";
  std::vector<int> results;
  const auto note = [&](const Status& status) { results.push_back(status ? 0 : status.error().code()); };
  rig.core->reset(note);
  rig.loop.advance(std::chrono::milliseconds(2001));
  EXPECT_EQ(results, (std::vector<int>{ETIMEDOUT}));
  EXPECT_TRUE(rig.needs_reset());
  rig.core->reset(note);
  rig.core->stop(StopMode::drain, note);
  rig.loop.advance(std::chrono::milliseconds(2001));
  EXPECT_EQ(results, (std::vector<int>{ETIMEDOUT, ETIMEDOUT, ETIMEDOUT}));
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.core->status(), 0);
  EXPECT_EQ(results.size(), 3U);
}

TEST_P(Resetting, TheEndOfAResetThatIsLateIsTold) {
  unsigned ended = 0;
  rig.core->after_reset([&] { ++ended; });
  EXPECT_EQ(ended, 1U) << "none is under way";
  rig.core->reset([](const Status&) {});
  rig.core->after_reset([&] { ++ended; });
  rig.loop.advance(std::chrono::seconds(10));
  EXPECT_EQ(ended, 1U);
  rig.negotiate();
  rig.set_up_queue();
  rig.driver_ok();
  EXPECT_EQ(rig.core->status(), s4 | needs_reset) << "no driver starts anything meanwhile";
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(ended, 2U);
  EXPECT_EQ(rig.core->status(), 0);
  EXPECT_EQ(rig.driver().used_count(), 0U);
}

TEST_P(Resetting, AQueueResetThatIsLateReadsOneUntilItEnds) {
  rig.core->reset_queue(0);
  rig.loop.advance(std::chrono::seconds(10));
  EXPECT_TRUE(rig.core->queue_resetting(0));
  EXPECT_TRUE(rig.core->queue_enabled(0));
  EXPECT_EQ(rig.core->status(), s4) << "nothing is lost by waiting";
  ASSERT_THAT(rig.log, SizeIs(1));
  EXPECT_THAT(rig.log[0], HasSubstr("queue 0: requests did not end in time"));
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_FALSE(rig.core->queue_resetting(0));
  EXPECT_FALSE(rig.core->queue_enabled(0));
  EXPECT_EQ(rig.driver().used_count(), 0U);

  rig.driver().restart();
  rig.device.on_request = testing::ScriptedDevice::echo;
  rig.set_up_queue();
  rig.driver().chain().readable("y").writable(1).publish();
  rig.process();
  EXPECT_EQ(rig.driver().used_count(), 1U);
  EXPECT_EQ(rig.core->status(), s4);
}

TEST_P(Resetting, ALateQueueResetIsLoggedOnceThoughADrainWasLateBefore) {
  rig.core->stop_queue(0, StopMode::drain, [](const Result<QueueState>&) {});
  rig.loop.advance(std::chrono::milliseconds(1000));
  rig.core->reset_queue(0);
  rig.loop.advance(std::chrono::milliseconds(1500));
  EXPECT_THAT(rig.log, IsEmpty()) << "the drain is over, and the reset has time";
  rig.loop.advance(std::chrono::seconds(10));
  EXPECT_THAT(rig.log, ElementsAre(HasSubstr("the reset of the queue ends when they have")));
}

TEST_P(Resetting, AStopThatIsLateBreaksWhatWasToldToDiscardOnly) {
  for (const StopMode mode : {StopMode::drain, StopMode::discard}) {
    std::vector<int> results;
    rig.core->stop(mode, [&](const Status& status) { results.push_back(status ? 0 : status.error().code()); });
    rig.loop.advance(std::chrono::milliseconds(2001));
    EXPECT_THAT(results, ElementsAre(ETIMEDOUT));
    EXPECT_EQ(rig.needs_reset(), mode == StopMode::discard);
  }
}

TEST_P(Resetting, ADrainThatIsLateIsUndone) {
  std::vector<int> results;
  const auto note = [&](const Result<QueueState>& state) { results.push_back(state ? 0 : state.error().code()); };
  rig.core->stop_queue(0, StopMode::drain, note);
  rig.driver().chain().readable("next").writable(4).publish();
  rig.process();
  rig.loop.advance(std::chrono::milliseconds(2001));
  EXPECT_EQ(results, (std::vector<int>{ETIMEDOUT}));
  EXPECT_EQ(rig.core->status(), s4) << "the driver hears nothing of it";
  rig.device.on_request = testing::ScriptedDevice::echo;
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 2U) << "what was running, and what has come meanwhile, without a kick";
  EXPECT_EQ(results.size(), 1U);
}

TEST_P(Resetting, EachStopHasItsWholeTime) {
  for (const StopMode mode : {StopMode::drain, StopMode::discard}) {
    DeviceRig one({.packed = GetParam()});
    one.run();
    one.device.on_request = one.device.keep();
    one.device.gives_up_kept = false;
    const auto begin_one = [&] {
      one.device.kept.clear();
      one.driver().chain().writable(4).publish();
      one.process();
      ASSERT_EQ(one.device.kept.size(), 1U);
    };
    begin_one();
    std::optional<QueueState> state;
    one.core->stop_queue(0, mode, [&](const Result<QueueState>& stopped) { state = stopped.value(); });
    one.loop.advance(std::chrono::milliseconds(1500));
    one.device.kept[0].complete();
    one.settle();
    ASSERT_TRUE(state);
    state->in_flight.clear();
    state->next_used = state->next_avail;
    state->used_wrap = state->avail_wrap;
    ASSERT_TRUE(one.core->start_queue(0, *state));
    begin_one();

    std::vector<int> results;
    for (std::size_t again = 0; again < 2; ++again) {
      one.core->stop_queue(0, mode,
                           [&](const Result<QueueState>& at) { results.push_back(at ? 0 : at.error().code()); });
      one.loop.advance(std::chrono::milliseconds(1999));
      EXPECT_EQ(results.size(), again) << "not yet";
      one.loop.advance(std::chrono::milliseconds(2));
      EXPECT_EQ(results.size(), again + 1);
    }
    EXPECT_THAT(results, ElementsAre(ETIMEDOUT, ETIMEDOUT));
  }
}

TEST_P(Resetting, ADrainThatIsLateAndWantedAgainIsNotUndone) {
  const auto ignore = [](const Result<QueueState>&) {};
  rig.core->stop_queue(0, StopMode::drain, ignore);
  rig.loop.advance(std::chrono::milliseconds(2001));
  std::optional<QueueState> state;
  rig.core->stop_queue(0, StopMode::drain, [&](const Result<QueueState>& at_rest) { state = at_rest.value(); });
  rig.device.kept[0].complete();
  rig.settle();
  ASSERT_TRUE(state);
  rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_EQ(rig.device.requests, 1U);
}

TEST_P(Resetting, ADrainThatIsLateIsUndoneNoMoreAfterAReset) {
  rig.core->stop_queue(0, StopMode::drain, [](const Result<QueueState>&) {});
  rig.loop.advance(std::chrono::milliseconds(2001));
  rig.core->write_status(0);
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.core->status(), 0);
  EXPECT_FALSE(rig.core->queue_enabled(0));
}

// A drain that a driver turns into a discard.

TEST_P(Resetting, ADrainThatBecomesADiscardIsToldToTheDevice) {
  const std::function<void(DeviceCore&)> drains[] = {
      [](DeviceCore& core) { core.stop_queue(0, StopMode::drain, [](const Result<QueueState>&) {}); },
      [](DeviceCore& core) { core.capture([](const Result<DeviceState>&) {}); }};
  const std::function<void(DeviceCore&)> discards[] = {
      [](DeviceCore& core) { core.write_status(0); }, [](DeviceCore& core) { core.reset([](const Status&) {}); },
      [](DeviceCore& core) { core.reset_queue(0); },
      [](DeviceCore& core) { core.stop(StopMode::discard, [](const Status&) {}); }};
  for (const auto& drain : drains) {
    for (const auto& discard : discards) {
      for (const bool is_late : {false, true}) {
        DeviceRig other({.packed = GetParam()});
        other.run();
        other.device.on_request = other.device.keep();
        other.device.gives_up_kept = false;
        other.driver().chain().writable(16).publish();
        other.process();
        drain(*other.core);
        other.loop.advance(is_late ? std::chrono::milliseconds(2001) : std::chrono::milliseconds(1));
        EXPECT_THAT(other.device.discarded, IsEmpty());
        discard(*other.core);
        other.settle();
        EXPECT_THAT(other.device.discarded, ElementsAre(0)) << "what can be cancelled is";
        discard(*other.core);
        EXPECT_THAT(other.device.discarded, ElementsAre(0)) << "once";
        other.device.kept[0].complete();
        other.settle();
        EXPECT_EQ(other.driver().used_count(), 0U);
        EXPECT_EQ(other.device.discarded.size(), 1U);
      }
    }
  }
}

TEST_P(Resetting, ADeviceThatHasNotBeenToldOfTheDrainIsToldOfADiscard) {
  testing::ManualLoop queue_loop;
  DeviceRig other({.packed = GetParam(), .options = {.queue_loops = {&queue_loop}}});
  other.run();
  std::vector<StopMode> stops;
  other.device.on_stop = [&](StopMode mode) { stops.push_back(mode); };
  other.core->stop_queue(0, StopMode::drain, [](const Result<QueueState>&) {});
  other.core->write_status(0);
  while (queue_loop.run_until_idle() || other.loop.run_until_idle()) continue;
  EXPECT_THAT(stops, ElementsAre(StopMode::discard));
  EXPECT_THAT(other.device.discarded, IsEmpty());
  EXPECT_EQ(other.core->status(), 0);
}

TEST_P(Resetting, ADiscardHasItsWholeTimeAlsoWhereADrainCameFirst) {
  std::vector<int> drained, reset;
  rig.core->stop_queue(0, StopMode::drain,
                       [&](const Result<QueueState>& at) { drained.push_back(at ? 0 : at.error().code()); });
  rig.loop.advance(std::chrono::milliseconds(1500));
  rig.core->reset([&](const Status& status) { reset.push_back(status ? 0 : status.error().code()); });
  rig.loop.advance(std::chrono::milliseconds(1999));
  EXPECT_THAT(drained, ElementsAre(ETIMEDOUT)) << "in its own time";
  EXPECT_THAT(reset, IsEmpty());
  EXPECT_FALSE(rig.needs_reset());
  rig.loop.advance(std::chrono::milliseconds(2));
  EXPECT_THAT(reset, ElementsAre(ETIMEDOUT));
  EXPECT_TRUE(rig.needs_reset());
}

TEST_P(Resetting, EachResetHasItsWholeTime) {
  std::vector<int> results;
  const auto note = [&](const Status& status) { results.push_back(status ? 0 : status.error().code()); };
  rig.core->reset_queue(0);
  rig.loop.advance(std::chrono::milliseconds(1000));
  for (int i = 0; i < 2; ++i) {
    rig.core->reset(note);
    rig.loop.advance(std::chrono::milliseconds(500));
  }
  EXPECT_FALSE(rig.needs_reset()) << "the queue is late, and the resets are not";
  EXPECT_THAT(results, IsEmpty());
  rig.loop.advance(std::chrono::milliseconds(1001));
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_THAT(results, ElementsAre(ETIMEDOUT));
  rig.loop.advance(std::chrono::milliseconds(500));
  EXPECT_THAT(results, ElementsAre(ETIMEDOUT, ETIMEDOUT));
  rig.core->reset(note);
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_THAT(results, ElementsAre(ETIMEDOUT, ETIMEDOUT, 0));
  rig.loop.advance(std::chrono::seconds(10));
  EXPECT_EQ(results.size(), 3U);
}

TEST_P(Resetting, TheQueueAloneCanBeReset) {
  rig.core->reset_queue(0);
  rig.settle();
  EXPECT_TRUE(rig.core->queue_resetting(0));
  EXPECT_TRUE(rig.core->queue_enabled(0));
  rig.core->set_queue_size(0, 8);
  EXPECT_EQ(rig.core->queue_size(0), 16);

  // VD-50: both read 0 when it is drained, and there is no later used entry or notification.
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_FALSE(rig.core->queue_resetting(0));
  EXPECT_FALSE(rig.core->queue_enabled(0));
  EXPECT_EQ(rig.driver().used_count(), 0U);
  EXPECT_EQ(rig.notified[0], 0U);
  rig.process();
  EXPECT_EQ(rig.device.requests, 1U);

  // And it is set up again, with other values, while the device runs.
  rig.driver().restart();
  testing::HandDriver other({.packed = GetParam(), .size = 8, .base = Iova{0x40000000}});
  ASSERT_TRUE(rig.map.map(other.mapping()));
  rig.device.on_request = testing::ScriptedDevice::echo;
  rig.core->set_queue_size(0, 8);
  for (unsigned area = 0; area < 3; ++area) rig.core->set_queue_address(0, area, other.address(area));
  other.chain().readable("y").writable(1).publish();
  rig.core->enable_queue(0);
  rig.settle();
  EXPECT_EQ(other.take_used(), (std::vector<testing::HandDriver::Used>{{0, 1}}));
  EXPECT_EQ(rig.core->status(), s4);
}

TEST_P(Resetting, AStopThatFindsTheQueueBeingResetSeesAQueueThatWas) {
  rig.core->reset_queue(0);
  std::optional<QueueState> state;
  rig.core->stop_queue(0, StopMode::drain, [&](const Result<QueueState>& result) { state = result.value(); });
  rig.settle();
  EXPECT_FALSE(state);
  rig.device.kept[0].complete();
  rig.settle();
  ASSERT_TRUE(state);
  EXPECT_EQ(*state, (QueueState{.size = 16, .in_flight = {}}));
}

TEST_P(Resetting, AQueueResetWithoutTheFeatureOrForADisabledQueueIsIgnored) {
  DeviceRig other({.packed = GetParam(), .without = Features{Feature::ring_reset}});
  other.run();
  other.core->reset_queue(0);
  EXPECT_TRUE(other.core->queue_enabled(0));
  rig.device.kept[0].complete();
  rig.core->reset_queue(0);
  EXPECT_FALSE(rig.core->queue_enabled(0));
  rig.core->reset_queue(0);
  EXPECT_FALSE(rig.core->queue_resetting(0));
}

TEST_P(Resetting, AQueueResetDoesNotMendABrokenDevice) {
  rig.device.kept[0].complete();
  rig.settle();
  rig.device.host->violation("test", "a violation");
  rig.core->reset_queue(0);
  rig.settle();
  EXPECT_FALSE(rig.core->queue_enabled(0));  // a driver that waits for it does not wait for ever
  EXPECT_TRUE(rig.needs_reset());
}

TEST_P(Resetting, AfterAQueueResetARingInNoMemoryBreaksTheDevice) {
  rig.device.kept[0].complete();
  rig.core->reset_queue(0);
  ASSERT_FALSE(rig.core->queue_enabled(0));
  rig.core->enable_queue(0);  // all addresses are 0
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_EQ(rig.config_notified, 1U);
}

}  // namespace
}  // namespace outboard::virtio
