// A whole device, taken from one object and given to another.

#include <functional>
#include <optional>
#include <tuple>

#include <gtest/gtest.h>

#include <tests/support/device_rig.hpp>

namespace outboard::virtio {
namespace {

using testing::DeviceRig;
using testing::HandDriver;
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
  EXPECT_EQ(rig.driver().take_used(), (std::vector<HandDriver::Used>{{0, 5}}));
  EXPECT_EQ(rig.driver().text(chain.at(1), 5), "moved");
}

TEST_P(Captured, ResumesWhereItWasStopped) {
  const auto answering = rig.device.on_request;
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().readable("first").writable(8).publish();
  rig.process();
  EXPECT_EQ(capture(), capture());
  rig.driver().chain().readable("then").writable(8).publish();
  rig.process();
  rig.device.on_request = answering;
  ASSERT_TRUE(rig.core->resume());
  rig.settle();
  EXPECT_EQ(rig.driver().take_used(), (std::vector<HandDriver::Used>{{0, 5}, {GetParam() ? 1U : 2U, 4}}));
  EXPECT_TRUE(rig.core->resume()) << "it runs";
}

TEST_P(Captured, RestoredToBeResumedTouchesNothingBefore) {
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().readable("moved").writable(8).publish();
  rig.process();
  const DeviceState state = capture();
  ASSERT_TRUE(other.core->restore(state, Restart::on_resume)) << "without the memory";
  other.settle();
  EXPECT_EQ(other.core->status(), live);
  EXPECT_EQ(other.core->resume().error().code(), EIO);
  EXPECT_FALSE(other.core->broken());
  EXPECT_TRUE(other.map.map(rig.driver().mapping()));
  other.process();
  EXPECT_EQ(other.device.requests, 0U);
  EXPECT_EQ(rig.driver().used_count(), 0U);
  ASSERT_TRUE(other.core->resume());
  other.settle();
  EXPECT_EQ(rig.driver().take_used(), (std::vector<HandDriver::Used>{{0, 5}}));
  EXPECT_GT(other.notified[0], 0U);
}

TEST_P(Captured, DoesNotResumeWhereAnotherDeviceHasGoneOn) {
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().readable("moved").writable(8).publish();
  rig.process();
  ASSERT_TRUE(restore(capture()));
  ASSERT_EQ(rig.driver().used_count(), 1U);
  const Status resumed = rig.core->resume();
  ASSERT_FALSE(resumed);
  EXPECT_EQ(resumed.error().code(), EIO);
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 1U) << "the buffer that it has is not used a second time";
  rig.core->write_status(0);
  rig.settle();
  EXPECT_EQ(rig.core->status(), 0) << "a reset ends it";
}

