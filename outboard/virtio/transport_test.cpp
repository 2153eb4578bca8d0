#include <outboard/virtio/transport.hpp>

#include <gtest/gtest.h>

#include <outboard/testing/fake_transport.hpp>
#include <tests/support/hostile_eventfd.hpp>

namespace outboard::virtio {
namespace {

namespace status = spec::status;
using testing::FakeTransport;

constexpr Feature tso{7}, csum{1}, unknown{60};

TEST(Negotiate, FollowsTheOrderOfTheSpecification) {
  FakeTransport transport;

  ASSERT_TRUE(negotiate(transport, {}));

  EXPECT_EQ(transport.statuses, (std::vector<std::uint8_t>{0, 1, 1 | 2, 1 | 2 | 8}));
}

TEST(Negotiate, AgreesOnWhatBothWantAndAddsWhatConcernsTheTransport) {
  FakeTransport transport;
  transport.offered =
      Features{Feature::version_1, Feature::access_platform, Feature::event_idx, Feature::ring_packed, unknown};

  const auto agreed = negotiate(transport, Features{Feature::event_idx, Feature::indirect_desc});

  const Features expected{Feature::version_1, Feature::access_platform, Feature::event_idx};
  ASSERT_TRUE(agreed);
  EXPECT_EQ(*agreed, expected);
  EXPECT_EQ(transport.accepted, expected);
}

TEST(Negotiate, DropsAFeatureWithoutItsPrerequisiteAndWhatDependsOnIt) {
  constexpr Feature ecn{9};
  FakeTransport transport;
  transport.offered = Features{Feature::version_1, tso, ecn};  // but not csum
  const FeatureDependency needs[] = {{ecn, tso}, {tso, csum}};

  const auto agreed = negotiate(transport, Features{csum, tso, ecn}, needs);

  ASSERT_TRUE(agreed);
  EXPECT_EQ(*agreed, Features{Feature::version_1});
}

TEST(Negotiate, NeverAcceptsACookieInPlaceOfTheQueueIndex) {
  FakeTransport transport;
  transport.offered = Features{Feature::version_1, Feature::notif_config_data};

  const auto agreed = negotiate(transport, Features{Feature::notif_config_data});

  ASSERT_TRUE(agreed);
  EXPECT_FALSE(agreed->has(Feature::notif_config_data));
}

TEST(Negotiate, RefusesADeviceOfBefore1_0) {
  FakeTransport transport;
  transport.offered = Features{csum};

  const auto agreed = negotiate(transport, Features{csum});

  ASSERT_FALSE(agreed);
  EXPECT_EQ(agreed.error().code(), ENODEV);
  EXPECT_NE(transport.statuses.back() & status::failed, 0);
}

// docs/spec-map.md, VR-10.
TEST(Negotiate, SetsFailedWhenFeaturesOkDoesNotStick) {
  FakeTransport transport;
  transport.takes_features = false;

  const auto agreed = negotiate(transport, {});

  ASSERT_FALSE(agreed);
  EXPECT_EQ(agreed.error().code(), EPROTO);
  EXPECT_NE(agreed.error().message().find("00000001'00000000"), std::string::npos) << agreed.error().message();
  EXPECT_NE(transport.statuses.back() & status::failed, 0);
}

TEST(StartDevice, SetsDriverOkAndLooksWhetherItWasTaken) {
  FakeTransport transport;
  EXPECT_TRUE(start_device(transport));
  EXPECT_EQ(transport.statuses.back(), 1 | 2 | 8 | 4);

  transport.takes_driver_ok = false;
  const auto started = start_device(transport);
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code(), EIO);
}

TEST(Doorbell, ASaturatedBlockingEventfdOfTheDeviceBlocksNobody) {
  const testing::HostileEventFd device;
  const EventFd event = device.give();
  EXPECT_TRUE(device.does_not_block([&] { Doorbell::eventfd(event).ring(0); }));
}

TEST(Doorbell, WritesTheRegisterLittleEndianOrSignalsTheEventfd) {
  volatile std::uint16_t narrow = 0;
  volatile std::uint32_t wide = 0;
  const EventFd event = EventFd::create().value();

  Doorbell::memory(&narrow).ring(0x1234);
  Doorbell::memory32(&wide).ring(0x12345678);
  Doorbell::eventfd(event).ring(7);
  Doorbell().ring(1);

  EXPECT_EQ(narrow, le16(0x1234).stored());
  EXPECT_EQ(wide, le32(0x12345678).stored());
  EXPECT_EQ(event.drain(), 1U);
}

}  // namespace
}  // namespace outboard::virtio
