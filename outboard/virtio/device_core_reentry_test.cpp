// What a callback of the core may do to the core: reset it, start its queues again, destroy it.

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tests/support/device_rig.hpp>

namespace outboard::virtio {
namespace {

using testing::DeviceRig;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::ScriptedDevice;
namespace bit = spec::status;

constexpr std::uint8_t live = bit::acknowledge | bit::driver | bit::features_ok | bit::driver_ok;

class CountingJournal final : public Journal {
 public:
  unsigned resets = 0;  ///< of queues

  void popped(unsigned, const InFlight&) override {}
  void publishing(unsigned, std::span<const UsedBuffer>, std::uint16_t, bool) override {}
  void published(unsigned, std::span<const UsedBuffer>, std::uint16_t, bool) override {}
  void status_changing(std::uint8_t, const Features&) override {}
  void queue_starting(unsigned, const QueueState&, bool) override {}
  void queue_reset(unsigned) override { ++resets; }
};

class Reentry : public ::testing::TestWithParam<bool> {
 protected:
  static int code(const Status& status) { return status ? 0 : status.error().code(); }
  template <typename Value>
  static int code(const Result<Value>& result) {
    return result ? 0 : result.error().code();
  }

  /// Both queues run, and the back end works on one request of each queue of `busy`.
  void run_with_busy(std::initializer_list<unsigned> busy) {
    rig.run();
    rig.device.on_request = rig.device.keep();
    rig.device.gives_up_kept = false;
    for (const unsigned queue : busy) {
      rig.driver(queue).chain().writable(16).publish();
      rig.process(queue);
    }
    ASSERT_EQ(rig.device.kept.size(), busy.size());
  }
  /// What the driver does after a reset.
  void start_again() {
    for (const auto& driver : rig.drivers) driver->restart();
    rig.negotiate();
    for (unsigned queue = 0; queue < 2; ++queue) rig.set_up_queue(queue);
    rig.driver_ok();
  }
  void expect_both_queues_work() {
    rig.device.on_request = ScriptedDevice::echo;
    for (unsigned queue = 0; queue < 2; ++queue) {
      rig.driver(queue).chain().readable("x").writable(1).publish();
      rig.process(queue);
      EXPECT_EQ(rig.driver(queue).used_count(), 1U) << "queue " << queue;
    }
    EXPECT_EQ(rig.core->status(), live);
  }