TEST_P(Captured, AResetTakesTheResumingAway) {
  const DeviceState state = capture();
  ASSERT_TRUE(other.map.map(rig.driver().mapping()));
  ASSERT_TRUE(other.core->restore(state, Restart::on_resume));
  other.core->write_status(0);
  other.settle();
  EXPECT_EQ(other.core->status(), 0);
  EXPECT_TRUE(other.core->resume());
  EXPECT_EQ(other.core->status(), 0);
  EXPECT_TRUE(other.core->restore(state));
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

TEST_P(Captured, VD68_AStateThatCannotBeIsRefusedAndNothingHasChanged) {
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
  EXPECT_TRUE(other.core->restore(good));
  EXPECT_EQ(other.core->restore(good).error().code(), EBUSY);
}

TEST_P(Captured, CarriesEverythingThatWasAgreedOnAndTheDevicesOwnBytes) {
  rig.device.own_state = {std::byte{1}, std::byte{2}};
  const DeviceState state = capture();
  EXPECT_EQ(state.device_id, 63U);
  EXPECT_EQ(state.status, live);
  EXPECT_EQ(state.accepted, rig.core->offered());
  ASSERT_EQ(state.queues.size(), 1U);
  EXPECT_TRUE(state.queues[0].enabled);
  EXPECT_EQ(state.queues[0].size, rig.driver().size());
  EXPECT_EQ(state.queues[0].descriptors, rig.driver().address(0));
  EXPECT_EQ(state.device, rig.device.own_state);
  ASSERT_TRUE(restore(state));
  EXPECT_EQ(other.device.own_state, rig.device.own_state);
  std::optional<DeviceState> again;
  other.core->capture([&](Result<DeviceState> captured) { again = captured.value(); });
  other.settle();
  EXPECT_EQ(again, state) << "and can be carried on";
}

TEST_P(Captured, ADeviceAtRestStaysAtRestAndGivesTheSameStateAgain) {
  rig.driver().chain().readable("x").writable(1).publish();
  rig.process();
  const DeviceState first = capture();
  rig.driver().chain().readable("y").writable(1).publish();
  rig.process();
  EXPECT_EQ(rig.device.requests, 1U) << "nothing is popped any more";
  EXPECT_EQ(capture(), first);
  rig.core->write_status(0);
  rig.settle();
  EXPECT_EQ(rig.core->status(), 0);
}

TEST_P(Captured, RequestsThatWereInFlightComeFirstInTheirOrderAndAsReplays) {
  rig.device.on_request = rig.device.keep();
  std::vector<std::uint32_t> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(rig.driver().chain().readable("abcde").writable(8).publish());
  rig.process();
  ASSERT_EQ(rig.device.kept.size(), 5U);
  // The third is answered: what is in flight has a gap.
  rig.device.kept[2].complete();
  rig.settle();
  const DeviceState state = capture();
  EXPECT_EQ(state.queues[0].in_flight.size(), 4U);
  // Made available meanwhile, and never popped before.
  const std::uint32_t late = rig.driver().chain().readable("later").writable(8).publish();
  rig.driver().take_used();

  std::vector<bool> replays;
  other.device.on_request = [&](Request request) {
    replays.push_back(request.replayed());
    ScriptedDevice::echo(std::move(request));
  };
  ASSERT_TRUE(restore(state));
  EXPECT_EQ(replays, (std::vector<bool>{true, true, true, true, false}));
  std::vector<HandDriver::Used> expected;
  for (const std::uint32_t id : {ids[0], ids[1], ids[3], ids[4], late}) expected.push_back({id, 5});
  EXPECT_EQ(rig.driver().take_used(), expected);
}

TEST_P(Captured, ARequestCanBeCapturedAgainBeforeItIsAnswered) {
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().readable("twice").writable(8).publish();
  rig.process();
  other.device.on_request = other.device.keep();
  const DeviceState first = capture();
  ASSERT_TRUE(restore(first));
  ASSERT_EQ(other.device.kept.size(), 1U);
  std::optional<DeviceState> second;
  other.core->capture([&](Result<DeviceState> captured) { second = captured.value(); });
  other.settle();
  EXPECT_EQ(second, first);

  DeviceRig third({.packed = GetParam()});
  ASSERT_TRUE(third.map.map(rig.driver().mapping()));
  ASSERT_TRUE(third.core->restore(*second));
  third.settle();
  EXPECT_EQ(rig.driver().take_used(), (std::vector<HandDriver::Used>{{0, 5}}));
}

TEST_P(Captured, GoesOnAcrossTheEndOfTheRingManyTimes) {
  // Each half of the work is done by another device, at every position of the ring.
  DeviceRig *from = &rig, *to = &other;
  for (int round = 0; round < 60; ++round) {
    rig.driver().chain().readable("ring").writable(4).publish();
    from->process();
    EXPECT_EQ(rig.driver().take_used().size(), 1U) << round;
    std::optional<DeviceState> state;
    from->core->capture([&](Result<DeviceState> captured) { state = captured.value(); });
    from->settle();
    ASSERT_TRUE(state);
    from->core->write_status(0);
    from->settle();
    if (round == 0) {
      ASSERT_TRUE(to->map.map(rig.driver().mapping()));
    }
    ASSERT_TRUE(to->core->restore(*state));
    to->settle();
    std::swap(from, to);
  }
}

TEST_P(Captured, WorkThatIsRunningEndsFirst) {
  rig.device.on_request = rig.device.keep();
  rig.device.gives_up_kept = false;
  rig.driver().chain().readable("busy").writable(8).publish();
  rig.process();
  std::optional<DeviceState> state;
  rig.core->capture([&](Result<DeviceState> captured) { state = captured.value(); });
  rig.settle();
  EXPECT_FALSE(state);
  rig.device.kept[0].complete();
  rig.settle();
  ASSERT_TRUE(state);
  EXPECT_TRUE(state->queues[0].in_flight.empty());
  EXPECT_EQ(rig.driver().used_count(), 1U) << "its answer is there";
}

TEST_P(Captured, WorkThatDoesNotEndInTimeIsAnErrorAndTheDeviceGoesOn) {
  DeviceRig two({.packed = GetParam(), .queues = 2});
  two.run();
  two.device.on_request = two.device.keep();
  two.device.gives_up_kept = false;
  two.driver(0).chain().readable("stuck").writable(8).publish();
  two.process(0);
  std::optional<int> error;
  two.core->capture([&](Result<DeviceState> captured) { error = captured ? 0 : captured.error().code(); });
  two.settle();
  EXPECT_FALSE(error);
  two.device.on_request = ScriptedDevice::echo;
  for (unsigned queue = 0; queue < 2; ++queue) two.driver(queue).chain().readable("more").writable(8).publish();
  two.process(1);
  EXPECT_EQ(two.driver(1).used_count(), 0U) << "it is at rest";
  two.loop.advance(std::chrono::seconds(3));
  EXPECT_EQ(error, ETIMEDOUT);
  EXPECT_EQ(two.core->status(), live) << "nothing is wrong with the device";
  EXPECT_EQ(two.driver(1).used_count(), 1U) << "a queue that was at rest goes on at once, and looks for itself";
  two.device.kept[0].complete();
  two.settle();
  EXPECT_EQ(two.driver(0).used_count(), 2U) << "the late one when it is at rest";
  two.device.kept.clear();

  std::optional<DeviceState> state;
  two.core->capture([&](Result<DeviceState> captured) { state = captured.value(); });
  two.settle();
  EXPECT_TRUE(state) << "and the next attempt succeeds";
}

TEST_P(Captured, RequestsThatWereGivenUpForACaptureThatIsLateComeAgain) {
  rig.device.on_request = rig.device.keep();
  rig.device.gives_up_kept = false;
  for (int i = 0; i < 2; ++i) rig.driver().chain().readable("abc").writable(8).publish();
  rig.process();
  std::optional<int> error;
  rig.core->capture([&](Result<DeviceState> captured) { error = captured ? 0 : captured.error().code(); });
  rig.device.kept.pop_back();  // the device gives up what it has not begun
  rig.loop.advance(std::chrono::seconds(3));
  ASSERT_EQ(error, ETIMEDOUT);
  std::vector<bool> replays;
  rig.device.on_request = [&](Request request) {
    replays.push_back(request.replayed());
    ScriptedDevice::echo(std::move(request));
  };
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(replays, (std::vector<bool>{true}));
  EXPECT_EQ(rig.driver().used_count(), 2U);
  EXPECT_EQ(rig.core->status(), live);
}

TEST_P(Captured, ADeviceThatCannotSaveItsOwnStateIsAnErrorAndGoesOn) {
  rig.device.state_error = EIO;
  std::optional<int> error;
  rig.core->capture([&](Result<DeviceState> captured) { error = captured ? 0 : captured.error().code(); });
  rig.settle();
  EXPECT_EQ(error, EIO);
  rig.driver().chain().readable("x").writable(1).publish();
  rig.process();
  EXPECT_EQ(rig.driver().used_count(), 1U);
}

TEST_P(Captured, AQueueThatWasAtRestBeforeStaysSoWhenACaptureFails) {
  rig.core->stop_queue(0, StopMode::drain, [](const Result<QueueState>&) {});
  rig.settle();
  rig.device.state_error = EIO;
  std::optional<int> error;
  rig.core->capture([&](Result<DeviceState> captured) { error = captured ? 0 : captured.error().code(); });
  rig.settle();
  ASSERT_EQ(error, EIO);
  rig.driver().chain().readable("x").writable(1).publish();
  rig.process();
  EXPECT_EQ(rig.driver().used_count(), 0U);
}

/// Two queues, of which the first comes to rest for a capture at once, and the second when the test lets it.
class HalfCaptured : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    rig.run();
    rig.device.on_request = rig.device.keep();
    rig.device.gives_up_kept = false;
    rig.driver(1).chain().readable("busy").writable(8).publish();
    rig.process(1);
    rig.device.on_start = [this](unsigned, const QueueState&) {
      ++starts;
      return Status();
    };
    rig.core->capture([this](Result<DeviceState> captured) { error = captured ? 0 : captured.error().code(); });
    rig.settle();
    rig.device.state_error = EIO;  // the capture will fail
  }
  void let_it_fail(int with = EIO) {
    rig.device.kept[0].complete();
    rig.settle();
    ASSERT_EQ(error, with);
  }
  QueueState state_of_first() {
    QueueState state;
    rig.core->stop_queue(0, StopMode::drain, [&](const Result<QueueState>& at) { state = at.value(); });
    return state;
  }
  DeviceRig rig{{.packed = GetParam(), .queues = 2}};
  std::optional<int> error;
  unsigned starts = 0;
};
INSTANTIATE_TEST_SUITE_P(Rings, HalfCaptured, ::testing::Bool(),
                         [](const auto& format) { return format.param ? "Packed" : "Split"; });

