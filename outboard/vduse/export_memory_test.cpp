// The driver's memory behind VDUSE: learnt when it is touched, forgotten when the kernel's table changes.

#include <sys/mman.h>
#include <unistd.h>

#include <optional>

#include <gtest/gtest.h>

#include <outboard/memory/fault_guard.hpp>
#include <tests/support/vduse_rig.hpp>

namespace outboard::vduse {
namespace {

using outboard::testing::FakeVduse;
using outboard::testing::VduseRig;
using Outcome = FakeVduse::Outcome;
using Call = FakeVduse::Call;

class ExportMemory : public ::testing::TestWithParam<bool> {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(memory::install_fault_guard()); }
  VduseRig::Setup setup() const { return {.packed = GetParam()}; }
};
INSTANTIATE_TEST_SUITE_P(Rings, ExportMemory, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

constexpr std::uint64_t data = 0x1000;  // where the data of these tests are

/// A buffer whose data are in regions of their own.
bool echo_in(VduseRig& rig, std::uint64_t readable, std::uint64_t writable) {
  const unsigned before = rig.driver().used_count();
  rig.driver().chain().readable_at(memory::Iova{readable}, 4).writable_at(memory::Iova{writable}, 4).publish();
  rig.kick();
  return rig.driver().used_count() == before + 1;
}

TEST_P(ExportMemory, IsAskedForOnceAndKept) {
  VduseRig rig(setup());
  rig.run();
  ASSERT_TRUE(rig.works());
  const auto calls = rig.kernel->calls(Call::find_region);
  ASSERT_TRUE(rig.works());
  EXPECT_EQ(rig.kernel->calls(Call::find_region), calls);
}

TEST_P(ExportMemory, MayLieAtAnyOffsetOfItsFile) {
  VduseRig rig(setup());
  rig.run();
  rig.kernel->map({.start = data, .size = 0x1000, .offset = 0x123});
  rig.kernel->at(data, 4)[0] = std::byte{42};
  ASSERT_TRUE(echo_in(rig, data, data + 0x100));
  EXPECT_EQ(rig.kernel->at(data + 0x100, 1)[0], std::byte{42});
}

TEST_P(ExportMemory, ABufferMaySpanRegionsThatAreAdjacent) {
  VduseRig rig(setup());
  rig.run();
  rig.kernel->map({.start = data, .size = 0x1000});
  rig.kernel->map({.start = data + 0x1000, .size = 0x1000});
  EXPECT_TRUE(echo_in(rig, data, data + 0xffe));
}

TEST_P(ExportMemory, VDUSE33_AWriteToMemoryThatMayOnlyBeReadIsNotMade) {
  VduseRig rig(setup());
  rig.run();
  rig.kernel->map({.start = data, .size = 0x1000, .perm = spec::perm::read});
  rig.kernel->at(data, 1)[0] = std::byte{42};
  EXPECT_TRUE(echo_in(rig, data, data + 0x100)) << "it is given back";
  EXPECT_EQ(rig.driver().take_used().back().length, 0U) << "and nothing was written";
  EXPECT_EQ(rig.kernel->at(data + 0x100, 1)[0], std::byte{0});
  EXPECT_TRUE(rig.works());
}

TEST_P(ExportMemory, VDUSE32_ABufferInAHoleFailsAloneAndTheDeviceLives) {
  VduseRig rig(setup());
  rig.run();
  EXPECT_TRUE(echo_in(rig, 0x7000'0000'0000, 0x7000'0000'1000));
  EXPECT_EQ(rig.driver().take_used().back().length, 0U);
  EXPECT_TRUE(rig.said("a buffer fails"));
  EXPECT_TRUE(rig.works());
}

TEST_P(ExportMemory, VDUSE30_AChainThatIsNoneGoesBackAndTheDeviceLives) {
  VduseRig rig(setup());
  rig.run();
  rig.driver().chain().indirect().writable(4).table_length(0).publish();
  rig.kick();
  EXPECT_EQ(rig.driver().take_used().back().length, 0U);
  EXPECT_EQ(rig.device->requests, 0U);
  EXPECT_TRUE(rig.works());
}

TEST_P(ExportMemory, VDUSE32_AFileShorterThanItsRegionIsNotMapped) {
  VduseRig rig(setup());
  rig.run();
  const UniqueFd file(::memfd_create("short", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 0x1000), 0);
  rig.kernel->map_file({.start = data, .size = 0x10000}, file);
  EXPECT_TRUE(echo_in(rig, data, data + 0x8000));
  EXPECT_EQ(rig.driver().take_used().back().length, 0U);
  EXPECT_TRUE(rig.said("would go beyond its end"));
  EXPECT_TRUE(rig.works());
}

TEST_P(ExportMemory, VDUSE32_AFileThatShrinksFailsWhatIsInItsLostPart) {
  VduseRig rig(setup());
  rig.run();
  const UniqueFd file(::memfd_create("guest", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 0x2000), 0);
  rig.kernel->map_file({.start = data, .size = 0x2000}, file);
  ASSERT_TRUE(echo_in(rig, data, data + 0x1800));
  ASSERT_EQ(rig.driver().take_used().back().length, 4U);
  ASSERT_EQ(::ftruncate(file.get(), 0x1000), 0);
  EXPECT_TRUE(echo_in(rig, data, data + 0x1800));
  EXPECT_EQ(rig.driver().take_used().back().length, 0U);
  EXPECT_TRUE(echo_in(rig, data, data + 0x800));
  EXPECT_EQ(rig.driver().take_used().back().length, 4U) << "the driver still has this page";
}

TEST_P(ExportMemory, VDUSE38_NoDescriptorForARegionFailsThatAndIsSaidOnce) {
  VduseRig rig(setup());
  ASSERT_TRUE(rig.negotiate());
  rig.place();
  rig.kernel->fail(Call::find_region, EMFILE, 3);
  ASSERT_TRUE(rig.advance(VduseRig::s_running));
  rig.loop.advance(std::chrono::seconds(2));
  EXPECT_TRUE(rig.works()) << "it is tried again";
}

// UPDATE_IOTLB.

TEST_P(ExportMemory, VDUSE40_AnUpdateThatChangesNothingKeepsEveryMapping) {
  VduseRig rig(setup());
  rig.run();
  ASSERT_TRUE(rig.works());
  const auto generation = rig.exported->memory().generation();
  for (int i = 0; i < 100; ++i) {
    const auto update = rig.kernel->update_iotlb();
    rig.settle();
    ASSERT_TRUE(update.ok());
  }
  EXPECT_EQ(rig.exported->memory().generation(), generation);
  EXPECT_TRUE(rig.works());
}

TEST_P(ExportMemory, VDUSE39_WhatHasGoneIsForgottenAndWhatCameInItsPlaceIsUsed) {
  VduseRig rig(setup());
  rig.run();
  rig.kernel->map({.start = data, .size = 0x1000});
  ASSERT_TRUE(echo_in(rig, data, data + 0x100));
  rig.kernel->unmap(data);
  rig.kernel->map({.start = data, .size = 0x1000});
  const auto update = rig.kernel->update_iotlb();
  rig.settle();
  ASSERT_TRUE(update.ok());
  rig.kernel->at(data, 4)[0] = std::byte{7};
  ASSERT_TRUE(echo_in(rig, data, data + 0x100));
  EXPECT_EQ(rig.kernel->at(data + 0x100, 1)[0], std::byte{7});
}

TEST_P(ExportMemory, VDUSE39_ARegionThatMayOnlyBeReadByNowIsNotWrittenToAnyMore) {
  VduseRig rig(setup());
  rig.run();
  const UniqueFd file(::memfd_create("guest", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 0x1000), 0);
  rig.kernel->map_file({.start = data, .size = 0x1000}, file);
  ASSERT_TRUE(echo_in(rig, data, data + 0x100));
  rig.kernel->unmap(data);
  rig.kernel->map_file({.start = data, .size = 0x1000, .perm = spec::perm::read}, file);
  const auto update = rig.kernel->update_iotlb();
  rig.settle();
  ASSERT_TRUE(update.ok());
  rig.driver().take_used();
  echo_in(rig, data, data + 0x200);
  rig.loop.advance(std::chrono::seconds(2));  // it might have been on its way
  EXPECT_EQ(rig.driver().take_used().back().length, 0U);
}

TEST_P(ExportMemory, VDUSE39_AnUpdateIsAnsweredWhenNothingTouchesWhatHasGone) {
  VduseRig rig(setup());
  rig.run();
  rig.kernel->map({.start = data, .size = 0x1000});
  std::optional<virtio::Request> running;
  rig.device->on_request = [&](virtio::Request request) {
    ASSERT_TRUE(request.writable_pieces(4));
    running = std::move(request);
  };
  rig.driver().chain().readable_at(memory::Iova{data}, 4).writable_at(memory::Iova{data + 8}, 4).publish();
  rig.kick();
  ASSERT_TRUE(running);
  rig.kernel->unmap(data);
  const auto update = rig.kernel->update_iotlb();
  rig.settle();
  EXPECT_EQ(update.outcome(), Outcome::waiting);
  running->complete();
  rig.settle();
  EXPECT_TRUE(update.ok());
}

TEST_P(ExportMemory, VDUSE39_AnUpdateThatTakesTooLongIsRefusedAndStopsTheDevice) {
  VduseRig rig(setup());
  rig.run();
  rig.kernel->map({.start = data, .size = 0x1000});
  std::optional<virtio::Request> running;
  rig.device->on_request = [&](virtio::Request request) {
    ASSERT_TRUE(request.writable_pieces(4));
    running = std::move(request);
  };
  rig.driver().chain().readable_at(memory::Iova{data}, 4).writable_at(memory::Iova{data + 8}, 4).publish();
  rig.kick();
  ASSERT_TRUE(running);
  rig.kernel->unmap(data);
  const auto update = rig.kernel->update_iotlb();
  rig.settle();
  rig.loop.advance(std::chrono::seconds(6));
  EXPECT_EQ(update.outcome(), Outcome::refused);
  running.reset();
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 0U);
}

// Memory of ours as the bounce buffer.

class OwnBounce : public ExportMemory {
 protected:
  VduseRig::Setup own() const { return {.packed = GetParam(), .options = {.own_bounce = true}}; }
};
INSTANTIATE_TEST_SUITE_P(Rings, OwnBounce, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

TEST_P(OwnBounce, IsRegisteredBeforeAnythingOfItIsTouched) {
  VduseRig rig(own());
  rig.run();
  rig.kernel->map({.start = 0, .size = 0x10000, .bounce = true});
  rig.kernel->at(0x2000, 4)[0] = std::byte{5};
  ASSERT_TRUE(echo_in(rig, 0x2000, 0x3000));
  EXPECT_TRUE(rig.kernel->memory_registered());
  EXPECT_EQ(rig.kernel->at(0x3000, 1)[0], std::byte{5});
}

TEST_P(OwnBounce, SurvivesAReset) {
  VduseRig rig(own());
  for (int round = 0; round < 3; ++round) {
    rig.run();
    rig.kernel->map({.start = 0, .size = 0x10000, .bounce = true});
    ASSERT_TRUE(echo_in(rig, 0x2000, 0x3000)) << round;
    rig.advance(0);
    rig.kernel->unmap_all();
  }
}

TEST_P(OwnBounce, VDUSE45_ThatIsRefusedLeavesTheKernelsOwn) {
  for (const int code : {ENOMEM, EINVAL}) {
    VduseRig rig(own());
    rig.kernel->fail(Call::register_memory, code, 1);
    rig.run();
    rig.kernel->map({.start = 0, .size = 0x10000, .bounce = true});
    EXPECT_TRUE(echo_in(rig, 0x2000, 0x3000));
    EXPECT_FALSE(rig.kernel->memory_registered());
    EXPECT_TRUE(rig.said("keeps its own bounce buffer"));
  }
}

// API version 1.

TEST_P(ExportMemory, VDUSE42_AGroupWorksInTheAddressSpaceThatTheDriverGivesIt) {
  VduseRig::Setup with = setup();
  with.queues = 2;
  with.options = {.api_version = 1, .groups = {0, 1}, .address_spaces = 2};
  VduseRig rig(with);
  rig.advance(0);
  const auto moved = rig.kernel->set_group_asid(1, 1);
  rig.settle();
  ASSERT_TRUE(moved.ok());
  EXPECT_EQ(rig.spaces, (std::vector<std::uint32_t>{0, 1})) << "for the journal";
  ASSERT_TRUE(rig.negotiate());
  rig.map_ring(0, 0);
  rig.map_ring(1, 1);
  rig.kernel->place_queue(0, rig.driver(0));
  rig.kernel->place_queue(1, rig.driver(1));
  ASSERT_TRUE(rig.advance(VduseRig::s_running));
  EXPECT_TRUE(rig.works(0));
  EXPECT_TRUE(rig.works(1));
}

TEST_P(ExportMemory, VDUSE18_AnAddressSpaceThatNobodyWaitsForAnyMoreIsUndone) {
  VduseRig::Setup with = setup();
  with.queues = 2;
  with.options = {.api_version = 1, .groups = {0, 1}, .address_spaces = 2};
  VduseRig rig(with);
  rig.advance(0);
  const auto moved = rig.kernel->set_group_asid(1, 1);
  // Between the note in the journal and the answer.
  rig.on_groups = [&] {
    rig.on_groups = nullptr;
    rig.kernel->withdraw(moved);
  };
  rig.settle();
  ASSERT_EQ(rig.kernel->group_asid(1), 0U);
  EXPECT_EQ(rig.spaces, (std::vector<std::uint32_t>{0, 0})) << "in the journal too";
  ASSERT_TRUE(rig.negotiate());
  rig.place(0);
  rig.place(1);
  ASSERT_TRUE(rig.advance(VduseRig::s_running));
  EXPECT_TRUE(rig.works(1));
}

TEST_P(ExportMemory, VDUSE42_AGroupOrAnAddressSpaceThatIsNotThereIsRefused) {
  VduseRig::Setup with = setup();
  with.options = {.api_version = 1, .groups = {0}, .address_spaces = 2};
  VduseRig rig(with);
  for (const spec::GroupAsidRequest wrong : {spec::GroupAsidRequest{1, 0}, {0, 2}, {UINT32_MAX, UINT32_MAX}}) {
    const auto message =
        rig.kernel->send(static_cast<std::uint32_t>(spec::RequestType::set_vq_group_asid), as_bytes_of(wrong));
    rig.settle();
    EXPECT_EQ(message.outcome(), Outcome::refused);
  }
}

}  // namespace
}  // namespace outboard::vduse