  DeviceRig rig{{.packed = GetParam(), .queues = 2}};
};
INSTANTIATE_TEST_SUITE_P(Rings, Reentry, ::testing::Bool(),
                         [](const auto& format) { return format.param ? "Packed" : "Split"; });

// Starting and resetting again.

TEST_P(Reentry, ARestartFromTheEndOfAResetFindsAllQueuesRunning) {
  rig.map_driver(0);
  rig.map_driver(1);
  rig.negotiate();
  rig.set_up_queue(0);
  rig.driver_ok();
  rig.settle();
  unsigned ended = 0;
  rig.core->reset([&](const Status& status) {
    ++ended;
    EXPECT_TRUE(status);
    start_again();
  });
  rig.settle();
  EXPECT_EQ(ended, 1U);
  expect_both_queues_work();
}

TEST_P(Reentry, AResetInTheEndOfAResetWaitsForTheRequestsThatRunThen) {
  rig.run();
  std::vector<int> ended;
  rig.core->reset([&](const Status& first) {
    ended.push_back(code(first));
    start_again();
    rig.device.on_request = rig.device.keep();
    rig.device.gives_up_kept = false;
    rig.driver(0).chain().writable(16).publish();
    rig.core->kick_now(0);
    ASSERT_EQ(rig.device.kept.size(), 1U);
    rig.core->reset([&](const Status& second) { ended.push_back(code(second)); });
  });
  rig.settle();
  EXPECT_THAT(ended, ElementsAre(0));
  rig.loop.advance(std::chrono::seconds(3));
  EXPECT_THAT(ended, ElementsAre(0, ETIMEDOUT)) << "told in time";
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_THAT(ended, ElementsAre(0, ETIMEDOUT));
  EXPECT_EQ(rig.core->status(), 0);
}

TEST_P(Reentry, WhoAsksInTheEndOfAResetIsToldOfTheEndOfTheNext) {
  run_with_busy({0});
  std::vector<int> told;
  rig.core->reset([&](const Status&) {
    told.push_back(1);
    start_again();
    rig.driver(0).chain().writable(16).publish();
    rig.core->kick_now(0);
    rig.core->write_status(0);
    rig.core->after_reset([&] { told.push_back(3); });
  });
  rig.core->after_reset([&] { told.push_back(2); });
  rig.device.kept[0].complete();
  rig.settle();
  ASSERT_EQ(rig.device.kept.size(), 2U);
  EXPECT_THAT(told, ElementsAre(1, 2));
  rig.device.kept[1].complete();
  rig.settle();
  EXPECT_THAT(told, ElementsAre(1, 2, 3));
}

TEST_P(Reentry, AResetFromAStopsCallbackEndsWhenAllHaveStopped) {
  run_with_busy({0});
  std::vector<int> told;
  rig.core->stop_queue(0, StopMode::drain, [&](const Result<QueueState>&) {
    rig.core->reset([&](const Status& status) {
      told.push_back(code(status));
      start_again();
    });
  });
  rig.core->stop(StopMode::drain, [&](const Status& status) {
    told.push_back(100 + code(status));
    EXPECT_EQ(rig.core->status(), live) << "the reset has not ended: nobody has started anything";
  });
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_THAT(told, ElementsAre(100, 0));
  expect_both_queues_work();
}

TEST_P(Reentry, AQueueRestartedByACallbackIsStoppedAgainForTheWaiter) {
  run_with_busy({0});
  std::vector<int> told;
  rig.core->stop_queue(0, StopMode::drain, [&](Result<QueueState> stopped) {
    told.push_back(code(stopped));
    EXPECT_TRUE(rig.core->start_queue(0, *stopped));
  });
  rig.core->stop_queue(0, StopMode::drain, [&](const Result<QueueState>& stopped) { told.push_back(code(stopped)); });
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_THAT(told, ElementsAre(0, 0));
  rig.driver(0).chain().writable(16).publish();
  rig.process(0);
  EXPECT_EQ(rig.device.requests, 1U) << "it is at rest, as the second was told";
}

TEST_P(Reentry, NoQueueStartsBeforeAResetHasEnded) {
  run_with_busy({0});
  std::optional<QueueState> state;
  rig.core->stop_queue(1, StopMode::drain, [&](const Result<QueueState>& stopped) { state = stopped.value(); });
  rig.core->write_status(0);
  const Status started = rig.core->start_queue(1, state.value());
  EXPECT_EQ(code(started), EBUSY);
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.core->status(), 0);
}

// A drain that a discard overtakes.

TEST_P(Reentry, ADrainThatADiscardOvertakesIsNotReportedAsOne) {
  run_with_busy({0});
  std::vector<int> drained, discarded;
  rig.core->stop_queue(0, StopMode::drain, [&](const Result<QueueState>& at) { drained.push_back(code(at)); });
  rig.core->stop(StopMode::drain, [&](const Status& status) { drained.push_back(code(status)); });
  rig.core->stop_queue(0, StopMode::discard, [&](const Result<QueueState>& at) { discarded.push_back(code(at)); });
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_THAT(drained, ElementsAre(ECANCELED, ECANCELED));
  EXPECT_THAT(discarded, ElementsAre(0));
}

TEST_P(Reentry, ADrainThatFindsADiscardUnderWayIsNotReportedAsOne) {
  run_with_busy({0});
  std::vector<int> drained;
  rig.core->stop(StopMode::discard, [](const Status&) {});
  rig.core->stop_queue(0, StopMode::drain, [&](const Result<QueueState>& at) { drained.push_back(code(at)); });
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_THAT(drained, ElementsAre(ECANCELED));
}

TEST_P(Reentry, AQueueThatItsDriverResetsCountsAsDrained) {
  run_with_busy({0});
  std::optional<QueueState> state;
  rig.core->stop_queue(0, StopMode::drain, [&](const Result<QueueState>& at) { state = at.value(); });
  rig.core->reset_queue(0);
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(state, (QueueState{.size = 16, .in_flight = {}})) << "its driver has given up what was in flight";
}

// Captures.

class ReentryOfCapture : public Reentry {
 protected:
  void capture() {
    rig.core->capture([this](Result<DeviceState> captured) {
      error = code(captured);
      if (captured) state = std::move(*captured);
    });
  }
  std::optional<int> error;
  std::optional<DeviceState> state;
};
INSTANTIATE_TEST_SUITE_P(Rings, ReentryOfCapture, ::testing::Bool(),
                         [](const auto& format) { return format.param ? "Packed" : "Split"; });

TEST_P(ReentryOfCapture, SeesADeviceThatWasResetWhereItsDriverResetsItMeanwhile) {
  for (const bool reset_first : {false, true}) {
    DeviceRig one({.packed = GetParam()});
    one.run();
    one.device.on_request = one.device.keep();
    one.device.gives_up_kept = false;
    one.driver().chain().writable(16).publish();
    one.process();
    std::optional<DeviceState> seen;
    if (reset_first) one.core->write_status(0);
    one.core->capture([&](Result<DeviceState> captured) {
      EXPECT_EQ(one.core->status(), 0);
      seen = captured.value();
    });
    if (!reset_first) one.core->write_status(0);
    one.settle();
    EXPECT_FALSE(seen);
    one.device.kept[0].complete();
    one.settle();
    ASSERT_TRUE(seen);
    EXPECT_EQ(seen->status, 0);
    EXPECT_EQ(seen->accepted, Features{});
    EXPECT_EQ(seen->queues, std::vector<QueueState>(1, {.size = 16, .in_flight = {}}));
  }
}

TEST_P(ReentryOfCapture, SaysThatAResetIsLate) {
  run_with_busy({0});
  rig.core->write_status(0);
  capture();
  rig.loop.advance(std::chrono::milliseconds(1999));
  EXPECT_FALSE(error);
  rig.loop.advance(std::chrono::milliseconds(2));
  EXPECT_EQ(error, ETIMEDOUT);
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.core->status(), 0);
}