TEST_P(HalfCaptured, GoesOn) {
  let_it_fail();
  EXPECT_EQ(starts, 2U);
}

TEST_P(HalfCaptured, DoesNotGoOnWhenItIsBrokenMeanwhile) {
  rig.device.host->violation("test", "a violation");
  let_it_fail();
  EXPECT_EQ(starts, 0U);
}

TEST_P(HalfCaptured, DoesNotGoOnWhenItIsBeingReset) {
  rig.core->write_status(0);
  let_it_fail();
  EXPECT_EQ(starts, 0U);
  EXPECT_EQ(rig.core->status(), 0);
}

TEST_P(HalfCaptured, AQueueThatSomebodyHasStartedIsNotStartedAgain) {
  ASSERT_TRUE(rig.core->start_queue(0, state_of_first()));
  ASSERT_EQ(starts, 1U);
  let_it_fail(ECANCELED);
  EXPECT_EQ(starts, 2U) << "and the other one";
}

TEST_P(HalfCaptured, AQueueThatSomebodyHasSwitchedOffStaysOff) {
  QueueState off = state_of_first();
  off.enabled = false;
  ASSERT_TRUE(rig.core->start_queue(0, off));
  let_it_fail();
  EXPECT_EQ(starts, 1U) << "the other one";
}

