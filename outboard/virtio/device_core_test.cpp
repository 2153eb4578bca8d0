// The device status field, features, queue registers and life cycle, as a transport drives them. VD-n is a row of
// docs/spec-map.md; the states are those of the device status field (VIRTIO 1.4, 2.1).

#include <cstring>
#include <tuple>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tests/support/device_rig.hpp>

namespace outboard::virtio {
namespace {

using memory::Iova;
using outboard::testing::DeviceRig;
using ::testing::ElementsAre;
namespace bit = spec::status;

constexpr std::uint8_t s1 = bit::acknowledge, s2 = s1 | bit::driver, s3 = s2 | bit::features_ok,
                       s4 = s3 | bit::driver_ok;
constexpr std::uint8_t needs_reset = bit::needs_reset, failed = bit::failed;

/// Takes a new rig to a state, overlays included.
void bring_to(DeviceRig& rig, std::uint8_t state) {
  rig.map_driver();
  const std::uint8_t plain = state & ~(needs_reset | failed);
  if (plain >= s3) {
    rig.negotiate();
    rig.set_up_queue();
    if (plain == s4) rig.driver_ok();
  } else if (plain != 0) {
    rig.core->write_status(plain);
  }
  if ((state & needs_reset) != 0) rig.device.host->violation("test", "a violation");
  if ((state & failed) != 0) rig.core->write_status(plain | failed);
  rig.settle();
}

struct Row {
  std::uint8_t from;
  std::uint8_t write;
  std::uint8_t then;
};
std::string name_of(const ::testing::TestParamInfo<Row>& row) {
  return fmt::format("From{:02x}Write{:02x}", row.param.from, row.param.write);
}
void PrintTo(const Row& row, std::ostream* out) { *out << fmt::format("{:02x} + {:02x}", row.from, row.write); }

class StatusWrite : public ::testing::TestWithParam<Row> {};

TEST_P(StatusWrite, LeavesTheDeviceInTheStateThatTheTableGives) {
  DeviceRig rig({});
  const Row row = GetParam();
  bring_to(rig, row.from);
  ASSERT_EQ(rig.core->status(), row.from);
  if (row.from <= s2) {
    // So that a FEATURES_OK has something to be judged by, where the state lets features be written.
    for (std::uint32_t word = 0; word < 4; ++word)
      rig.core->write_driver_features(word, rig.core->offered().word(word));
  }
  rig.core->write_status(row.write);
  EXPECT_EQ(rig.core->status(), row.then);
}

constexpr std::uint8_t n = needs_reset, x = failed, suspend = bit::suspend;
INSTANTIATE_TEST_SUITE_P(
    Table, StatusWrite,
    ::testing::Values(
                             // write 0
        Row{0, 0, 0}, Row{s1, 0, 0}, Row{s2, 0, 0}, Row{s3, 0, 0}, Row{s4, 0, 0}, Row{s4 | n, 0, 0}, Row{s4 | x, 0, 0},
        Row{s4 | n | x, 0, 0}, Row{s2 | n, 0, 0},
                             // adds ACKNOWLEDGE or DRIVER
        Row{0, s1, s1}, Row{0, 2, 2}, Row{s1, s2, s2}, Row{s2, s2, s2}, Row{s3, s3, s3}, Row{s4, s4, s4},
        Row{n, s1, s1 | n}, Row{s1 | n, s2, s2 | n}, Row{x, s1, x}, Row{s1 | x, s2, s1 | x},
                             // adds FEATURES_OK (features were written in S2 only)
        Row{0, 8, 0}, Row{s1, s1 | 8, s1}, Row{s2, s3, s3}, Row{s2 | n, s3, s2 | n}, Row{s2 | x, s3, s2 | x},
                             // adds DRIVER_OK
        Row{0, 4, 0}, Row{s1, s1 | 4, s1}, Row{s2, s2 | 4, s2}, Row{s3, s4, s4}, Row{s3 | n, s4, s3 | n},
        Row{s3 | x, s4, s3 | x},
                             // adds SUSPEND, which is not offered
        Row{0, suspend, 0}, Row{s2, s2 | suspend, s2}, Row{s3, s3 | suspend, s3}, Row{s4, s4 | suspend, s4},
        Row{s4 | n, s4 | suspend, s4 | n},
                             // drops a bit
        Row{s2, s1, s2}, Row{s4, s3, s4}, Row{s4, 1, s4}, Row{s4 | n, s1, s4 | n}, Row{s4 | x, s1, s4 | x},
                             // contains 0x40
        Row{0, n, 0}, Row{s1, s2 | n, s2}, Row{s4, s4 | n, s4}, Row{s4 | n, s4 | n, s4 | n}, Row{s4 | n, s4, s4 | n},
                             // adds FAILED
        Row{0, x, x}, Row{s2, s2 | x, s2 | x}, Row{s4, s4 | x, s4 | x}, Row{s4, x, s4 | x},
        Row{s4 | n, s4 | x, s4 | n | x}, Row{s4 | x, s4 | x, s4 | x}),
    name_of);

constexpr std::uint8_t states[] = {0, s1, s2, s3, s4, s2 | n, s3 | n, s4 | n, s2 | x, s3 | x, s4 | x};

class InState : public ::testing::TestWithParam<std::uint8_t> {
 protected:
  void SetUp() override { bring_to(rig, GetParam()); }
  DeviceRig rig{{.queues = 2}};
};
INSTANTIATE_TEST_SUITE_P(States, InState, ::testing::ValuesIn(states),
                         [](const auto& state) { return fmt::format("{:02x}", state.param); });

TEST_P(InState, FeaturesCanBeWrittenBetweenDriverAndFeaturesOkOnly) {
  const auto before = rig.core->driver_features(0);
  rig.core->write_driver_features(0, ~before);
  EXPECT_EQ(rig.core->driver_features(0), GetParam() == s2 ? ~before : before);
}

TEST_P(InState, ADisabledQueueCanBeSetUpBetweenFeaturesOkAndDriverOkOnly) {
  const bool open = GetParam() == s3;
  rig.core->set_queue_size(1, 8);
  rig.core->set_queue_address(1, 0, rig.driver(1).address(0));
  EXPECT_EQ(rig.core->queue_size(1), open ? 8 : 16);
  EXPECT_EQ(rig.core->queue_address(1, 0), open ? rig.driver(1).address(0) : Iova{});
  rig.set_up_queue(1);
  EXPECT_EQ(rig.core->queue_enabled(1), open);
}

TEST_P(InState, VD35_AnEnabledQueueCannotBeChanged) {
  const bool enabled = rig.core->queue_enabled(0);
  const auto size = rig.core->queue_size(0);
  const auto address = rig.core->queue_address(0, 2);
  if (!enabled) return;
  rig.core->set_queue_size(0, 2);
  rig.core->set_queue_address(0, 2, Iova{0x1000});
  EXPECT_EQ(rig.core->queue_size(0), size);
  EXPECT_EQ(rig.core->queue_address(0, 2), address);
}

TEST_P(InState, ConfigurationCanBeWrittenFromFeaturesOkOnUnlessBroken) {
  const bool open = GetParam() == s3 || GetParam() == s4;
  const std::byte value[] = {std::byte{0x5a}};
  rig.core->write_config(2, value);
  std::byte read[1];
  rig.core->read_config(2, read);
  EXPECT_EQ(read[0], open ? std::byte{0x5a} : std::byte{0});
}

TEST_P(InState, AKickDoesSomethingInALiveDeviceOnly) {
  rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_EQ(rig.device.requests, GetParam() == s4 ? 1U : 0U);
  EXPECT_EQ(rig.driver().used_count(), GetParam() == s4 ? 1U : 0U);
}

TEST_P(InState, AFatalErrorIsShownAndNotifiedOnlyWhenLive) {
  rig.config_notified = 0;
  rig.device.host->violation("test", "another");
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_EQ(rig.config_notified, GetParam() == s4 || GetParam() == (s4 | x) ? 1U : 0U);
  rig.device.host->violation("test", "and another");
  EXPECT_LE(rig.config_notified, 1U);
}

TEST_P(InState, AResetGivesAnEmptyDeviceThatCanBeStartedAgain) {
  const auto resets = rig.device.resets;
  rig.core->write_status(0);
  EXPECT_EQ(rig.core->status(), 0);
  EXPECT_EQ(rig.device.resets, resets + 1);
  EXPECT_FALSE(rig.core->broken());
  EXPECT_EQ(rig.core->driver_features(0), 0U);
  for (unsigned queue = 0; queue < 2; ++queue) {
    EXPECT_FALSE(rig.core->queue_enabled(queue));
    EXPECT_EQ(rig.core->queue_size(queue), 16);
    EXPECT_EQ(rig.core->queue_address(queue, 0), Iova{});
  }
  rig.driver().restart();
  rig.negotiate();
  rig.set_up_queue();
  rig.driver_ok();
  EXPECT_EQ(rig.core->status(), s4);
  rig.driver().chain().readable("x").writable(1).publish();
  rig.process();
  EXPECT_EQ(rig.driver().used_count(), 1U);
}

TEST(DeviceStatus, SeveralBitsInOneWriteCountInTheirOrder) {
  DeviceRig rig({});
  rig.core->write_status(s2);
  for (std::uint32_t word = 0; word < 4; ++word) rig.core->write_driver_features(word, rig.core->offered().word(word));
  rig.core->write_status(s4);
  EXPECT_EQ(rig.core->status(), s4);
}

TEST(DeviceStatus, AFailedDeviceLeavesMemoryAlone) {
  DeviceRig rig({});
  rig.run();
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().writable(4).publish();
  rig.process();
  rig.core->write_status(s4 | failed);
  rig.device.kept[0].complete();
  rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_EQ(rig.driver().used_count(), 0U);
  EXPECT_EQ(rig.device.requests, 1U);
}

// Features.

TEST(DeviceFeatures, EveryDeviceOffersWhatTheLibraryDoesForIt) {
  DeviceRig rig({.features = Features{static_cast<Feature>(5), static_cast<Feature>(70)}});
  const Features& offered = rig.core->offered();
  for (const Feature feature : {Feature::version_1, Feature::indirect_desc, Feature::event_idx, Feature::ring_reset,
                                Feature::access_platform, static_cast<Feature>(5), static_cast<Feature>(70)}) {
    EXPECT_TRUE(offered.has(feature)) << static_cast<int>(feature);
  }
  for (const Feature feature : {Feature::ring_packed, Feature::in_order, Feature::suspend, Feature::sr_iov}) {
    EXPECT_FALSE(offered.has(feature)) << static_cast<int>(feature);
  }
}

struct Refusal {
  const char* name;
  Features with;
  Features without;
};
class FeatureSet : public ::testing::TestWithParam<Refusal> {};

TEST_P(FeatureSet, VD44_IsRefusedAndCanBeMended) {
  DeviceRig rig({.options = {.access_platform = AccessPlatform::require}});
  rig.negotiate((rig.core->offered() | GetParam().with) - GetParam().without);
  EXPECT_EQ(rig.core->status(), s2);
  EXPECT_TRUE(rig.device.host->negotiated().empty());
  for (std::uint32_t word = 0; word < 4; ++word) rig.core->write_driver_features(word, rig.core->offered().word(word));
  rig.core->write_status(s3);
  EXPECT_EQ(rig.core->status(), s3);
  EXPECT_EQ(rig.device.host->negotiated(), rig.core->offered());
}
INSTANTIATE_TEST_SUITE_P(Sets, FeatureSet,
                         ::testing::Values(Refusal{"WithoutVersion1", {}, Features{Feature::version_1}},
                                           Refusal{"WithoutAccessPlatform", {}, Features{Feature::access_platform}},
                                           Refusal{"WithABitThatWasNotOffered", Features{static_cast<Feature>(3)}, {}},
                                           Refusal{"WithARingThatWasNotOffered", Features{Feature::ring_packed}, {}},
                                           Refusal{"WithAReservedBit", Features{static_cast<Feature>(48)}, {}}),
                         [](const auto& refusal) { return refusal.param.name; });

TEST(DeviceFeatures, ABitBeyondTheLastIsRefused) {
  DeviceRig rig({});
  rig.core->write_status(s2);
  rig.core->write_driver_features(4, 1);
  EXPECT_EQ(rig.core->driver_features(4), 0U);
  rig.negotiate();
  EXPECT_EQ(rig.core->status(), s2);
}

TEST(DeviceFeatures, TheDeviceHasTheLastWord) {
  DeviceRig rig({});
  rig.device.accepts_features = false;
  rig.negotiate();
  EXPECT_EQ(rig.core->status(), s2);
  rig.device.accepts_features = true;
  rig.core->write_status(s3);
  EXPECT_EQ(rig.core->status(), s3);
}

TEST(DeviceFeatures, AccessPlatformIsNotOfferedToADriverThatMustNotSeeIt) {
  DeviceRig rig({.options = {.access_platform = AccessPlatform::off}});
  EXPECT_FALSE(rig.core->offered().has(Feature::access_platform));
  rig.negotiate();
  EXPECT_EQ(rig.core->status(), s3);
}

TEST(DeviceFeatures, EverySubsetWithVersion1Works) {
  const Feature optional[] = {Feature::indirect_desc, Feature::event_idx, Feature::ring_reset,
                              Feature::ring_packed,   Feature::in_order,  Feature::access_platform};
  for (unsigned set = 0; set < 64; ++set) {
    Features accepted{Feature::version_1};
    for (unsigned i = 0; i < std::size(optional); ++i) {
      if ((set >> i & 1) != 0) accepted.set(optional[i]);
    }
    DeviceRig rig({.packed = accepted.has(Feature::ring_packed), .options = {.in_order = true}});
    rig.map_driver();
    rig.negotiate(accepted);
    ASSERT_EQ(rig.core->status(), s3) << set;
    rig.set_up_queue();
    rig.driver_ok();
    rig.driver().chain().readable("x").writable(1).publish();
    rig.process();
    EXPECT_EQ(rig.driver().used_count(), 1U) << set;
  }
}

TEST(DeviceFeatures, AnIdentityThatIsNotWellFormedIsRefused) {
  testing::ManualLoop loop;
  memory::AddressMap map(loop);
  struct : TransportEvents {
    void notify_queue(unsigned) override {}
    void notify_config() override {}
  } events;
  const auto refused = [&](Identity identity) {
    testing::ScriptedDevice device(std::move(identity));
    const auto made = DeviceCore::create(device, map, loop, events, {});
    return !made && made.error().code() == EINVAL;
  };
  EXPECT_TRUE(refused({.device_id = 0, .queue_sizes = {16}}));
  EXPECT_TRUE(refused({.device_id = 1, .queue_sizes = {0}}));
  EXPECT_TRUE(refused({.device_id = 1, .queue_sizes = {48}}));
  EXPECT_TRUE(refused({.device_id = 1, .features = Features{static_cast<Feature>(27)}, .queue_sizes = {16}}));
  EXPECT_FALSE(refused({.device_id = 1, .queue_sizes = {}}));
}

// Queue registers.

class QueueRegisters : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    rig.map_driver();
    rig.negotiate();
  }
  DeviceRig rig{{.packed = GetParam()}};
};
INSTANTIATE_TEST_SUITE_P(Rings, QueueRegisters, ::testing::Bool(),
                         [](const auto& format) { return format.param ? "Packed" : "Split"; });

