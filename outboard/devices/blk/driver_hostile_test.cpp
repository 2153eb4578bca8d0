// The driver against a device that is worked by hand and need not be sane. VR-n is a row of
// docs/spec-map.md.

#include <outboard/devices/blk/driver.hpp>

#include <cstring>
#include <deque>
#include <optional>

#include <gtest/gtest.h>

#include <outboard/testing/fake_transport.hpp>
#include <outboard/testing/hand_device.hpp>
#include <outboard/testing/manual_loop.hpp>

namespace outboard::blk {
namespace {

using testing::FakeTransport;
using testing::HandDevice;
using testing::ManualLoop;

struct Operation : Io {
  explicit Operation(const Io& io) : Io(io) {
    done = [](Io& self) { ++static_cast<Operation&>(self).completions; };
  }
  int completions = 0;
};

class Rig {
 public:
  explicit Rig(bool is_packed) : packed(is_packed) {
    transport.type = device_id;
    transport.offered = {virtio::Feature::version_1, feature::seg_max, feature::flush, feature::discard, feature::mq};
    if (packed) transport.offered.set(virtio::Feature::ring_packed);
    config.capacity = 2048;
    config.seg_max = 8;
    config.num_queues = 1;
    config.max_discard_sectors = 16;
    config.max_discard_seg = 1;
    for (int i = 0; i < 2; ++i) transport.vectors.push_back(EventFd::create().value());
    store_config();
  }

  void store_config() {
    const Bytes bytes = as_bytes_of(config);
    transport.config.assign(bytes.begin(), bytes.end());
  }
  Status start(Driver::Options options = {}) {
    options.loop = &loop;
    OUTBOARD_TRY(Driver started, Driver::start(transport, options));
    driver.emplace(std::move(started));
    take_over();
    return {};
  }
  /// The device's end of the ring that the driver has set up last.
  void take_over() { hand.emplace(transport, 0, packed); }
  void interrupt() {
    transport.vectors[1].signal();
    loop.run_until_idle();
  }
  void config_interrupt() {
    transport.vectors[0].signal();
    loop.run_until_idle();
  }
  Operation& submit(const Io& io) {
    operations.emplace_back(io);
    EXPECT_TRUE(driver->queue(0).submit(operations.back()));
    driver->queue(0).publish();
    return operations.back();
  }
  Operation& read() {
    if (!buffer) buffer = driver->dma().allocate(4096).value();
    element = {buffer.iova(), 512};
    return submit({.kind = Io::Kind::read, .data = std::span(&element, 1)});
  }
  /// Answers the next request as a device would, but for status and used length.
  void answer(std::uint8_t status, std::optional<std::uint32_t> length = {}) {
    const auto chain = hand->pop();
    ASSERT_TRUE(chain);
    std::uint32_t writable = 0;
    for (const auto& part : chain->elements) writable += part.writable ? part.length : 0;
    const auto& last = chain->elements.back();
    std::memcpy(transport.space.host(last.address + (last.length - 1), 1), &status, 1);
    hand->use(*chain, length.value_or(writable));
    interrupt();
  }
  std::size_t resets() const {
    return static_cast<std::size_t>(std::ranges::count(transport.statuses, std::uint8_t{0}));
  }