TEST_P(Captured, TheDriverIsToldOfWhatItMayHaveMissed) {
  const DeviceState state = capture();
  ASSERT_TRUE(other.map.map(rig.driver().mapping()));
  ASSERT_TRUE(other.core->restore(state));
  EXPECT_EQ(other.notified[0], 0U) << "the transport has its own state to put back first";
  other.settle();
  EXPECT_EQ(other.notified[0], 1U) << "a buffer may have been used and not told of";
  EXPECT_EQ(other.config_notified, 1U) << "and so the configuration";
}

TEST_P(Captured, NobodyIsToldBeforeDriverOkOrAfterAReset) {
  DeviceRig early({.packed = GetParam()});
  early.negotiate();
  early.set_up_queue();
  std::optional<DeviceState> state;
  early.core->capture([&](Result<DeviceState> captured) { state = captured.value(); });
  early.settle();
  ASSERT_TRUE(state);
  ASSERT_TRUE(restore(*state));
  EXPECT_EQ(other.notified[0] + other.config_notified, 0U);

  DeviceRig reset({.packed = GetParam()});
  ASSERT_TRUE(reset.map.map(rig.driver().mapping()));
  ASSERT_TRUE(reset.core->restore(capture()));
  reset.core->write_status(0);
  reset.settle();
  EXPECT_EQ(reset.notified[0] + reset.config_notified, 0U);
}