TEST_P(QueueRegisters, VD34_AnIllegalSizeIsIgnored) {
  for (const unsigned size : {0U, 17U, 32U, 65535U}) {
    rig.core->set_queue_size(0, static_cast<std::uint16_t>(size));
    EXPECT_EQ(rig.core->queue_size(0), 16) << size;
  }
  rig.core->set_queue_size(0, 12);
  EXPECT_EQ(rig.core->queue_size(0), GetParam() ? 12 : 16);
}

TEST_P(QueueRegisters, VD36_AQueueThatIsNotThereReadsZeroAndIgnoresWrites) {
  rig.core->set_queue_size(7, 8);
  rig.core->set_queue_address(7, 0, Iova{0x1000});
  rig.core->enable_queue(7);
  rig.core->reset_queue(7);
  rig.core->kick(7);
  rig.core->kick_now(7);
  EXPECT_EQ(rig.core->queue_size(7), 0);
  EXPECT_EQ(rig.core->queue_max_size(7), 0);
  EXPECT_EQ(rig.core->queue_address(7, 0), Iova{});
  EXPECT_FALSE(rig.core->queue_enabled(7));
  EXPECT_FALSE(rig.core->queue_resetting(7));
  rig.core->set_queue_address(0, 3, Iova{0x1000});
  EXPECT_EQ(rig.core->queue_address(0, 3), Iova{});
}