TEST_P(ReentryOfCapture, SeesADeviceThatItsDriverHasStartedAgain) {
  run_with_busy({0});
  rig.core->reset([&](const Status&) { start_again(); });
  capture();
  rig.device.kept[0].complete();
  rig.settle();
  ASSERT_TRUE(state);
  EXPECT_EQ(state->status, live);
  EXPECT_TRUE(state->queues[0].enabled);
  EXPECT_TRUE(state->queues[1].enabled);
  rig.driver(1).chain().writable(16).publish();
  rig.process(1);
  EXPECT_EQ(rig.device.requests, 1U) << "and at rest";
}

TEST_P(ReentryOfCapture, SeesAQueueThatWasResetAfterItHadComeToRest) {
  run_with_busy({1});
  capture();
  rig.core->reset_queue(0);
  EXPECT_FALSE(rig.core->queue_enabled(0));
  rig.device.kept[0].complete();
  rig.settle();
  ASSERT_TRUE(state);
  EXPECT_FALSE(state->queues[0].enabled) << "its driver uses the memory for something else";
  EXPECT_TRUE(state->queues[1].enabled);
}

TEST_P(ReentryOfCapture, FailsWhereAQueueIsStartedMeanwhile) {
  run_with_busy({1});
  capture();
  rig.core->reset_queue(0);
  rig.driver(0).restart();
  rig.set_up_queue(0);
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(error, ECANCELED);
  rig.driver(1).take_used();
  expect_both_queues_work();
}

TEST_P(ReentryOfCapture, FailsWhereADiscardOvertakesIt) {
  run_with_busy({0});
  capture();
  std::vector<int> stopped;
  rig.core->stop(StopMode::discard, [&](const Status& status) { stopped.push_back(code(status)); });
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(error, ECANCELED);
  EXPECT_THAT(stopped, ElementsAre(0));
  for (unsigned queue = 0; queue < 2; ++queue) {
    rig.driver(queue).chain().writable(16).publish();
    rig.process(queue);
  }
  EXPECT_EQ(rig.device.requests, 1U) << "what was stopped does not go on";
}

TEST_P(ReentryOfCapture, LeavesAtRestWhatSomebodyElseHasStoppedToo) {
  run_with_busy({1});
  rig.device.state_error = EIO;
  capture();
  rig.core->stop_queue(0, StopMode::drain, [](const Result<QueueState>&) {});
  rig.device.kept[0].complete();
  rig.settle();
  ASSERT_EQ(error, EIO);
  rig.driver(0).chain().writable(16).publish();
  rig.process(0);
  EXPECT_EQ(rig.device.requests, 1U);
}

TEST_P(ReentryOfCapture, GoesOnWhereItFailsAfterAnotherThatWasLate) {
  run_with_busy({0});
  capture();
  rig.loop.advance(std::chrono::milliseconds(2001));
  ASSERT_EQ(error, ETIMEDOUT);
  rig.device.state_error = EIO;
  capture();
  rig.device.kept[0].complete();
  rig.settle();
  ASSERT_EQ(error, EIO);
  rig.driver(0).take_used();
  expect_both_queues_work();
}