/// What keeps a state that is consistent from being taken, at each step in turn.
struct Failure {
  const char* name;
  int code;
  std::function<void(DeviceRig&)> cause;
  std::function<void(DeviceRig&)> mend;
};
void PrintTo(const Failure& failure, std::ostream* out) { *out << failure.name; }

const Failure failures[] = {
    {"TheDeviceRefusesTheFeatures", EINVAL, [](DeviceRig& rig) { rig.device.accepts_features = false; },
     [](DeviceRig& rig) { rig.device.accepts_features = true; }},
    {"TheDeviceRefusesItsOwnState", EPROTO, [](DeviceRig& rig) { rig.device.state_error = EPROTO; },
     [](DeviceRig& rig) { rig.device.state_error = 0; }},
    {"ARingIsInNoMemory", EIO, [](DeviceRig& rig) { rig.unmap_driver(1); }, [](DeviceRig& rig) { rig.map_driver(1); }},
    {"TheFirstQueueDoesNotStart", EIO,
     [](DeviceRig& rig) {
       rig.device.on_start = [](unsigned, const QueueState&) { return Status(Error(ENOMEM, "")); };
     },
     [](DeviceRig& rig) { rig.device.on_start = nullptr; }},
    {"TheLastQueueDoesNotStart", EIO,
     [](DeviceRig& rig) {
       rig.device.on_start = [](unsigned queue, const QueueState&) {
         return queue == 0 ? Status() : Status(Error(ENOMEM, "no room"));
       };
     },
     [](DeviceRig& rig) { rig.device.on_start = nullptr; }},
};

class RestoreFails : public ::testing::TestWithParam<std::tuple<bool, Failure>> {};
INSTANTIATE_TEST_SUITE_P(Rings, RestoreFails, ::testing::Combine(::testing::Bool(), ::testing::ValuesIn(failures)),
                         [](const auto& each) {
                           return std::string(std::get<0>(each.param) ? "Packed" : "Split") +
                                  std::get<1>(each.param).name;
                         });

TEST_P(RestoreFails, NothingHasChangedAndAnotherAttemptSucceeds) {
  const auto& [packed, failure] = GetParam();
  DeviceRig from({.packed = packed, .queues = 2}), to({.packed = packed, .queues = 2});
  from.run();
  from.device.on_request = from.device.keep();
  from.driver().chain().readable("abc").writable(8).publish();
  from.process();
  std::optional<DeviceState> state;
  from.core->capture([&](Result<DeviceState> captured) { state = captured.value(); });
  from.settle();
  ASSERT_TRUE(state);
  for (unsigned queue = 0; queue < 2; ++queue) {
    // The same memory, in the place of this device's own driver.
    to.drivers[queue] = std::move(from.drivers[queue]);
    to.map_driver(queue);
  }
  to.device.own_state = {std::byte{9}};
  state->device = {std::byte{1}};
  int begun = 0;  // queues that the device has been told to start and not to stop
  to.device.on_stop = [&](StopMode) { --begun; };
  failure.cause(to);
  const auto start = to.device.on_start;
  to.device.on_start = [&](unsigned queue, const QueueState& ring) {
    const Status started = start ? start(queue, ring) : Status();
    if (started) ++begun;
    return started;
  };

  const Status refused = to.core->restore(*state);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), failure.code) << refused.error().message();
  to.settle();
  EXPECT_EQ(begun, 0);
  EXPECT_EQ(to.device.resets, 1U) << "what the device was told it has forgotten";
  EXPECT_EQ(to.device.own_state, (std::vector<std::byte>{std::byte{9}}));
  EXPECT_EQ(to.core->status(), 0);
  EXPECT_FALSE(to.core->broken());
  EXPECT_EQ(to.core->driver_features(0), 0U);
  for (unsigned queue = 0; queue < 2; ++queue) {
    EXPECT_FALSE(to.core->queue_enabled(queue));
    EXPECT_EQ(to.core->queue_address(queue, 0), memory::Iova{});
    EXPECT_EQ(to.notified[queue], 0U);
  }
  EXPECT_EQ(to.config_notified, 0U);
  EXPECT_EQ(to.device.requests, 0U);

  to.device.on_start = start;
  failure.mend(to);
  to.device.on_stop = nullptr;
  ASSERT_TRUE(to.core->restore(*state));
  to.settle();
  EXPECT_EQ(to.core->status(), live);
  EXPECT_EQ(to.driver().used_count(), 1U);
}