  bool packed;
  spec::Config config;
  testing::FakeClock clock;
  ManualLoop loop{clock};
  FakeTransport transport;
  std::optional<Driver> driver;
  std::optional<HandDevice> hand;
  std::deque<Operation> operations;
  memory::DmaBuffer buffer;
  virtio::Element element;
};

class HostileBlkDevice : public ::testing::TestWithParam<bool> {
 protected:
  Rig r{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(, HostileBlkDevice, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

TEST_P(HostileBlkDevice, AnHonestOneIsServed) {
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  r.answer(spec::status::ok);
  EXPECT_EQ(read.completions, 1);
  EXPECT_EQ(read.error, 0);
}

TEST_P(HostileBlkDevice, OfAnotherTypeIsRefused) {
  r.transport.type = 1;
  EXPECT_EQ(r.start().error().code(), ENODEV);
}

TEST_P(HostileBlkDevice, WithoutRoomForACapacityIsRefused) {
  r.transport.config.resize(4);
  EXPECT_EQ(r.start().error().code(), EPROTO);
}

TEST_P(HostileBlkDevice, WithAShortConfigurationIsTaken) {
  r.transport.config.resize(8);
  ASSERT_TRUE(r.start());
  EXPECT_EQ(r.driver->limits().seg_max, 1u);
}

/// Two elements that make one sector do not fit into one segment.
TEST_P(HostileBlkDevice, ARestThatDoesNotFitIsGivenUpWhenItsTurnComes) {
  r.config.seg_max = 1;
  r.store_config();
  ASSERT_TRUE(r.start({.depth = 1, .indirect = false}));
  const auto buffer = r.driver->dma().allocate(4096).value();
  const virtio::Element elements[] = {{buffer.iova(), 512}, {buffer.iova() + 1024, 256}, {buffer.iova() + 2048, 256}};
  const Operation& read = r.submit({.kind = Io::Kind::read, .data = elements});
  r.answer(spec::status::ioerr);
  EXPECT_EQ(read.completions, 1);
  EXPECT_EQ(read.error, EIO) << "what the device said of the part that it had";
}

TEST_P(HostileBlkDevice, VR1_AnIdThatDoesNotExistGetsItResetAndTheRequestIsSentAgain) {
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  ASSERT_TRUE(r.hand->pop());
  r.hand->use(r.packed ? 4095 : 0xffff0000U, 513, 1);
  r.interrupt();
  EXPECT_EQ(read.completions, 0);
  EXPECT_EQ(r.driver->recoveries(), 1u);
  r.take_over();
  r.answer(spec::status::ok);
  EXPECT_EQ(read.completions, 1);
  EXPECT_EQ(read.error, 0);
}

TEST_P(HostileBlkDevice, VR2_ABufferReturnedTwiceGetsItReset) {
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  const auto chain = r.hand->pop();
  ASSERT_TRUE(chain);
  const std::uint8_t ok = spec::status::ok;
  std::memcpy(r.transport.space.host(chain->elements.back().address, 1), &ok, 1);
  r.hand->use(*chain, 513);
  r.hand->use(*chain, 513);
  r.interrupt();
  if (read.completions == 0) {  // a split ring shows both at once, and neither is believed
    EXPECT_EQ(r.driver->recoveries(), 1u);
    r.take_over();
    r.answer(spec::status::ok);
  }
  EXPECT_EQ(read.completions, 1);
}

TEST_P(HostileBlkDevice, VR3_ALengthBeyondTheBufferIsClamped) {
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  r.answer(spec::status::ok, UINT32_MAX);
  EXPECT_EQ(read.error, 0);
}

TEST_P(HostileBlkDevice, VR4_DataThatItDoesNotClaimToHaveWrittenAreNotTaken) {
  ASSERT_TRUE(r.start());
  for (const std::uint32_t length : {0U, 1U, 512U}) {
    Operation& read = r.read();
    r.answer(spec::status::ok, length);
    EXPECT_EQ(read.completions, 1);
    EXPECT_EQ(read.error, EIO) << length;
  }
  std::array<char, spec::id_size> id{};
  Operation& get_id = r.submit({.kind = Io::Kind::get_id, .id = &id});
  r.answer(spec::status::ok, 20);
  EXPECT_EQ(get_id.error, EIO);
}

TEST_P(HostileBlkDevice, VR10_ThatRefusesTheFeaturesIsRefused) {
  r.transport.takes_features = false;
  EXPECT_EQ(r.start().error().code(), EPROTO);
}

TEST_P(HostileBlkDevice, VR11_ThatNeverComesOutOfAResetIsGivenUp) {
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  r.transport.resets = false;
  r.transport.current_status |= virtio::spec::status::needs_reset;
  r.config_interrupt();
  EXPECT_EQ(read.completions, 1);
  EXPECT_EQ(read.error, ENODEV);
  Operation late(Io{.kind = Io::Kind::flush});
  EXPECT_EQ(r.driver->queue(0).submit(late).error().code(), ENODEV);
  r.transport.resets = true;  // at last: the memory may go back
}

TEST_P(HostileBlkDevice, VR16_WithNoQueuesToNameHasOne) {
  r.config.num_queues = 0;
  r.store_config();
  Driver::Options options;
  options.queues = 4;
  ASSERT_TRUE(r.start(options));
  EXPECT_EQ(r.driver->queue_count(), 1u);
}

TEST_P(HostileBlkDevice, VR16_WithMoreQueuesConfiguredThanPresentHasThosePresent) {
  r.config.num_queues = 60000;
  r.store_config();
  Driver::Options options;
  options.queues = 4;
  ASSERT_TRUE(r.start(options));
  EXPECT_EQ(r.driver->queue_count(), 1u);
}

TEST_P(HostileBlkDevice, RangesAreCutToWhatItTakes) {
  ASSERT_TRUE(r.start());
  Operation& discard = r.submit({.kind = Io::Kind::discard, .sectors = 40});
  for (const std::uint32_t expected : {16U, 16U, 8U}) {
    const auto chain = r.hand->pop();
    ASSERT_TRUE(chain);
    spec::RangeSegment segment;
    std::memcpy(&segment, r.transport.space.host(chain->elements.at(1).address, sizeof segment), sizeof segment);
    EXPECT_EQ(segment.num_sectors, expected);
    const std::uint8_t ok = spec::status::ok;
    std::memcpy(r.transport.space.host(chain->elements.back().address, 1), &ok, 1);
    r.hand->use(*chain, 1);
    r.interrupt();
  }
  EXPECT_EQ(discard.completions, 1);
}

TEST_P(HostileBlkDevice, VR18_ALostInterruptIsMadeUpFor) {
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  const auto chain = r.hand->pop();
  ASSERT_TRUE(chain);
  const std::uint8_t ok = spec::status::ok;
  std::memcpy(r.transport.space.host(chain->elements.back().address, 1), &ok, 1);
  r.hand->use(*chain, 513);
  r.loop.advance(std::chrono::seconds(10));
  EXPECT_EQ(read.completions, 1);
  EXPECT_EQ(r.driver->recoveries(), 0u);
}

TEST_P(HostileBlkDevice, VR18_ThatDoesNotAnswerIsResetAndThreeAttemptsAreMade) {
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  r.loop.advance(std::chrono::seconds(45));
  EXPECT_EQ(r.driver->recoveries(), 1u);
  EXPECT_EQ(read.completions, 0);
  r.loop.advance(std::chrono::seconds(200));
  EXPECT_EQ(read.completions, 1);
  EXPECT_EQ(read.error, ETIMEDOUT);
}

TEST_P(HostileBlkDevice, VR18_AnInterruptStormDoesNothing) {
  ASSERT_TRUE(r.start());
  for (int i = 0; i < 1000; ++i) r.interrupt();
  for (int i = 0; i < 1000; ++i) r.config_interrupt();
  EXPECT_EQ(r.driver->recoveries(), 0u);
}

TEST_P(HostileBlkDevice, VR19_ThatAsksForAResetGetsItAndTheRequestAgain) {
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  r.transport.current_status |= virtio::spec::status::needs_reset;
  r.config_interrupt();
  EXPECT_EQ(r.driver->recoveries(), 1u);
  r.take_over();
  r.answer(spec::status::ok);
  EXPECT_EQ(read.error, 0);
}

TEST_P(HostileBlkDevice, VR19_ThatAsksForAResetAgainAndAgainIsGivenUp) {
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(r.driver->recoveries(), static_cast<unsigned>(i));
    r.transport.current_status |= virtio::spec::status::needs_reset;
    r.config_interrupt();
  }
  EXPECT_EQ(r.driver->recoveries(), 3u);
  EXPECT_EQ(read.completions, 1);
  EXPECT_EQ(read.error, EIO) << "sent three times";
  Operation late(Io{.kind = Io::Kind::flush});
  EXPECT_EQ(r.driver->queue(0).submit(late).error().code(), ENODEV);
}

TEST_P(HostileBlkDevice, VR19_ThatAsksForAResetNowAndThenIsServed) {
  ASSERT_TRUE(r.start());
  for (int i = 0; i < 10; ++i) {
    r.transport.current_status |= virtio::spec::status::needs_reset;
    r.config_interrupt();
    r.loop.advance(std::chrono::seconds(61));
  }
  EXPECT_EQ(r.driver->recoveries(), 10u);
}

TEST_P(HostileBlkDevice, ThatOffersOtherFeaturesAfterAResetIsGivenUp) {
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  r.transport.offered.clear(feature::flush);
  r.transport.current_status |= virtio::spec::status::needs_reset;
  r.config_interrupt();
  EXPECT_EQ(read.error, ENODEV);
}

TEST_P(HostileBlkDevice, VR20_AStatusThatMeansNothingIsAnError) {
  ASSERT_TRUE(r.start());
  for (const unsigned status : {3U, 77U, 0xffU}) {
    Operation& read = r.read();
    r.answer(static_cast<std::uint8_t>(status));
    EXPECT_EQ(read.error, EIO);
  }
  Operation& read = r.read();
  r.answer(spec::status::unsupp);
  EXPECT_EQ(read.error, ENOTSUP);
}

TEST_P(HostileBlkDevice, VR21_WritesToABufferItHasReturnedChangeNoResult) {
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  const auto chain = r.hand->pop();
  ASSERT_TRUE(chain);
  const auto say = [&](std::uint8_t status) {
    const auto& last = chain->elements.back();
    std::memcpy(r.transport.space.host(last.address + (last.length - 1), 1), &status, 1);
  };
  say(spec::status::ok);
  r.hand->use(*chain, 513);
  r.interrupt();
  ASSERT_EQ(read.completions, 1);
  say(spec::status::ioerr);
  r.interrupt();
  EXPECT_EQ(read.completions, 1);
  EXPECT_EQ(read.error, 0);
  // Nor is it taken for the answer to the next request, which may well use the same byte.
  Operation& next = r.read();
  r.answer(spec::status::ok);
  EXPECT_EQ(next.error, 0);
}

TEST_P(HostileBlkDevice, VR22_WhoseRegistersReadAllOnesHasGone) {
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  r.transport.current_status = 0xff;
  r.config_interrupt();
  EXPECT_EQ(read.error, ENODEV);
  EXPECT_EQ(r.resets(), 1u) << "there is nobody to reset";
}

TEST_P(HostileBlkDevice, VR22_ThatIsPulledOutEndsWhatIsInFlightAtOnce) {
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  r.transport.go();
  r.loop.run_until_idle();
  EXPECT_EQ(read.completions, 1);
  EXPECT_EQ(read.error, ENODEV);
}

TEST_P(HostileBlkDevice, VR23_WithoutAVectorForAQueueSharesOrIsPolled) {
  r.transport.queue(0).refuses_vectors = {0, 1};
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  const auto chain = r.hand->pop();
  ASSERT_TRUE(chain);
  const std::uint8_t ok = spec::status::ok;
  std::memcpy(r.transport.space.host(chain->elements.back().address, 1), &ok, 1);
  r.hand->use(*chain, 513);
  r.loop.run_until_idle();
  EXPECT_EQ(read.completions, 1);
}

TEST_P(HostileBlkDevice, VR23_WithoutAnyVectorIsPolledByTheLoop) {
  r.transport.vectors.clear();
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  const auto chain = r.hand->pop();
  ASSERT_TRUE(chain);
  const std::uint8_t ok = spec::status::ok;
  std::memcpy(r.transport.space.host(chain->elements.back().address, 1), &ok, 1);
  r.hand->use(*chain, 513);
  r.loop.run_until_idle();
  EXPECT_EQ(read.completions, 1);
}

TEST_P(HostileBlkDevice, VR23_SharesTheConfigurationsVector) {
  r.transport.queue(0).refuses_vectors = {1};
  ASSERT_TRUE(r.start());
  Operation& read = r.read();
  const auto chain = r.hand->pop();
  ASSERT_TRUE(chain);
  const std::uint8_t ok = spec::status::ok;
  std::memcpy(r.transport.space.host(chain->elements.back().address, 1), &ok, 1);
  r.hand->use(*chain, 513);
  r.config_interrupt();
  EXPECT_EQ(read.completions, 1);
}

TEST_P(HostileBlkDevice, VR24_AConfigurationThatShrinksFailsWhatLiesBeyond) {
  ASSERT_TRUE(r.start());
  r.config.capacity = 1;
  r.store_config();
  r.config_interrupt();
  EXPECT_EQ(r.driver->capacity(), 512u);
  Operation beyond(Io{.kind = Io::Kind::discard, .sector = Sector{1}, .sectors = 1});
  EXPECT_EQ(r.driver->queue(0).submit(beyond).error().code(), EINVAL);
}

}  // namespace
}  // namespace outboard::blk
