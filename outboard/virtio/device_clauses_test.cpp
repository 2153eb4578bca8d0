// What a device promises the driver's memory and its order of work: clauses of VIRTIO 1.4 (docs/spec-map.md, D-*) that
// no row of "what a driver may do to a device" (docs/spec-map.md, VD-n) shows.

#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <tests/support/device_rig.hpp>

namespace outboard::virtio {
namespace {

using testing::DeviceRig;
using testing::HandDriver;

using Used = std::vector<HandDriver::Used>;

class EitherDeviceClause : public ::testing::TestWithParam<bool> {
 protected:
  bool packed() const { return GetParam(); }
  DeviceRig& running(DeviceRig::Setup setup = {}) {
    setup.packed = packed();
    rig_ = std::make_unique<DeviceRig>(setup);
    rig_->run();
    return *rig_;
  }
  std::unique_ptr<DeviceRig> rig_;
};
INSTANTIATE_TEST_SUITE_P(Rings, EitherDeviceClause, ::testing::Bool(),
                         [](const auto& format) { return format.param ? "Packed" : "Split"; });
class SplitDeviceClause : public EitherDeviceClause {};
INSTANTIATE_TEST_SUITE_P(Rings, SplitDeviceClause, ::testing::Values(false), [](const auto&) { return "Split"; });
class PackedDeviceClause : public EitherDeviceClause {};
INSTANTIATE_TEST_SUITE_P(Rings, PackedDeviceClause, ::testing::Values(true), [](const auto&) { return "Packed"; });

TEST_P(EitherDeviceClause, D_DT_1_D_PD_1_ReadableMemoryIsNeverWritten) {
  auto& rig = running();
  for (const bool indirect : {false, true}) {
    auto chain = rig.driver().chain();
    if (indirect) chain.indirect();
    chain.readable("0123456789").readable("abcdef").writable(4).writable(12).publish();
    rig.process();
    EXPECT_EQ(rig.driver().take_used().size(), 1U);
    EXPECT_EQ(rig.driver().text(chain.at(0), 10), "0123456789");
    EXPECT_EQ(rig.driver().text(chain.at(1), 6), "abcdef");
    EXPECT_EQ(rig.driver().text(chain.at(2), 4), "0123");
  }
}

TEST_P(SplitDeviceClause, D_DT_2_TheDescriptorTableAndTheAvailableRingAreNeverWritten) {
  auto& rig = running();
  const auto ring = [&] {
    const auto* bytes = rig.driver().at(rig.driver().address(0));
    const auto* available = rig.driver().at(rig.driver().address(1));
    std::vector<std::byte> all(bytes, bytes + 16 * sizeof(spec::Descriptor));
    all.insert(all.end(), available, available + 4 + 2 * 16);
    return all;
  };
  rig.driver().chain().readable("one").writable(8).add();
  rig.driver().chain().indirect().readable("two").writable(8).add();
  rig.driver().publish();
  const auto before = ring();
  rig.process();
  EXPECT_EQ(rig.driver().take_used().size(), 2U);
  EXPECT_EQ(ring(), before);
}

TEST_P(EitherDeviceClause, D_PQ_1_BuffersAreStartedInTheOrderOfTheRing) {
  auto& rig = running();
  std::string order;
  rig.device.on_request = [&](Request request) {
    order += static_cast<char>(request.read<std::uint8_t>().value_or('?'));
    request.complete();
  };
  for (unsigned turn = 0; turn < 5; ++turn) {
    for (const char* name : {"a", "b", "c", "d", "e"}) rig.driver().chain().readable(name).writable(1).add();
    rig.driver().publish();
    rig.process();
    EXPECT_EQ(rig.driver().take_used().size(), 5U);
  }
  EXPECT_EQ(order, "abcdeabcdeabcdeabcdeabcde");
}

TEST_P(EitherDeviceClause, D_PSG_1_D_FRM_1_ElementsAreTakenInOrderHoweverTheyAreCut) {
  auto& rig = running();
  auto chain = rig.driver().chain();
  chain.readable("v").readable("irt").readable("io").writable(1).writable(2).writable(5).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 6}}));
  EXPECT_EQ(rig.driver().text(chain.at(3), 1), "v");
  EXPECT_EQ(rig.driver().text(chain.at(4), 2), "ir");
  EXPECT_EQ(rig.driver().text(chain.at(5), 3), "tio");
}