TEST_P(Captured, ABrokenDeviceIsBrokenElsewhereUntilItsDriverResetsIt) {
  rig.device.host->violation("test", "a violation");
  rig.settle();
  ASSERT_TRUE(restore(capture()));
  EXPECT_TRUE(other.needs_reset());
  rig.driver().chain().readable("x").writable(1).publish();
  other.process();
  EXPECT_EQ(other.device.requests, 0U);
  EXPECT_EQ(rig.driver().used_count(), 0U);

  other.core->write_status(0);
  other.settle();
  EXPECT_FALSE(other.needs_reset());
  rig.driver().restart();
  other.negotiate();
  other.set_up_queue();  // both drivers have their rings at the same addresses
  other.driver_ok();
  rig.driver().chain().readable("well").writable(4).publish();
  other.process();
  EXPECT_EQ(rig.driver().used_count(), 1U);
}

TEST_P(Captured, ADeviceWhoseDriverHasGivenUpStaysLeftAlone) {
  rig.core->write_status(live | bit::failed);
  ASSERT_TRUE(restore(capture()));
  EXPECT_EQ(other.core->status(), live | bit::failed);
  rig.driver().chain().readable("x").writable(1).publish();
  other.process();
  EXPECT_EQ(other.device.requests, 0U);
}

TEST_P(Captured, ADriverInTheMiddleOfItsInitialisationGoesOnElsewhere) {
  constexpr std::uint8_t steps[] = {0, bit::acknowledge, bit::acknowledge | bit::driver,
                                    bit::acknowledge | bit::driver | bit::features_ok};
  for (const std::uint8_t step : steps) {
    DeviceRig from({.packed = GetParam()}), to({.packed = GetParam()});
    if ((step & bit::features_ok) != 0) {
      from.negotiate();
      from.set_up_queue();
    } else if (step != 0) {
      from.core->write_status(step);
    }
    std::optional<DeviceState> state;
    from.core->capture([&](Result<DeviceState> captured) { state = captured.value(); });
    from.settle();
    ASSERT_TRUE(state);
    ASSERT_TRUE(to.map.map(from.driver().mapping()));
    ASSERT_TRUE(to.core->restore(*state));
    EXPECT_EQ(to.core->status(), step);
    EXPECT_EQ(to.core->queue_enabled(0), (step & bit::features_ok) != 0);
    if ((step & bit::features_ok) == 0) continue;
    EXPECT_EQ(to.core->queue_address(0, 2), from.driver().address(2));
    to.driver_ok();
    from.driver().chain().readable("there").writable(8).publish();
    to.process();
    EXPECT_EQ(from.driver().used_count(), 1U);
  }
}

TEST_P(Captured, ADeviceThatIsInUseIsLeftAsItIs) {
  const DeviceState state = capture();
  for (const std::uint8_t status : {std::uint8_t{bit::acknowledge}, live}) {
    DeviceRig busy({.packed = GetParam()});
    if (status == live) {
      busy.run();
    } else {
      busy.core->write_status(status);
    }
    EXPECT_EQ(busy.core->restore(state).error().code(), EBUSY);
    EXPECT_EQ(busy.core->status(), status);
  }
}