TEST_P(ReentryOfCapture, IsOneAtATime) {
  run_with_busy({0});
  capture();
  std::optional<int> second;
  rig.core->capture([&](const Result<DeviceState>& captured) { second = code(captured); });
  EXPECT_EQ(second, EBUSY);
  EXPECT_FALSE(error);
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(error, 0);
  capture();
  EXPECT_EQ(error, 0) << "and another one after it";
}

// Destroying.

TEST_P(Reentry, ACoreThatACallbackOfAStopDestroysTouchesItsDeviceNoMore) {
  run_with_busy({0});
  rig.core->write_status(0);
  unsigned told = 0, resets = 99;
  rig.core->stop(StopMode::discard, [&](const Status&) {
    ++told;
    rig.core.reset();
    resets = rig.device.resets;
  });
  rig.core->stop(StopMode::discard, [&](const Status&) { ++told; });
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.device.resets, resets);
  EXPECT_EQ(told, 1U) << "who waits is told no more";
}

TEST_P(Reentry, ACoreThatIsDestroyedWhileItsQueuesAreStoppedStopsNoneMore) {
  const std::function<void(DeviceCore&)> calls[] = {
      [](DeviceCore& core) { core.write_status(0); },
      [](DeviceCore& core) { core.stop(StopMode::discard, [](const Status&) { FAIL(); }); },
      [](DeviceCore& core) { core.stop(StopMode::drain, [](const Status&) { FAIL(); }); },
      [](DeviceCore& core) { core.capture([](const Result<DeviceState>&) { FAIL(); }); }};
  for (const auto& call : calls) {
    CountingJournal journal;
    DeviceRig three({.packed = GetParam(), .queues = 3, .options = {.journal = &journal}});
    three.run();
    unsigned stops = 0;
    three.device.on_stop = [&](StopMode) {
      if (++stops == 1)
        three.core->stop_queue(0, StopMode::drain, [&](const Result<QueueState>&) { three.core.reset(); });
    };
    call(*three.core);
    three.settle();
    EXPECT_FALSE(three.core);
    EXPECT_EQ(stops, 1U) << "of the first queue, and of no other";
    EXPECT_EQ(three.device.resets, 0U);
    EXPECT_EQ(journal.resets, 0U);
  }
}

TEST_P(Reentry, ACoreThatIsDestroyedInTheEndOfAResetTellsNobodyElse) {
  run_with_busy({0});
  std::vector<int> told;
  rig.core->reset([&](const Status&) {
    told.push_back(1);
    rig.core.reset();
  });
  rig.core->reset([&](const Status&) { told.push_back(2); });
  rig.core->after_reset([&] { told.push_back(3); });
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_THAT(told, ElementsAre(1));
}

TEST_P(Reentry, ACoreThatIsDestroyedAfterAResetTellsNobodyElse) {
  run_with_busy({0});
  std::vector<int> told;
  rig.core->write_status(0);
  for (int i = 1; i <= 2; ++i) {
    rig.core->after_reset([&told, i, this] {
      told.push_back(i);
      rig.core.reset();
    });
  }
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_THAT(told, ElementsAre(1));
}

TEST_P(Reentry, TheCallbacksThatACoreHasKeptGoWithIt) {
  run_with_busy({0, 1});
  auto callback = std::make_shared<int>();
  const std::weak_ptr<int> kept = callback;
  for (const StopMode mode : {StopMode::drain, StopMode::discard})
    rig.core->stop_queue(1, mode, [held = callback](const Result<QueueState>&) {});
  rig.core->reset([held = callback](const Status&) {});
  rig.core->after_reset([held = callback] {});
  rig.core->stop_queue(0, StopMode::discard, [&, held = std::move(callback)](const Result<QueueState>&) {
    rig.core.reset();
    EXPECT_EQ(kept.use_count(), 1) << "this one";
  });
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_TRUE(kept.expired());
}

TEST_P(Reentry, ACoreThatIsDestroyedForAStopThatIsLateTellsNobodyElse) {
  run_with_busy({0});
  std::vector<int> told;
  for (int i = 0; i < 2; ++i) {
    rig.core->stop_queue(0, StopMode::drain, [&](const Result<QueueState>& late) {
      told.push_back(code(late));
      rig.core.reset();
    });
  }
  rig.loop.advance(std::chrono::seconds(3));
  EXPECT_THAT(told, ElementsAre(ETIMEDOUT));
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(told.size(), 1U);
}

}  // namespace
}  // namespace outboard::virtio