TEST_P(PackedDeviceClause, D_PD_2_WhatIsLeftOfTheLastTurnIsNotTakenAgain) {
  auto& rig = running();
  for (unsigned i = 0; i < 16; ++i) rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used().size(), 16U);
  // The ring is full of used descriptors, whose bits are both those of the last turn.
  for (unsigned i = 0; i < 3; ++i) rig.process();
  EXPECT_EQ(rig.device.requests, 16U);
  // A descriptor that was available in the last turn is not available in this one.
  auto stale = rig.driver().packed_at(0);
  stale.flags = spec::descriptor::avail | spec::descriptor::write;
  rig.driver().put_packed(0, stale);
  rig.process();
  EXPECT_EQ(rig.device.requests, 16U);
  EXPECT_FALSE(rig.needs_reset());
}

TEST_P(PackedDeviceClause, D_PD_3_AUsedDescriptorIsLeftAlone) {
  auto& rig = running();
  rig.driver().chain().readable("x").writable(1).publish();
  rig.process();
  ASSERT_EQ(rig.driver().take_used().size(), 1U);
  const spec::PackedDescriptor mine{0x1122334455667788, 0x99aabbcc, 0xddee, rig.driver().packed_at(0).flags};
  rig.driver().put_packed(0, mine);
  for (unsigned i = 0; i < 5; ++i) rig.driver().chain().readable("y").writable(1).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used().size(), 5U);
  const auto after = rig.driver().packed_at(0);
  EXPECT_EQ(std::memcmp(&after, &mine, sizeof mine), 0);
}

TEST_P(EitherDeviceClause, D_UN_1_WithoutEventIndexThePlaceOfTheEventMeansNothing) {
  auto& rig = running({.without = Features{Feature::event_idx}});
  for (unsigned i = 0; i < 20; ++i) {
    rig.driver().want_interrupt_at(static_cast<std::uint16_t>(0x7fff - 1021 * i));
    rig.driver().set_driver_flags(0);
    rig.driver().chain().writable(1).publish();
    rig.process();
    EXPECT_EQ(rig.driver().take_used().size(), 1U);
    EXPECT_EQ(rig.notified[0], i + 1U);
  }
}

TEST_P(EitherDeviceClause, D_CFG_1_ConfigurationReadsTheSameBeforeAndAfterFeaturesOk) {
  DeviceRig rig({.packed = packed()});
  rig.device.config = {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4},
                       std::byte{5}, std::byte{6}, std::byte{7}, std::byte{8}};
  std::vector<std::byte> before(8), after(8);
  rig.core->read_config(0, before);
  EXPECT_EQ(before, rig.device.config);
  rig.negotiate();
  rig.core->read_config(0, after);
  EXPECT_EQ(after, before);
}

TEST_P(EitherDeviceClause, VD41_AKickWhileTheQueueIsBeingResetDoesNothing) {
  auto& rig = running();
  rig.device.gives_up_kept = false;
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().writable(4).publish();
  rig.process();
  rig.core->reset_queue(0);
  rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_TRUE(rig.core->queue_resetting(0));
  EXPECT_EQ(rig.device.requests, 1U);
  rig.device.kept[0].complete();
  rig.process();
  EXPECT_FALSE(rig.core->queue_resetting(0));
  EXPECT_EQ(rig.device.requests, 1U);
  EXPECT_EQ(rig.driver().used_count(), 0U);
  EXPECT_FALSE(rig.needs_reset());
  for (const unsigned absent : {1U, 7U, 0xffffU}) rig.core->kick(absent);
  rig.settle();
  EXPECT_FALSE(rig.needs_reset());
}

}  // namespace
}  // namespace outboard::virtio
