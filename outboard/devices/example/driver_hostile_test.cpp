// The driver against a device that is worked by hand and need not be sane. R-EX is a statement of specification.md, "Row" a
// row of the table of hostile devices (docs/spec-map.md, VR).

#include <outboard/devices/example/driver.hpp>

#include <cstring>
#include <deque>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/testing/fake_transport.hpp>
#include <outboard/testing/hand_device.hpp>
#include <outboard/testing/manual_loop.hpp>

namespace outboard::example {
namespace {

using ::testing::ElementsAre;
using testing::FakeTransport;
using testing::HandDevice;
using ::testing::IsEmpty;
using testing::ManualLoop;

struct Counted : Call {
  explicit Counted(std::uint32_t number) {
    value = number;
    done = [](Call& self) { ++static_cast<Counted&>(self).completions; };
  }
  int completions = 0;
};

class Rig {
 public:
  explicit Rig(bool is_packed) : packed(is_packed) {
    transport.type = device_id;
    transport.offered = {virtio::Feature::version_1, feature::limit};
    if (packed) transport.offered.set(virtio::Feature::ring_packed);
    for (int i = 0; i < 3; ++i) transport.vectors.push_back(EventFd::create().value());
    set_limit(100, 0);
  }

  void set_limit(std::uint32_t limit, std::uint64_t epoch) {
    const spec::Config config{.limit = limit, .reserved = 0xdeadbeef, .epoch = epoch};
    const Bytes bytes = as_bytes_of(config);
    transport.config.assign(bytes.begin(), bytes.end());
  }
  Status start(Driver::Options options = {}) {
    options.loop = &loop;
    OUTBOARD_TRY(Driver started, Driver::start(transport, options));
    driver.emplace(std::move(started));
    driver->on_event([this](const Event& event) { events.push_back(event); });
    driver->on_limit([this](const Limit& limit) { limits.push_back(limit); });
    take_over();
    return {};
  }
  /// The device's end of the rings that the driver has set up last.
  void take_over() {
    requestq.emplace(transport, request_queue, packed);
    if (driver->has_limit()) eventq.emplace(transport, event_queue, packed);
  }
  void interrupt(unsigned vector) {
    transport.vectors[vector].signal();
    loop.run_until_idle();
  }
  void requests_used() { interrupt(1); }
  void events_used() { interrupt(2); }
  void config_changed() { interrupt(0); }

  Counted& submit(std::uint32_t value) {
    calls.emplace_back(value);
    EXPECT_TRUE(driver->submit(calls.back()));
    driver->publish();
    return calls.back();
  }
  /// Uses the next request as the device would, but for what is said here.
  void answer(const spec::Reply& reply, std::optional<std::uint32_t> length = {}) {
    const auto chain = requestq->pop();
    ASSERT_TRUE(chain);
    const auto& part = chain->elements.back();
    std::memcpy(transport.space.host(part.address, part.length), &reply, part.length);
    requestq->use(*chain, length.value_or(part.length));
    requests_used();
  }
  void tell(const spec::Event& event, std::uint32_t length = sizeof(spec::Event)) {
    const auto chain = eventq->pop();
    ASSERT_TRUE(chain);
    std::memcpy(transport.space.host(chain->elements.at(0).address, sizeof event), &event, sizeof event);
    eventq->use(*chain, length);
    events_used();
  }
  /// Everything is well: a call is answered.
  void expect_well() {
    Counted& call = submit(41);
    answer({.result = 42});
    EXPECT_EQ(call.completions, 1);
    EXPECT_EQ(call.error, 0);
    EXPECT_EQ(call.answer, (Answer{42, false}));
  }
  void expect_broken(Counted& call, int error) {
    EXPECT_EQ(call.completions, 1);
    EXPECT_EQ(call.error, error);
    EXPECT_TRUE(driver->broken());
    EXPECT_EQ(transport.statuses.back(), 0) << "it was reset";
    Counted late(1);
    EXPECT_EQ(driver->submit(late).error().code(), EIO);
    EXPECT_EQ(late.completions, 0);
  }
  std::size_t resets() const {
    return static_cast<std::size_t>(std::ranges::count(transport.statuses, std::uint8_t{0}));
  }