TEST_P(QueueRegisters, VD37_EnablingWithAMisalignedRingBreaksTheDevice) {
  rig.set_up_queue();
  EXPECT_FALSE(rig.core->broken());
  for (unsigned area = 0; area < 3; ++area) {
    const std::size_t alignment = ring_part(GetParam(), RingPart{static_cast<std::uint8_t>(area)}, 16).alignment;
    for (std::size_t askew = 1; askew < alignment; askew *= 2) {
      rig.core->write_status(0);
      rig.negotiate();
      ASSERT_FALSE(rig.needs_reset()) << "of before";
      for (unsigned part = 0; part < 3; ++part) {
        rig.core->set_queue_address(0, part, rig.driver().address(part) + (part == area ? askew : 0));
      }
      rig.core->enable_queue(0);
      EXPECT_TRUE(rig.needs_reset()) << area << " by " << askew;
      EXPECT_FALSE(rig.core->queue_enabled(0));
      EXPECT_EQ(rig.config_notified, 0U);  // DRIVER_OK is not set
    }
  }
}

TEST_P(QueueRegisters, VD37_EnablingWithARingBeyondTheLastAddressBreaksTheDevice) {
  rig.core->set_queue_address(0, 0, Iova{UINT64_MAX - 15});
  rig.core->enable_queue(0);
  EXPECT_TRUE(rig.needs_reset());
}