/// What another process, or a file, may say.
struct Wrong {
  const char* name;
  std::function<void(DeviceState&, bool packed)> change;
};
void PrintTo(const Wrong& wrong, std::ostream* out) { *out << wrong.name; }

const Wrong wrongs[] = {
    {"AnotherDeviceId", [](DeviceState& s, bool) { s.device_id = 2; }},
    {"AStatusBitThatIsNotKnown", [](DeviceState& s, bool) { s.status |= 0x20; }},
    {"SuspendWhichIsNotOffered", [](DeviceState& s, bool) { s.status |= bit::suspend; }},
    {"DriverOkWithoutFeaturesOk", [](DeviceState& s, bool) { s.status &= ~bit::features_ok; }},
    {"FeaturesOkWithoutDriver", [](DeviceState& s, bool) { s.status &= ~bit::driver; }},
    {"AFeatureThatIsNotOffered", [](DeviceState& s, bool) { s.accepted.set(Feature{5}); }},
    {"AFeatureFarBeyond", [](DeviceState& s, bool) { s.accepted.set(Feature{127}); }},
    {"NoVersion1", [](DeviceState& s, bool) { s.accepted.clear(Feature::version_1); }},
    {"NoAccessPlatform", [](DeviceState& s, bool) { s.accepted.clear(Feature::access_platform); }},
    {"NoQueues", [](DeviceState& s, bool) { s.queues.clear(); }},
    {"AQueueTooMany", [](DeviceState& s, bool) { s.queues.emplace_back(); }},
    {"ManyQueuesTooMany", [](DeviceState& s, bool) { s.queues.resize(100000); }},
    {"ASizeOf0", [](DeviceState& s, bool) { s.queues[0].size = 0; }},
    {"ASizeBeyondTheMaximum", [](DeviceState& s, bool) { s.queues[0].size = 32; }},
    {"TheLargestSize", [](DeviceState& s, bool) { s.queues[0].size = 0xffff; }},
    {"ADisabledQueueBeyondTheMaximum",
     [](DeviceState& s, bool) { s.queues[0] = {.size = 32, .enabled = false, .in_flight = {}}; }},
    {"ADisabledQueueWithBuffersInFlight", [](DeviceState& s, bool) { s.queues[0].enabled = false; }},
    {"ATableThatIsNotAligned",
     [](DeviceState& s, bool) { s.queues[0].descriptors = memory::Iova{memory::raw(s.queues[0].descriptors) + 1}; }},
    {"ADriverAreaAtTheEndOfEverything", [](DeviceState& s, bool) { s.queues[0].driver = memory::Iova{~UINT64_C(1)}; }},
    {"ADeviceAreaAtTheEndOfEverything", [](DeviceState& s, bool) { s.queues[0].device = memory::Iova{~UINT64_C(1)}; }},
    {"NextAvailTooFarAhead", [](DeviceState& s, bool) { s.queues[0].next_avail = 0x8000; }},
    {"NextUsedSomewhereElse", [](DeviceState& s, bool) { s.queues[0].next_used += 1; }},
    {"ABufferInFlightTooFew", [](DeviceState& s, bool) { s.queues[0].in_flight.pop_back(); }},
    {"ABufferInFlightTooMany",
     [](DeviceState& s, bool) { s.queues[0].in_flight.push_back(s.queues[0].in_flight.back()); }},
    {"VeryManyBuffersInFlight",
     [](DeviceState& s, bool) { s.queues[0].in_flight.resize(65536 + 2, s.queues[0].in_flight.back()); }},
    {"AHeadBeyondTheQueue", [](DeviceState& s, bool) { s.queues[0].in_flight[0].head = 0xffff; }},
    {"TheSameHeadTwiceOrNoSlots",
     [](DeviceState& s, bool packed) {
       if (packed) {
         s.queues[0].in_flight[0].descriptors = 0;
       } else {
         s.queues[0].in_flight[1].head = s.queues[0].in_flight[0].head;
       }
     }},
    {"AChainThatIsMissingOrACountThatIsOff",
     [](DeviceState& s, bool packed) {
       if (packed) {
         s.queues[0].in_flight[0].chain.clear();
       } else {
         s.queues[0].next_avail -= 1;
       }
     }},
    {"AWrapCounterThatIsOff",
     [](DeviceState& s, bool packed) {
       if (packed) {
         s.queues[0].avail_wrap = !s.queues[0].avail_wrap;
       } else {
         s.queues[0].next_avail ^= 0x8000;
       }
     }},
};

