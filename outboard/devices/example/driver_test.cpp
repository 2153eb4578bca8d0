// The driver against the device, in one thread, on either ring.

#include <outboard/devices/example/driver.hpp>

#include <deque>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/devices/example/device.hpp>
#include <outboard/testing/loopback_transport.hpp>

namespace outboard::example {
namespace {

using ::testing::ElementsAre;
using testing::LoopbackTransport;
using testing::ManualLoop;

/// A call that knows when it is done.
struct Counted : Call {
  explicit Counted(std::uint32_t number) {
    value = number;
    done = [](Call& self) { ++static_cast<Counted&>(self).completions; };
  }
  int completions = 0;
};

class Rig {
 public:
  explicit Rig(bool packed, const Device::Options& device_options = {}, Driver::Options options = {}) {
    device = Device::create(device_options).value();
    transport.emplace(*device, device_loop, LoopbackTransport::Options{.packed = packed});
    options.loop = &loop;
    auto started = Driver::start(*transport, options);
    EXPECT_TRUE(started) << started.error().message();
    driver.emplace(std::move(*started));
    driver->on_event([this](const Event& event) { events.push_back(event); });
    driver->on_limit([this](const Limit& limit) { limits.push_back(limit); });
    pump();
  }

  void pump() {
    for (int i = 0; i < 1000; ++i) {
      const bool driver_did = loop.run_until_idle();
      const bool device_did = device_loop.run_until_idle();
      if (!driver_did && !device_did) return;
    }
  }
  /// The answer to one value; nullopt: it has failed, and `error` says how.
  std::optional<Answer> ask(std::uint32_t value) {
    Counted call(value);
    if (const auto submitted = driver->submit(call); !submitted) {
      error = submitted.error().code();
      return std::nullopt;
    }
    driver->publish();
    pump();
    EXPECT_EQ(call.completions, 1);
    error = call.error;
    return call.error == 0 ? std::optional(call.answer) : std::nullopt;
  }