TEST_P(QueueRegisters, VD38_DriverOkWithARingInNoMemoryFails) {
  rig.core->set_queue_address(0, 0, Iova{0});
  rig.core->set_queue_address(0, 1, Iova{0});
  rig.core->set_queue_address(0, 2, Iova{0});
  rig.core->enable_queue(0);
  ASSERT_TRUE(rig.core->queue_enabled(0));
  rig.driver_ok();
  EXPECT_EQ(rig.core->status(), s3 | needs_reset);
  EXPECT_EQ(rig.config_notified, 0U);
}

TEST_P(QueueRegisters, VD38_DriverOkWithARingThatMayNotBeWrittenFails) {
  rig.core->write_status(0);
  rig.unmap_driver();
  rig.map_driver(0, memory::Access::read);
  rig.negotiate();
  rig.set_up_queue();
  rig.driver_ok();
  EXPECT_EQ(rig.core->status(), s3 | needs_reset);
}

TEST_P(QueueRegisters, ADeviceThatCannotStartAQueueNeedsReset) {
  rig.set_up_queue();
  rig.device.on_start = [](unsigned, const QueueState&) -> Status { return Error(ENOMEM, "no room"); };
  rig.driver_ok();
  EXPECT_EQ(rig.core->status(), s3 | needs_reset);
}