  bool packed;
  testing::FakeClock clock;
  ManualLoop loop{clock};
  FakeTransport transport{2};
  std::vector<Event> events;
  std::vector<Limit> limits;
  std::deque<Counted> calls;
  std::optional<Driver> driver;
  std::optional<HandDevice> requestq, eventq;
};

class HostileExampleDevice : public ::testing::TestWithParam<bool> {
 protected:
  Rig r{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(, HostileExampleDevice, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

// --- What the driver must do -------------------------------------------------------------------------------------------

TEST_P(HostileExampleDevice, R_EX_1_ABufferHasFourReadableBytesAndRoomForTheReply) {
  for (const bool limit : {true, false}) {
    Rig rig(GetParam());
    if (!limit) rig.transport.offered.clear(feature::limit);
    ASSERT_TRUE(rig.start());
    rig.submit(0x04030201);
    rig.submit(5);
    const auto chain = rig.requestq->pop();
    ASSERT_TRUE(chain);
    ASSERT_EQ(chain->elements.size(), 2u);
    EXPECT_FALSE(chain->elements[0].writable);
    EXPECT_EQ(chain->elements[0].length, 4u);
    EXPECT_TRUE(chain->elements[1].writable);
    EXPECT_EQ(chain->elements[1].length, limit ? 8u : 4u);
    const std::byte* value = rig.transport.space.host(chain->elements[0].address, 4);
    for (unsigned i = 0; i < 4; ++i) EXPECT_EQ(std::to_integer<unsigned>(value[i]), i + 1) << "little-endian";
    EXPECT_TRUE(rig.requestq->pop()) << "and the other one has a buffer of its own";
    EXPECT_FALSE(rig.requestq->pop());
  }
}

TEST_P(HostileExampleDevice, R_EX_2_VR4_AResultThatItDoesNotClaimToHaveWrittenIsNotTaken) {
  ASSERT_TRUE(r.start());
  for (std::uint32_t length = 0; length < 8; ++length) {
    Counted& call = r.submit(41);
    r.answer({.result = 42}, length);
    EXPECT_EQ(call.completions, 1);
    EXPECT_EQ(call.error, EIO) << length;
    EXPECT_EQ(call.answer, Answer{});
  }
  EXPECT_FALSE(r.driver->broken());
  r.expect_well();
}

TEST_P(HostileExampleDevice, R_EX_2_WithoutLimitFourBytesAreEnoughAndThreeAreNot) {
  r.transport.offered.clear(feature::limit);
  ASSERT_TRUE(r.start());
  for (std::uint32_t length = 0; length <= 4; ++length) {
    Counted& call = r.submit(41);
    r.answer({.result = 42}, length);
    EXPECT_EQ(call.error, length == 4 ? 0 : EIO) << length;
    EXPECT_EQ(call.answer, (length == 4 ? Answer{42, false} : Answer{}));
  }
}

TEST_P(HostileExampleDevice, R_EX_3_ReservedFieldsAreIgnored) {
  ASSERT_TRUE(r.start());
  Counted& call = r.submit(41);
  r.answer({.result = 42, .status = spec::status::ok, .reserved = {1, 2, 3}});
  EXPECT_EQ(call.answer, (Answer{42, false}));
  r.tell({.type = spec::event::limit_hit, .missed = 0, .value = 101, .reserved = 0xffffffff});
  EXPECT_THAT(r.events, ElementsAre(Event{101, 0}));
  EXPECT_EQ(r.driver->limit().value(), (Limit{100, 0}));
}

TEST_P(HostileExampleDevice, R_EX_3_AnUnknownEventIsIgnoredButForWhatWasMissed) {
  ASSERT_TRUE(r.start());
  for (const std::uint32_t type : {0U, 2U, 0x01000000U, 0xffffffffU})
    r.tell({.type = type, .missed = 0, .value = 7, .reserved = 0});
  EXPECT_THAT(r.events, IsEmpty());
  r.tell({.type = 2, .missed = 3, .value = 7, .reserved = 0});
  EXPECT_THAT(r.events, ElementsAre(Event{std::nullopt, 3}));
  r.expect_well();
}

TEST_P(HostileExampleDevice, R_EX_4_MissedEventsAreToldAndBuffersAreGivenBack) {
  ASSERT_TRUE(r.start({.events = 2}));
  for (std::uint32_t i = 0; i < 20; ++i)
    r.tell({.type = spec::event::limit_hit, .missed = i, .value = 200 + i, .reserved = 0});
  ASSERT_EQ(r.events.size(), 20u);
  for (std::uint32_t i = 0; i < 20; ++i) EXPECT_EQ(r.events[i], (Event{200 + i, i}));
  EXPECT_TRUE(r.eventq->pop());
  EXPECT_TRUE(r.eventq->pop());
  EXPECT_FALSE(r.eventq->pop()) << "never more than it has";
}

TEST_P(HostileExampleDevice, R_EX_4_EventBuffersOf16WritableBytesAreThereFromTheStart) {
  ASSERT_TRUE(r.start({.events = 3}));
  for (int i = 0; i < 3; ++i) {
    const auto chain = r.eventq->pop();
    ASSERT_TRUE(chain);
    ASSERT_EQ(chain->elements.size(), 1u);
    EXPECT_TRUE(chain->elements[0].writable);
    EXPECT_EQ(chain->elements[0].length, 16u);
  }
}

TEST_P(HostileExampleDevice, R_EX_6_WithoutLimitTheEventQueueIsNotEnabled) {
  r.transport.offered.clear(feature::limit);
  ASSERT_TRUE(r.start());
  EXPECT_TRUE(r.transport.queue(request_queue).enabled);
  EXPECT_FALSE(r.transport.queue(event_queue).enabled);
  EXPECT_EQ(r.driver->limit().error().code(), ENOTSUP);
  // The same where the driver does not want it.
  Rig other(GetParam());
  ASSERT_TRUE(other.start({.limit = false}));
  EXPECT_FALSE(other.transport.queue(event_queue).enabled);
  EXPECT_FALSE(other.transport.accepted.has(feature::limit));
}

TEST_P(HostileExampleDevice, R_EX_7_LimitAndEpochAreReadTogetherAndMayDifferEachTime) {
  ASSERT_TRUE(r.start());
  EXPECT_EQ(r.driver->limit().value(), (Limit{100, 0}));
  r.set_limit(7, 0x1'0000'0001);
  EXPECT_EQ(r.driver->limit().value(), (Limit{7, 0x1'0000'0001}));
  r.config_changed();
  EXPECT_THAT(r.limits, ElementsAre(Limit{7, 0x1'0000'0001}));
  r.transport.config.resize(8);  // not even that is certain
  EXPECT_FALSE(r.driver->limit());
  r.config_changed();
  EXPECT_EQ(r.limits.size(), 1u);
  r.expect_well();
}

TEST_P(HostileExampleDevice, R_EX_8_AStatusThatMeansNothingIsAFailedRequest) {
  ASSERT_TRUE(r.start());
  for (unsigned status = 2; status < 256; ++status) {
    Counted& call = r.submit(41);
    r.answer({.result = 42, .status = static_cast<std::uint8_t>(status)});
    EXPECT_EQ(call.error, EIO) << status;
    EXPECT_EQ(call.answer, Answer{});
  }
  Counted& call = r.submit(101);
  r.answer({.result = 101, .status = spec::status::range});
  EXPECT_EQ(call.answer, (Answer{101, true}));
}

// --- What else a device may do -----------------------------------------------------------------------------------------

TEST_P(HostileExampleDevice, OfAnotherTypeIsLeftAlone) {
  r.transport.type = 2;
  EXPECT_EQ(r.start().error().code(), ENODEV);
  EXPECT_THAT(r.transport.statuses, IsEmpty()) << "somebody else may drive it";
}

TEST_P(HostileExampleDevice, ADepthOf0IsRefused) { EXPECT_EQ(r.start({.depth = 0}).error().code(), EINVAL); }

TEST_P(HostileExampleDevice, WithAQueueTooSmallForARequestIsRefusedAndReset) {
  r.transport.queue(0).max_size = 1;
  EXPECT_EQ(r.start().error().code(), EPROTO);
  EXPECT_EQ(r.transport.statuses.back(), 0);
}

TEST_P(HostileExampleDevice, VR1_AnIdThatDoesNotExistBreaksIt) {
  ASSERT_TRUE(r.start());
  Counted& call = r.submit(41);
  ASSERT_TRUE(r.requestq->pop());
  r.requestq->use(r.packed ? 4095 : 0xffff0000U, 8, 1);
  r.requests_used();
  r.expect_broken(call, EIO);
}

TEST_P(HostileExampleDevice, VR1_AnEventIdThatDoesNotExistBreaksItToo) {
  ASSERT_TRUE(r.start());
  Counted& call = r.submit(41);
  ASSERT_TRUE(r.eventq->pop());
  r.eventq->use(r.packed ? 4095 : 0xffff0000U, 16, 1);
  r.events_used();
  r.expect_broken(call, EIO);
  EXPECT_THAT(r.events, IsEmpty());
}

TEST_P(HostileExampleDevice, VR2_ABufferReturnedTwiceBreaksItAndEveryCallEndsOnce) {
  ASSERT_TRUE(r.start());
  Counted &first = r.submit(1), &second = r.submit(2);
  const auto chain = r.requestq->pop();
  ASSERT_TRUE(chain);
  r.requestq->use(*chain, 8);
  r.requestq->use(*chain, 8);
  r.requests_used();
  EXPECT_EQ(first.completions, 1);
  r.expect_broken(second, EIO);
}

TEST_P(HostileExampleDevice, VR3_ALengthBeyondTheBufferIsCut) {
  ASSERT_TRUE(r.start());
  Counted& call = r.submit(41);
  r.answer({.result = 42}, UINT32_MAX);
  EXPECT_EQ(call.error, 0);
  EXPECT_EQ(call.answer, (Answer{42, false}));
}

TEST_P(HostileExampleDevice, R_EX_9_VR4_AnEventThatItDoesNotClaimToHaveWrittenIsNone) {
  ASSERT_TRUE(r.start({.events = 2}));
  for (std::uint32_t length = 0; length < 16; ++length)
    r.tell({.type = spec::event::limit_hit, .missed = 9, .value = 7, .reserved = 0}, length);
  EXPECT_THAT(r.events, IsEmpty());
  r.tell({.type = spec::event::limit_hit, .missed = 9, .value = 7, .reserved = 0});
  EXPECT_THAT(r.events, ElementsAre(Event{7, 9}));
}

TEST_P(HostileExampleDevice, VR10_ThatRefusesTheFeaturesIsRefused) {
  r.transport.takes_features = false;
  EXPECT_EQ(r.start().error().code(), EPROTO);
}

TEST_P(HostileExampleDevice, VR10_ThatDoesNotTakeDriverOkIsRefused) {
  r.transport.takes_driver_ok = false;
  EXPECT_EQ(r.start().error().code(), EIO);
}

TEST_P(HostileExampleDevice, VR11_WhereAResetIsNotConfirmedMemoryIsKeptUntilOneIs) {
  ASSERT_TRUE(r.start());
  Counted& call = r.submit(41);
  const auto chain = r.requestq->pop();
  ASSERT_TRUE(chain);
  r.transport.resets = false;
  r.transport.current_status |= virtio::spec::status::needs_reset;
  r.config_changed();
  r.expect_broken(call, EIO);
  // What the device can still write to is nobody else's.
  const auto& reply = chain->elements.back();
  std::memset(r.transport.space.host(reply.address, reply.length), 0xff, reply.length);
  EXPECT_EQ(r.driver->restart().error().code(), ETIMEDOUT);
  std::memset(r.transport.space.host(reply.address, reply.length), 0xff, reply.length);
  r.transport.resets = true;
  ASSERT_TRUE(r.driver->restart());
  r.take_over();
  r.expect_well();
  EXPECT_EQ(call.completions, 1);
}

TEST_P(HostileExampleDevice, VR11_TheDriverCanGoAllTheSame) {
  ASSERT_TRUE(r.start());
  Counted& call = r.submit(41);
  r.transport.resets = false;
  r.transport.current_status |= virtio::spec::status::needs_reset;
  r.config_changed();
  r.transport.resets = true;  // at last
  r.driver.reset();
  EXPECT_EQ(call.completions, 1);
  EXPECT_THAT(r.transport.space.mappings(), IsEmpty());
}

TEST_P(HostileExampleDevice, VR18_ThatDoesNotAnswerIsBrokenWhenTheTimeIsUp) {
  ASSERT_TRUE(r.start({.timeout = std::chrono::seconds(3)}));
  Counted& call = r.submit(41);
  r.loop.advance(std::chrono::seconds(2));
  EXPECT_EQ(call.completions, 0);
  r.loop.advance(std::chrono::seconds(2));
  r.expect_broken(call, ETIMEDOUT);
}

TEST_P(HostileExampleDevice, VR18_ThatAnswersSlowlyButAnswersIsServed) {
  ASSERT_TRUE(r.start({.timeout = std::chrono::seconds(3)}));
  for (int i = 0; i < 20; ++i) {
    Counted& call = r.submit(41);
    r.loop.advance(std::chrono::seconds(2));
    r.answer({.result = 42});
    EXPECT_EQ(call.error, 0);
  }
  r.loop.advance(std::chrono::seconds(100));
  EXPECT_FALSE(r.driver->broken()) << "nothing is in flight";
}

TEST_P(HostileExampleDevice, VR18_ThatAnswersEveryCallButOneIsBrokenToo) {
  ASSERT_TRUE(r.start({.timeout = std::chrono::seconds(4)}));
  Counted& forgotten = r.submit(1);
  ASSERT_TRUE(r.requestq->pop());
  for (int i = 0; i < 8 && forgotten.completions == 0; ++i) {
    r.submit(41);
    r.answer({.result = 42});
    r.loop.advance(std::chrono::seconds(1));
  }
  r.expect_broken(forgotten, ETIMEDOUT);
}

TEST_P(HostileExampleDevice, VR18_WithoutADeadlineTheDriverWaits) {
  ASSERT_TRUE(r.start({.timeout = Duration(0)}));
  Counted& call = r.submit(41);
  r.loop.advance(std::chrono::hours(100));
  EXPECT_EQ(call.completions, 0);
  r.answer({.result = 42});
  EXPECT_EQ(call.error, 0);
}

TEST_P(HostileExampleDevice, VR18_ALostInterruptIsMadeUpFor) {
  ASSERT_TRUE(r.start());
  Counted& call = r.submit(41);
  const auto chain = r.requestq->pop();
  ASSERT_TRUE(chain);
  std::memset(r.transport.space.host(chain->elements[1].address, 8), 0, 8);
  r.requestq->use(*chain, 8);
  r.loop.advance(std::chrono::seconds(11));
  EXPECT_EQ(call.completions, 1);
  EXPECT_FALSE(r.driver->broken());
}

TEST_P(HostileExampleDevice, VR18_AnInterruptStormDoesNothing) {
  ASSERT_TRUE(r.start());
  for (int i = 0; i < 1000; ++i) {
    r.requests_used();
    r.events_used();
    r.config_changed();
  }
  EXPECT_FALSE(r.driver->broken());
  EXPECT_EQ(r.resets(), 1u);
  r.expect_well();
}

TEST_P(HostileExampleDevice, VR18_AFloodOfEventsDoesNotKeepCallsFromBeingAnswered) {
  ASSERT_TRUE(r.start());
  // As fast as the driver gives a buffer back, the device uses it: from inside the driver's own turn.
  unsigned told = 0;
  constexpr unsigned flood = 20000;
  r.transport.on_ring = [&](unsigned queue) {
    if (queue != event_queue) return;
    while (told < flood) {
      const auto chain = r.eventq->pop();
      if (!chain) return;
      ++told;
      r.eventq->use(*chain, 0);
      r.transport.vectors[2].signal();
    }
  };
  r.transport.on_ring(event_queue);
  Counted& call = r.submit(41);
  const auto chain = r.requestq->pop();
  ASSERT_TRUE(chain);
  std::memset(r.transport.space.host(chain->elements[1].address, 8), 0, 8);
  r.requestq->use(*chain, 8);
  r.transport.vectors[1].signal();
  r.loop.run_once();
  EXPECT_EQ(call.completions, 1);
  EXPECT_LT(told, flood);
  r.loop.run_until_idle();
  EXPECT_THAT(r.events, IsEmpty());
  EXPECT_FALSE(r.driver->broken());
}

TEST_P(HostileExampleDevice, VR19_ThatNeedsAResetIsResetAndLeftUntilTheNextStart) {
  ASSERT_TRUE(r.start());
  Counted &one = r.submit(1), &two = r.submit(2);
  r.transport.current_status |= virtio::spec::status::needs_reset;
  r.config_changed();
  EXPECT_EQ(one.completions, 1);
  r.expect_broken(two, EIO);
  const auto said = r.transport.statuses.size();
  r.loop.advance(std::chrono::minutes(10));
  EXPECT_EQ(r.transport.statuses.size(), said);
  ASSERT_TRUE(r.driver->restart());
  EXPECT_FALSE(r.driver->broken());
  r.take_over();
  r.expect_well();
  r.tell({.type = spec::event::limit_hit, .missed = 0, .value = 101, .reserved = 0});
  EXPECT_THAT(r.events, ElementsAre(Event{101, 0}));
}

TEST_P(HostileExampleDevice, VR19_ThatIsBrokenAgainAfterEachRestartStaysUsable) {
  ASSERT_TRUE(r.start());
  for (int i = 0; i < 50; ++i) {
    Counted& call = r.submit(41);
    r.transport.current_status |= virtio::spec::status::needs_reset;
    r.config_changed();
    r.expect_broken(call, EIO);
    ASSERT_TRUE(r.driver->restart());
    r.take_over();
  }
  r.expect_well();
}

TEST_P(HostileExampleDevice, RestartEndsCallsInFlightOnceAndStartsAgain) {
  ASSERT_TRUE(r.start());
  Counted &one = r.submit(1), &two = r.submit(2);
  ASSERT_TRUE(r.driver->restart());
  EXPECT_EQ(one.completions, 1);
  EXPECT_EQ(one.error, ECANCELED);
  EXPECT_EQ(two.completions, 1);
  EXPECT_EQ(two.error, ECANCELED);
  r.take_over();
  r.expect_well();
}

TEST_P(HostileExampleDevice, ThatOffersNoLimitAfterARestartIsDrivenWithoutIt) {
  ASSERT_TRUE(r.start());
  r.transport.offered.clear(feature::limit);
  ASSERT_TRUE(r.driver->restart());
  EXPECT_FALSE(r.driver->has_limit());
  EXPECT_FALSE(r.transport.queue(event_queue).enabled);
  r.eventq.reset();
  r.take_over();
  r.expect_well();
}

TEST_P(HostileExampleDevice, ThatCannotBeStartedAgainIsBroken) {
  ASSERT_TRUE(r.start());
  r.transport.takes_features = false;
  EXPECT_EQ(r.driver->restart().error().code(), EPROTO);
  EXPECT_TRUE(r.driver->broken());
  Counted late(1);
  EXPECT_EQ(r.driver->submit(late).error().code(), EIO);
  r.transport.takes_features = true;
  ASSERT_TRUE(r.driver->restart());
  r.take_over();
  r.expect_well();
}

TEST_P(HostileExampleDevice, DestroyingTheDriverEndsCallsInFlightOnce) {
  ASSERT_TRUE(r.start());
  Counted &one = r.submit(1), &two = r.submit(2);
  r.driver.reset();
  EXPECT_EQ(one.completions, 1);
  EXPECT_EQ(one.error, ECANCELED);
  EXPECT_EQ(two.completions, 1);
  EXPECT_EQ(r.transport.statuses.back(), 0);
  EXPECT_THAT(r.transport.space.mappings(), IsEmpty());
  EXPECT_EQ(r.loop.registrations(), 0u);
}

/// Submits the next call from its callback, whatever has become of it.
struct Chained : Call {
  Chained(Driver& with, std::uint32_t number) : driver(&with) {
    value = number;
    done = [](Call& self) {
      auto& me = static_cast<Chained&>(self);
      ++me.completions;
      me.errors.push_back(me.error);
      if (me.completions < 5) {
        const auto again = me.driver->submit(me);
        if (!again) me.refused = again.error().code();
      }
      me.nested = me.driver->restart().error().code();
    };
  }
  Driver* driver;
  int completions = 0, refused = 0, nested = 0;
  std::vector<int> errors;
};

TEST_P(HostileExampleDevice, ACallbackMaySubmitAndMayNotRestart) {
  ASSERT_TRUE(r.start({.depth = 1}));
  Chained call(*r.driver, 41);
  ASSERT_TRUE(r.driver->submit(call));
  r.driver->publish();
  for (int i = 0; i < 5; ++i) r.answer({.result = 42});
  EXPECT_EQ(call.completions, 5);
  EXPECT_THAT(call.errors, ElementsAre(0, 0, 0, 0, 0));
  EXPECT_EQ(call.refused, 0);
  EXPECT_EQ(call.nested, EDEADLK);
}

TEST_P(HostileExampleDevice, ACallbackThatSubmitsWhileTheDeviceIsGivenUpIsRefused) {
  ASSERT_TRUE(r.start());
  Chained call(*r.driver, 41);
  ASSERT_TRUE(r.driver->submit(call));
  r.driver->publish();
  r.transport.current_status |= virtio::spec::status::needs_reset;
  r.config_changed();
  EXPECT_EQ(call.completions, 1);
  EXPECT_EQ(call.refused, EIO);
  EXPECT_EQ(call.nested, EDEADLK);
}

TEST_P(HostileExampleDevice, AnEventCallbackMaySubmitAndTheDeviceIsShownIt) {
  ASSERT_TRUE(r.start());
  Counted call(41);
  r.driver->on_event([&](const Event&) { EXPECT_TRUE(r.driver->submit(call)); });
  r.tell({.type = spec::event::limit_hit, .missed = 0, .value = 101, .reserved = 0});
  r.answer({.result = 42});
  EXPECT_EQ(call.completions, 1);
}

TEST_P(HostileExampleDevice, ALimitCallbackMaySubmitAndTheDeviceIsShownIt) {
  ASSERT_TRUE(r.start());
  Counted call(41);
  r.driver->on_limit([&](const Limit&) { EXPECT_TRUE(r.driver->submit(call)); });
  r.config_changed();
  r.answer({.result = 42});
  EXPECT_EQ(call.completions, 1);
}

TEST_P(HostileExampleDevice, VR21_WritesToABufferItHasReturnedChangeNoResult) {
  ASSERT_TRUE(r.start());
  Counted& call = r.submit(41);
  const auto chain = r.requestq->pop();
  ASSERT_TRUE(chain);
  std::byte* reply = r.transport.space.host(chain->elements[1].address, 8);
  std::memset(reply, 0, 8);
  r.requestq->use(*chain, 8);
  r.requests_used();
  EXPECT_EQ(call.answer, (Answer{0, false}));
  std::memset(reply, 0xff, 8);
  r.requests_used();
  EXPECT_EQ(call.completions, 1);
  EXPECT_EQ(call.answer, (Answer{0, false}));
  r.expect_well();
}

TEST_P(HostileExampleDevice, VR22_WhoseRegistersReadAllOnesHasGone) {
  ASSERT_TRUE(r.start());
  Counted& call = r.submit(41);
  r.transport.current_status = 0xff;
  r.config_changed();
  r.expect_broken(call, ENODEV);
}

TEST_P(HostileExampleDevice, VR22_ThatHasGoneIsBroken) {
  ASSERT_TRUE(r.start());
  Counted& call = r.submit(41);
  r.transport.has_gone = true;
  r.config_changed();
  EXPECT_EQ(call.error, ENODEV);
  EXPECT_TRUE(r.driver->broken());
}

TEST_P(HostileExampleDevice, VR22_ThatIsPulledOutEndsWhatIsInFlightAtOnce) {
  ASSERT_TRUE(r.start());
  Counted& call = r.submit(41);
  r.transport.go();
  r.loop.run_until_idle();
  r.expect_broken(call, ENODEV);
}

TEST_P(HostileExampleDevice, VR22_ThatIsPulledOutAfterItsDriverIsNobodysConcern) {
  ASSERT_TRUE(r.start());
  r.driver.reset();
  r.transport.go();
}

TEST_P(HostileExampleDevice, VR23_WithoutVectorsForItsQueuesIsPolledByTheLoop) {
  for (const unsigned queue : {request_queue, event_queue}) r.transport.queue(queue).refuses_vectors = {0, 1, 2};
  ASSERT_TRUE(r.start());
  Counted& call = r.submit(41);
  const auto chain = r.requestq->pop();
  ASSERT_TRUE(chain);
  std::memset(r.transport.space.host(chain->elements[1].address, 8), 0, 8);
  r.requestq->use(*chain, 8);
  r.loop.run_until_idle();
  EXPECT_EQ(call.completions, 1);
}

TEST_P(HostileExampleDevice, VR23_WithOneVectorForEverythingIsServed) {
  r.transport.vectors.resize(1);
  ASSERT_TRUE(r.start());
  Counted& call = r.submit(41);
  const auto chain = r.requestq->pop();
  ASSERT_TRUE(chain);
  std::memset(r.transport.space.host(chain->elements[1].address, 8), 0, 8);
  r.requestq->use(*chain, 8);
  r.interrupt(0);
  EXPECT_EQ(call.completions, 1);
}

TEST_P(HostileExampleDevice, VR24_AChangeOfTheConfigurationThatIsNoneIsReadAgain) {
  ASSERT_TRUE(r.start());
  r.config_changed();
  EXPECT_THAT(r.limits, ElementsAre(Limit{100, 0}));
  EXPECT_FALSE(r.driver->broken());
}

}  // namespace
}  // namespace outboard::example