class CapturedWrong : public ::testing::TestWithParam<std::tuple<bool, Wrong>> {};
INSTANTIATE_TEST_SUITE_P(Rings, CapturedWrong, ::testing::Combine(::testing::Bool(), ::testing::ValuesIn(wrongs)),
                         [](const auto& each) {
                           return std::string(std::get<0>(each.param) ? "Packed" : "Split") +
                                  std::get<1>(each.param).name;
                         });

TEST_P(CapturedWrong, VD68_IsRefusedAndNothingHasChanged) {
  const auto& [packed, wrong] = GetParam();
  DeviceRig from({.packed = packed}), to({.packed = packed, .options = {.access_platform = AccessPlatform::require}});
  from.run();
  from.device.on_request = from.device.keep();
  for (int i = 0; i < 2; ++i) from.driver().chain().readable("abc").writable(8).publish();
  from.process();
  std::optional<DeviceState> good;
  from.core->capture([&](Result<DeviceState> captured) { good = captured.value(); });
  from.settle();
  ASSERT_TRUE(good);
  ASSERT_EQ(good->queues[0].in_flight.size(), 2U);
  good->device = {std::byte{7}};

  ASSERT_TRUE(to.map.map(from.driver().mapping()));
  unsigned starts = 0;
  to.device.on_start = [&](unsigned, const QueueState&) {
    ++starts;
    return Status();
  };
  DeviceState bad = *good;
  wrong.change(bad, packed);
  const Status restored = to.core->restore(bad);
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code(), EINVAL) << restored.error().message();
  to.process();
  EXPECT_EQ(to.core->status(), 0);
  EXPECT_EQ(to.core->driver_features(0), 0U);
  EXPECT_FALSE(to.core->queue_enabled(0));
  EXPECT_EQ(to.core->queue_size(0), to.core->queue_max_size(0));
  EXPECT_EQ(to.core->queue_address(0, 0), memory::Iova{});
  EXPECT_TRUE(to.device.own_state.empty());
  EXPECT_EQ(starts + to.device.requests, 0U);
  EXPECT_EQ(from.driver().used_count(), 0U);

  ASSERT_TRUE(to.core->restore(*good)) << "and a good one is taken afterwards";
  to.settle();
  EXPECT_EQ(from.driver().used_count(), 2U);
}

TEST_P(Captured, VD68_WhatTheDeviceItselfRefusesChangesNothing) {
  const DeviceState state = capture();
  other.device.state_error = EINVAL;
  EXPECT_EQ(restore(state).error().code(), EINVAL);
  EXPECT_EQ(other.core->status(), 0);
  EXPECT_FALSE(other.core->queue_enabled(0));
  other.device.state_error = 0;
  other.device.accepts_features = false;
  EXPECT_EQ(other.core->restore(state).error().code(), EINVAL);
  EXPECT_EQ(other.core->status(), 0);
  other.device.accepts_features = true;
  EXPECT_TRUE(other.core->restore(state));
}

TEST(CapturedDevice, VD68_ThatKeepsNoStateRefusesOne) {
  class Stateless final : public Device {
    Identity identity() const override { return {.device_id = 63, .queue_sizes = {16}}; }
    void handle(Request request) override { request.complete(); }
  } device;
  EXPECT_TRUE(static_cast<Device&>(device).save_state().value().empty());
  EXPECT_TRUE(static_cast<Device&>(device).restore_state({}));
  const std::byte byte[1] = {};
  EXPECT_EQ(static_cast<Device&>(device).restore_state(byte).error().code(), EINVAL);
}

}  // namespace
}  // namespace outboard::virtio