TEST_P(QueueRegisters, VD42_AKickBeforeDriverOkConsumesNothingAndActivationScans) {
  rig.set_up_queue();
  rig.driver().chain().readable("x").writable(1).publish();
  rig.process();
  EXPECT_EQ(rig.device.requests, 0U);
  rig.driver_ok();
  rig.settle();  // nobody kicks again
  EXPECT_EQ(rig.device.requests, 1U);
  EXPECT_EQ(rig.driver().used_count(), 1U);
}

TEST_P(QueueRegisters, VD41_AKickForADisabledQueueDoesNothing) {
  rig.driver_ok();
  rig.driver().chain().writable(1).publish();
  rig.process();
  EXPECT_EQ(rig.device.requests, 0U);
  EXPECT_FALSE(rig.core->broken());
}

TEST_P(QueueRegisters, AQueueThatWasNotEnabledBeforeDriverOkStaysOff) {
  rig.driver_ok();
  rig.set_up_queue();
  EXPECT_FALSE(rig.core->queue_enabled(0));
}

// Configuration space.

TEST(DeviceConfig, VD48_BeyondItsEndItReadsOnesAndIgnoresWrites) {
  DeviceRig rig({.config_size = 6});
  rig.run();
  rig.device.config = {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}, std::byte{5}, std::byte{6}};
  std::byte read[4];
  rig.core->read_config(4, read);
  EXPECT_EQ(std::memcmp(read, "\x05\x06\xff\xff", 4), 0);
  rig.core->read_config(6, read);
  EXPECT_EQ(std::memcmp(read, "\xff\xff\xff\xff", 4), 0);
  rig.core->read_config(0xffffffff, read);
  EXPECT_EQ(std::memcmp(read, "\xff\xff\xff\xff", 4), 0);
  rig.core->write_config(4, read);
  rig.core->write_config(6, read);
  rig.core->write_config(0xfffffffe, read);
  rig.core->read_config(2, read);
  EXPECT_EQ(std::memcmp(read, "\x03\x04\x05\x06", 4), 0);
}