  ManualLoop device_loop, loop;
  std::unique_ptr<Device> device;
  std::optional<LoopbackTransport> transport;
  std::optional<Driver> driver;
  std::vector<Event> events;
  std::vector<Limit> limits;
  int error = 0;
};

class ExampleDriver : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Rings, ExampleDriver, ::testing::Bool(),
                         [](const auto& ring) { return ring.param ? "packed" : "split"; });

TEST_P(ExampleDriver, AddsOne) {
  Rig rig(GetParam());
  EXPECT_EQ(rig.ask(0), (Answer{1, false}));
  EXPECT_EQ(rig.ask(41), (Answer{42, false}));
  EXPECT_EQ(rig.ask(0xffffffff), (Answer{0, false}));
  EXPECT_FALSE(rig.driver->has_limit());
}

TEST_P(ExampleDriver, TellsOfRefusalsAndEvents) {
  Rig rig(GetParam(), {.limit = 100});
  ASSERT_TRUE(rig.driver->has_limit());
  EXPECT_EQ(rig.ask(100), (Answer{101, false}));
  EXPECT_EQ(rig.ask(101), (Answer{101, true}));
  EXPECT_THAT(rig.events, ElementsAre(Event{101, 0}));
}

TEST_P(ExampleDriver, TellsOfAChangedLimit) {
  Rig rig(GetParam(), {.limit = 100});
  EXPECT_EQ(rig.driver->limit().value(), (Limit{100, 0}));
  ASSERT_TRUE(rig.device->set_limit(7));
  rig.pump();
  EXPECT_THAT(rig.limits, ElementsAre(Limit{7, 1}));
  EXPECT_EQ(rig.ask(8), (Answer{8, true}));
}

TEST_P(ExampleDriver, R_EX_4_TellsHowManyEventsWereLost) {
  Rig rig(GetParam(), {.limit = 100}, {.events = 1});
  std::deque<Counted> calls;
  for (std::uint32_t i = 0; i < 5; ++i) ASSERT_TRUE(rig.driver->submit(calls.emplace_back(101 + i)));
  rig.driver->publish();
  rig.pump();
  EXPECT_THAT(rig.events, ElementsAre(Event{101, 0}));
  EXPECT_EQ(rig.ask(200), (Answer{200, true}));
  EXPECT_THAT(rig.events, ElementsAre(Event{101, 0}, Event{200, 4}));
}

TEST_P(ExampleDriver, WithoutEventBuffersEverythingElseWorks) {
  Rig rig(GetParam(), {.limit = 100}, {.events = 0});
  EXPECT_EQ(rig.ask(101), (Answer{101, true}));
  ASSERT_TRUE(rig.device->set_limit(101));
  rig.pump();
  EXPECT_THAT(rig.limits, ElementsAre(Limit{101, 1}));
  EXPECT_EQ(rig.ask(101), (Answer{102, false}));
}

TEST_P(ExampleDriver, D_EX_16_MayRefuseTheLimit) {
  Rig rig(GetParam(), {.limit = 100}, {.limit = false});
  EXPECT_FALSE(rig.driver->has_limit());
  EXPECT_EQ(rig.ask(101), (Answer{102, false}));
  EXPECT_EQ(rig.driver->limit().error().code(), ENOTSUP);
}

TEST_P(ExampleDriver, ADepthThatIsExhaustedIsSaidAndMendsItself) {
  Rig rig(GetParam(), {}, {.depth = 3});
  EXPECT_EQ(rig.driver->depth(), 3);
  std::deque<Counted> calls;
  for (std::uint32_t i = 0; i < 3; ++i) ASSERT_TRUE(rig.driver->submit(calls.emplace_back(i)));
  Counted late(41);
  EXPECT_EQ(rig.driver->submit(late).error().code(), EAGAIN);
  rig.driver->publish();
  rig.pump();
  EXPECT_EQ(late.completions, 0);
  for (std::uint32_t i = 0; i < 3; ++i) EXPECT_EQ(calls[i].answer, (Answer{i + 1, false}));
  EXPECT_EQ(rig.ask(41), (Answer{42, false}));
}

TEST_P(ExampleDriver, AsDeepAsTheSmallestQueueGoesItLosesNothing) {
  Rig rig(GetParam(), {.queue_size = 4, .limit = 5}, {.depth = 1000, .events = 1000});
  for (int round = 0; round < 100; ++round) {
    std::deque<Counted> calls;
    for (unsigned i = 0; i < rig.driver->depth(); ++i) ASSERT_TRUE(rig.driver->submit(calls.emplace_back(i)));
    rig.driver->publish();
    rig.pump();
    for (unsigned i = 0; i < calls.size(); ++i) EXPECT_EQ(calls[i].answer, (Answer{i + 1, false}));
  }
}

TEST_P(ExampleDriver, PolledItHearsOfAnswersEventsAndLimits) {
  Rig rig(GetParam(), {.limit = 100}, {.poll = true});
  EXPECT_EQ(rig.ask(41), (Answer{42, false}));
  EXPECT_EQ(rig.ask(101), (Answer{101, true}));
  EXPECT_THAT(rig.events, ElementsAre(Event{101, 0}));
  ASSERT_TRUE(rig.device->set_limit(7));
  rig.pump();
  EXPECT_THAT(rig.limits, ElementsAre(Limit{7, 1}));
  for (std::uint32_t i = 0; i < 100; ++i) rig.ask(101 + i);
  EXPECT_EQ(rig.events.size(), 101u);
  // With EVENT_IDX nothing says that none is wanted: the first one comes.
  EXPECT_LE(rig.transport->interrupts(request_queue), 1u);
  EXPECT_LE(rig.transport->interrupts(event_queue), 1u);
}

TEST_P(ExampleDriver, ADeviceThatBreaksEndsTheCallsAndIsWellAfterARestart) {
  for (const bool poll : {false, true}) {
    Rig rig(GetParam(), {.limit = 100, .break_on = 13}, {.poll = poll});
    EXPECT_EQ(rig.ask(13), std::nullopt);
    EXPECT_EQ(rig.error, EIO);
    EXPECT_TRUE(rig.driver->broken());
    EXPECT_EQ(rig.ask(1), std::nullopt);
    EXPECT_EQ(rig.error, EIO);
    ASSERT_TRUE(rig.driver->restart());
    EXPECT_EQ(rig.ask(41), (Answer{42, false}));
    EXPECT_EQ(rig.ask(101), (Answer{101, true}));
    EXPECT_THAT(rig.events, ElementsAre(Event{101, 0}));
  }
}

TEST_P(ExampleDriver, CallsThatWaitNeedALoopOfTheDriversOwn) {
  Rig rig(GetParam());
  EXPECT_EQ(rig.driver->increment(41).error().code(), ENOTSUP);
  EXPECT_EQ(rig.driver->process().error().code(), ENOTSUP);
  EXPECT_EQ(rig.driver->wait(Duration(0)).error().code(), ENOTSUP);
  EXPECT_EQ(rig.driver->fd(), -1);
}

TEST_P(ExampleDriver, MovesWithCallsInFlight) {
  Rig rig(GetParam());
  Counted call(41);
  ASSERT_TRUE(rig.driver->submit(call));
  rig.driver->publish();
  Driver moved = std::move(*rig.driver);
  rig.pump();
  EXPECT_EQ(call.completions, 1);
  EXPECT_EQ(call.answer, (Answer{42, false}));
  rig.driver.emplace(std::move(moved));
}

}  // namespace
}  // namespace outboard::example