TEST(DeviceConfig, TheGenerationMovesOnceForAnyNumberOfChanges) {
  DeviceRig rig({});
  rig.run();
  const auto before = rig.core->config_generation();
  EXPECT_EQ(rig.core->config_generation(), before);
  for (unsigned i = 0; i < 256; ++i) rig.device.host->config_changed(0, 4);
  EXPECT_EQ(rig.core->config_generation(), static_cast<std::uint8_t>(before + 1));
  EXPECT_EQ(rig.core->config_generation(), static_cast<std::uint8_t>(before + 1));
  EXPECT_EQ(rig.config_notified, 256U);
}

TEST(DeviceConfig, ADriverThatReadsAcrossAChangeSeesTheGenerationMove) {
  DeviceRig rig({});
  rig.run();
  std::byte half[4];
  const auto before = rig.core->config_generation();
  rig.core->read_config(0, half);
  rig.device.host->config_changed(0, 8);
  rig.core->read_config(4, half);
  EXPECT_NE(rig.core->config_generation(), before);
}

TEST(DeviceConfig, AChangeIsNotifiedToALiveDriverOnly) {
  DeviceRig rig({});
  rig.negotiate();
  rig.device.host->config_changed(0, 4);
  EXPECT_EQ(rig.config_notified, 0U);
  rig.driver_ok();
  rig.device.host->config_changed(0, 4);
  EXPECT_EQ(rig.config_notified, 1U);
}

// Bus mastering.

TEST(DevicePause, VD52_APausedDeviceTouchesNothingAndGoesOnAfterwards) {
  DeviceRig rig({});
  rig.run();
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().writable(4).publish();
  rig.process();
  rig.core->set_paused(true);
  rig.driver().chain().writable(4).publish();
  rig.device.kept[0].complete();
  rig.process();
  EXPECT_EQ(rig.driver().used_count(), 0U);
  EXPECT_EQ(rig.notified[0], 0U);
  EXPECT_EQ(rig.device.requests, 1U);
  rig.core->set_paused(false);
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 1U);
  EXPECT_EQ(rig.notified[0], 1U);
  EXPECT_EQ(rig.device.requests, 2U);
}

TEST(DevicePause, WhoseMemoryIsTakenAwayMeanwhileIsNoFaultOfTheDriver) {
  for (const bool paused : {false, true}) {
    DeviceRig rig({});
    rig.run();
    rig.device.on_request = rig.device.keep();
    rig.driver().chain().writable(4).publish();
    rig.process();
    rig.core->set_paused(paused);
    rig.unmap_driver();
    rig.device.kept[0].violation(Error(EFAULT, "the driver's buffer is gone"));
    rig.settle();
    EXPECT_TRUE(rig.core->broken());
    EXPECT_THAT(rig.log_levels, ElementsAre(paused ? Level::info : Level::error));
  }
}

}  // namespace
}  // namespace outboard::virtio
