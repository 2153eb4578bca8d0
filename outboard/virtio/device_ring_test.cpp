// What a driver may write into a ring, and what it may not: VD-n is a row of
// docs/spec-map.md.

#include <cstring>

#include <gtest/gtest.h>

#include <tests/support/device_rig.hpp>

namespace outboard::virtio {
namespace {

using memory::Access;
using memory::Iova;
using testing::DeviceRig;
using testing::HandDriver;
namespace flag = spec::descriptor;

/// A device with one queue, split or packed.
class EitherDeviceRing : public ::testing::TestWithParam<bool> {
 protected:
  bool packed() const { return GetParam(); }
  DeviceRig& make(DeviceRig::Setup setup = {}) {
    setup.packed = packed();
    rig_ = std::make_unique<DeviceRig>(setup);
    return *rig_;
  }
  /// The same, running.
  DeviceRig& running(const DeviceRig::Setup& setup = {}) {
    make(setup).run();
    return *rig_;
  }
  /// The device is broken, has said so once, and has put nothing into the used ring.
  void expect_broken() {
    EXPECT_TRUE(rig_->needs_reset());
    EXPECT_EQ(rig_->config_notified, 1U);
    EXPECT_EQ(rig_->driver().used_count(), 0U);
    EXPECT_EQ(rig_->log.size(), 1U);
  }
  void expect_fine() {
    EXPECT_FALSE(rig_->needs_reset()) << (rig_->log.empty() ? "" : rig_->log.front());
    EXPECT_EQ(rig_->config_notified, 0U);
  }

  std::unique_ptr<DeviceRig> rig_;
};

INSTANTIATE_TEST_SUITE_P(Rings, EitherDeviceRing, ::testing::Bool(),
                         [](const auto& format) { return format.param ? "Packed" : "Split"; });

class OnlySplitDeviceRing : public EitherDeviceRing {};
INSTANTIATE_TEST_SUITE_P(Rings, OnlySplitDeviceRing, ::testing::Values(false), [](const auto&) { return "Split"; });
class OnlyPackedDeviceRing : public EitherDeviceRing {};
INSTANTIATE_TEST_SUITE_P(Rings, OnlyPackedDeviceRing, ::testing::Values(true), [](const auto&) { return "Packed"; });

using Used = std::vector<HandDriver::Used>;

TEST_P(EitherDeviceRing, ABufferIsHandledAndComesBackWithWhatWasWritten) {
  auto& rig = running();
  auto chain = rig.driver().chain();
  const auto id = chain.readable("hello").writable(16).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{id, 5}}));
  EXPECT_EQ(rig.driver().text(chain.at(1), 5), "hello");
  EXPECT_EQ(rig.notified[0], 1U);
  expect_fine();
}

TEST_P(EitherDeviceRing, BuffersGoRoundTheRingManyTimes) {
  auto& rig = running();
  for (unsigned i = 0; i < 200; ++i) {
    const auto id = rig.driver().chain().readable("abc").writable(1).writable(7).publish();
    rig.process();
    ASSERT_EQ(rig.driver().take_used(), (Used{{id, 3}})) << i;
  }
  expect_fine();
}

TEST_P(EitherDeviceRing, AQueueFullOfBuffersComesBackInOnePass) {
  auto& rig = running();
  for (unsigned i = 0; i < 16; ++i) rig.driver().chain().writable(4).add();
  rig.driver().publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used().size(), 16U);
  EXPECT_EQ(rig.notified[0], 1U);
  EXPECT_EQ(rig.device.batches, 1U);
}

TEST_P(OnlySplitDeviceRing, VD1_MoreAvailableThanTheRingHoldsBreaksTheQueue) {
  auto& rig = running();
  rig.driver().set_avail_idx(17);
  rig.process();
  expect_broken();
  EXPECT_EQ(rig.device.requests, 0U);
}

TEST_P(OnlySplitDeviceRing, VD1_MoreAvailableThanFreeEntriesBreaksTheQueue) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  for (unsigned i = 0; i < 16; ++i) rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_FALSE(rig.needs_reset());
  rig.driver().set_avail_idx(17);
  rig.process();
  expect_broken();
  EXPECT_EQ(rig.device.requests, 16U);
}

TEST_P(OnlySplitDeviceRing, VD2_AnAvailableIndexThatMovesBackBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().writable(4).publish();
  rig.process();
  rig.driver().take_used();
  rig.driver().set_avail_idx(0);
  rig.process();
  expect_broken();
}

TEST_P(OnlySplitDeviceRing, VD3_AHeadBeyondTheQueueBreaksIt) {
  auto& rig = running();
  rig.driver().set_avail_entry(0, 16);
  rig.driver().set_avail_idx(1);
  rig.process();
  expect_broken();
}

TEST_P(OnlySplitDeviceRing, VD4_AHeadThatIsInFlightBreaksTheQueue) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  const auto head = rig.driver().chain().writable(4).publish();
  rig.process();
  rig.driver().set_avail_entry(1, head);
  rig.driver().set_avail_idx(2);
  rig.process();
  expect_broken();
  EXPECT_EQ(rig.device.requests, 1U);
}

TEST_P(OnlySplitDeviceRing, VD4_AHeadTwiceInOneBatchBreaksTheQueue) {
  auto& rig = running();
  const auto head = rig.driver().chain().writable(4).add();
  rig.driver().set_avail_entry(1, head);
  rig.driver().set_avail_idx(2);
  rig.process();
  expect_broken();
}

TEST_P(OnlySplitDeviceRing, VD5_NextBeyondTheRingBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().readable(4).next(16).publish();
  rig.process();
  expect_broken();
  EXPECT_EQ(rig.device.requests, 0U);
}

TEST_P(OnlySplitDeviceRing, VD5_NextBeyondTheTableBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().indirect().readable(4).next(1).publish();
  rig.process();
  expect_broken();
}

TEST_P(OnlySplitDeviceRing, VD6_ALoopInTheRingBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().readable(4).next(0).publish();
  rig.process();
  expect_broken();
}

TEST_P(OnlySplitDeviceRing, VD6_ALoopInATableBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().indirect().readable(4).readable(4).next(0).publish();
  rig.process();
  expect_broken();
}

TEST_P(EitherDeviceRing, VD6_ATableAsLongAsTheLimitIsHandled) {
  auto& rig = running();
  auto chain = rig.driver().chain();
  chain.indirect();
  for (unsigned i = 0; i < 16; ++i) chain.writable(1);
  chain.publish();
  rig.process();
  EXPECT_EQ(rig.driver().used_count(), 1U);
  expect_fine();
}

TEST_P(EitherDeviceRing, VD6_ATableLongerThanTheLimitBreaksTheQueue) {
  auto& rig = running();
  auto chain = rig.driver().chain();
  chain.indirect();
  for (unsigned i = 0; i < 17; ++i) chain.writable(1);
  chain.publish();
  rig.process();
  expect_broken();
}

TEST_P(EitherDeviceRing, VD6_ADeviceMayTakeLongerChainsThanItsQueue) {
  auto& rig = running({.max_chain = 40});
  auto chain = rig.driver().chain();
  chain.indirect().readable("x");
  for (unsigned i = 0; i < 39; ++i) chain.writable(1);
  chain.publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 1}}));
  expect_fine();
}

TEST_P(EitherDeviceRing, VD7_MoreThanFourGigabytesBreakTheQueue) {
  auto& rig = running();
  rig.driver().chain().readable_at(Iova{0x100000}, 0xffffffff).writable_at(Iova{0x100000}, 2).publish();
  rig.process();
  expect_broken();
  EXPECT_NE(rig.log[0].find("2^32"), std::string::npos);
}

TEST_P(EitherDeviceRing, VD8_AnEmptyElementIsSkippedWhateverItsAddress) {
  auto& rig = running();
  auto chain = rig.driver().chain();
  const auto id = chain.readable("ab")
                      .readable_at(Iova{UINT64_MAX}, 0)
                      .readable("cd")
                      .writable_at(Iova{1}, 0)
                      .writable(8)
                      .publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{id, 4}}));
  EXPECT_EQ(rig.driver().text(chain.at(4), 4), "abcd");
  expect_fine();
}

TEST_P(EitherDeviceRing, VD8_EmptyElementsCountTowardsTheLimit) {
  auto& rig = running();
  auto chain = rig.driver().chain();
  chain.indirect();
  for (unsigned i = 0; i < 17; ++i) chain.readable_at(Iova{0}, 0);
  chain.publish();
  rig.process();
  expect_broken();
}

TEST_P(EitherDeviceRing, VD9_ABufferOfEmptyElementsReachesTheDevice) {
  auto& rig = running();
  std::uint64_t readable = 1, writable = 1;
  rig.device.on_request = [&](Request request) {
    readable = request.readable_size();
    writable = request.writable_size();
    request.complete();
  };
  rig.driver().chain().readable_at(Iova{0}, 0).writable_at(Iova{0}, 0).publish();
  rig.process();
  EXPECT_EQ(readable, 0U);
  EXPECT_EQ(writable, 0U);
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 0}}));
}

TEST_P(EitherDeviceRing, VD10_AnElementBeyondTheLastAddressBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().readable_at(Iova{UINT64_MAX - 3}, 5).publish();
  rig.process();
  expect_broken();
}

TEST_P(EitherDeviceRing, VD11_AnUnmappedElementBreaksTheQueueBeforeAnyAccess) {
  auto& rig = running();
  auto chain = rig.driver().chain();
  chain.readable("data").writable(4).writable_at(Iova{0x10}, 4).publish();
  rig.process();
  expect_broken();
  EXPECT_EQ(rig.device.requests, 0U);
}

TEST_P(EitherDeviceRing, VD11_AnElementThatLeavesItsMappingBreaksTheQueue) {
  auto& rig = running();
  const Iova end = rig.driver().mapping().range.last();
  rig.driver().chain().readable_at(end, 2).publish();
  rig.process();
  expect_broken();
}

TEST_P(EitherDeviceRing, VD11_AnElementAcrossAdjacentMappingsWorks) {
  auto& rig = running();
  auto more = memory::HostMemory::anonymous(4096);
  ASSERT_TRUE(more);
  const Iova next = rig.driver().mapping().range.last() + 1;
  ASSERT_TRUE(
      rig.map.map({.range = {next, 4096}, .access = Access::read_write, .memory = *more, .offset = 0, .port = {}}));
  rig.driver().chain().readable("spanning").writable_at(Iova{raw(next) - 4}, 8).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 8}}));
  EXPECT_EQ(rig.driver().text(Iova{raw(next) - 4}, 4), "span");
  EXPECT_EQ(std::memcmp((*more)->data(), "ning", 4), 0);
  expect_fine();
}

TEST_P(EitherDeviceRing, VD12_WritingToMemoryThatMayOnlyBeReadBreaksTheQueue) {
  auto& rig = running();
  auto more = memory::HostMemory::anonymous(4096);
  ASSERT_TRUE(more);
  const Iova at{0x9000000};
  ASSERT_TRUE(rig.map.map({.range = {at, 4096}, .access = Access::read, .memory = *more, .offset = 0, .port = {}}));
  rig.driver().chain().readable_at(at, 4).writable(4).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used().size(), 1U);
  rig.driver().chain().writable_at(at, 4).publish();
  rig.process();
  expect_broken();
}

TEST_P(EitherDeviceRing, VD13_MemoryThatWasNotGivenToTheDeviceIsNeverReached) {
  // A BAR is in nobody's address map; to the ring it is an address like any other that is not there.
  auto& rig = running();
  rig.driver().chain().writable_at(Iova{0xfe000000}, 4).publish();
  rig.process();
  expect_broken();
}

TEST_P(EitherDeviceRing, VD15_AnIndirectDescriptorWithoutTheFeatureBreaksTheQueue) {
  auto& rig = running({.without = Features{Feature::indirect_desc}});
  rig.driver().chain().indirect().readable(4).publish();
  rig.process();
  expect_broken();
}

TEST_P(OnlySplitDeviceRing, VD16_AnIndirectDescriptorInATableBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().indirect().readable(16).with(flag::indirect).publish();
  rig.process();
  expect_broken();
}

TEST_P(OnlyPackedDeviceRing, VD16_FlagsInATableAreIgnoredButForWrite) {
  auto& rig = running();
  auto chain = rig.driver().chain();
  chain.indirect()
      .readable("hey")
      .with(flag::indirect | flag::next | flag::avail)
      .writable(3)
      .with(flag::used)
      .publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 3}}));
  EXPECT_EQ(rig.driver().text(chain.at(1), 3), "hey");
  expect_fine();
}

TEST_P(OnlySplitDeviceRing, VD17_IndirectWithNextBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().indirect().readable(4).table_with(flag::next).publish();
  rig.process();
  expect_broken();
}

TEST_P(OnlyPackedDeviceRing, VD18_IndirectInAListBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().readable(4).indirect().readable(4).publish();
  rig.process();
  expect_broken();
}

TEST_P(OnlyPackedDeviceRing, VD18_IndirectWithNextBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().indirect().readable(4).table_with(flag::next).publish();
  rig.process();
  expect_broken();
}

TEST_P(EitherDeviceRing, VD19_WriteOnTheIndirectDescriptorMeansNothing) {
  auto& rig = running();
  rig.driver().chain().indirect().readable("x").writable(1).table_with(flag::write).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 1}}));
  expect_fine();
}

TEST_P(OnlySplitDeviceRing, VD20_DirectDescriptorsMayEndInATable) {
  auto& rig = running();
  auto chain = rig.driver().chain();
  chain.readable("ab").readable("cd").indirect().readable("ef").writable(8).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 6}}));
  EXPECT_EQ(rig.driver().text(chain.at(3), 6), "abcdef");
  expect_fine();
}

TEST_P(EitherDeviceRing, VD21_AnEmptyTableBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().indirect().readable(4).table_length(0).publish();
  rig.process();
  expect_broken();
}

TEST_P(EitherDeviceRing, VD21_ATableOfHalfEntriesBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().indirect().readable(4).readable(4).table_length(24).publish();
  rig.process();
  expect_broken();
}

TEST_P(OnlySplitDeviceRing, VD22_OnlyTheEntriesThatAreReachedCount) {
  auto& rig = running();
  rig.driver().chain().indirect().readable("x").writable(1).table_length(16 * 1000).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 1}}));
  expect_fine();
}

TEST_P(OnlyPackedDeviceRing, VD22_AllEntriesOfATableCountHoweverLongItIsSaidToBe) {
  auto& rig = running();
  rig.driver().chain().indirect().readable(4).table_length(0xfffffff0).publish();
  rig.process();
  expect_broken();
}

TEST_P(EitherDeviceRing, VD23_ATableInNoMappingBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().indirect().readable(4).table_address(Iova{0x10}).publish();
  rig.process();
  expect_broken();
}

TEST_P(EitherDeviceRing, VD23_ATableBeyondTheLastAddressBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().indirect().readable(4).readable(4).table_address(Iova{UINT64_MAX - 15}).publish();
  rig.process();
  expect_broken();
}

TEST_P(EitherDeviceRing, ATableMayLieAnywhereAndAcrossMappings) {
  auto& rig = running();
  auto more = memory::HostMemory::anonymous(4096);
  ASSERT_TRUE(more);
  const Iova next = rig.driver().mapping().range.last() + 1;
  ASSERT_TRUE(
      rig.map.map({.range = {next, 4096}, .access = Access::read_write, .memory = *more, .offset = 0, .port = {}}));
  const Iova data = rig.driver().allocate(16);
  std::memcpy(rig.driver().at(data), "data", 4);
  // Two entries, of which the boundary cuts the second.
  const Iova table{raw(next) - 21};
  std::byte bytes[32];
  const auto entry = [&](std::size_t index, Iova at, std::uint16_t flags) {
    if (packed()) {
      const spec::PackedDescriptor descriptor{raw(at), 4, 0, flags};
      std::memcpy(bytes + 16 * index, &descriptor, 16);
    } else {
      const spec::Descriptor descriptor{raw(at), 4, flags, static_cast<std::uint16_t>(index + 1)};
      std::memcpy(bytes + 16 * index, &descriptor, 16);
    }
  };
  entry(0, data, flag::next);
  entry(1, data + 8, flag::write);
  std::memcpy(rig.driver().at(table), bytes, 21);
  std::memcpy((*more)->data(), bytes + 21, 11);
  rig.driver().chain().indirect().readable(1).table_address(table).table_length(32).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 4}}));
  EXPECT_EQ(rig.driver().text(data + 8, 4), "data");
  expect_fine();
}

TEST_P(EitherDeviceRing, VD24_ReadableElementAfterWritableBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().writable(16).readable(16).publish();
  rig.process();
  expect_broken();
}

TEST_P(EitherDeviceRing, VD24_ReadableElementAfterWritableBreaksTheQueueInATableToo) {
  auto& rig = running();
  rig.driver().chain().indirect().writable(16).readable(16).publish();
  rig.process();
  expect_broken();
}

TEST_P(OnlySplitDeviceRing, VD24_AReadableElementInATableAfterAWritableBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().writable(16).indirect().readable(16).publish();
  rig.process();
  expect_broken();
}

TEST_P(EitherDeviceRing, VD25_DescriptorsAreNotLookedAtAgain) {
  auto& rig = running();
  auto chain = rig.driver().chain();
  chain.readable("abcd").writable(4).publish();
  rig.device.on_request = [&](Request request) {
    for (std::uint16_t i = 0; i < 2; ++i) {
      if (packed()) {
        rig.driver().put_packed(i, {0x10, 0xffff, 7, rig.driver().packed_at(i).flags});
      } else {
        rig.driver().put_descriptor(i, {0x10, 0xffff, flag::next, 1});
      }
    }
    testing::ScriptedDevice::echo(std::move(request));
  };
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 4}}));
  EXPECT_EQ(rig.driver().text(chain.at(1), 4), "abcd");
  expect_fine();
}

TEST_P(EitherDeviceRing, VD26_PayloadThatChangesIsWhatItWasWhenItWasCopied) {
  auto& rig = running();
  auto chain = rig.driver().chain();
  chain.readable("1111").writable(4).publish();
  rig.device.on_request = [&](Request request) {
    const auto before = request.read<le32>();
    std::memcpy(rig.driver().at(chain.at(0)), "2222", 4);
    ASSERT_TRUE(before && request.write(*before));
    request.complete();
  };
  rig.process();
  EXPECT_EQ(rig.driver().text(chain.at(1), 4), "1111");
}

TEST_P(OnlyPackedDeviceRing, VD27_AListWhoseEndIsNotAvailableBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().readable(4).readable(4).with(flag::avail).publish();
  rig.process();
  expect_broken();
}

TEST_P(OnlyPackedDeviceRing, VD27_AListThatRunsIntoUnwrittenSlotsBreaksTheQueue) {
  auto& rig = running();
  rig.driver().chain().readable(4).with(flag::next).publish();
  rig.process();
  expect_broken();
}

TEST_P(OnlyPackedDeviceRing, VD28_ASlotOfABufferInFlightCannotBeMadeAvailableAgain) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  for (unsigned i = 0; i < 16; ++i) rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_EQ(rig.device.requests, 16U);
  EXPECT_FALSE(rig.needs_reset());
  rig.driver().chain().writable(4).publish();  // slot 0, with the next turn's wrap bits
  rig.process();
  expect_broken();
  EXPECT_EQ(rig.device.requests, 16U);
}

TEST_P(OnlyPackedDeviceRing, VD28_AListThatReachesIntoABufferInFlightBreaksTheQueue) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  for (unsigned i = 0; i < 15; ++i) rig.driver().chain().writable(4).publish();
  rig.process();
  rig.driver().chain().writable(4).writable(4).publish();
  rig.process();
  expect_broken();
  EXPECT_EQ(rig.device.requests, 15U);
}

TEST_P(OnlyPackedDeviceRing, VD29_BufferIdsAreCookies) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().writable(4).id(0xffff).publish();
  rig.driver().chain().writable(4).id(0xffff).publish();
  rig.driver().chain().writable(4).id(12345).publish();
  rig.process();
  for (Request& request : rig.device.kept) request.complete();
  rig.settle();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0xffff, 0}, {0xffff, 0}, {12345, 0}}));
  expect_fine();
}

TEST_P(OnlyPackedDeviceRing, TheIdIsThatOfTheLastDescriptor) {
  auto& rig = running();
  rig.driver().chain().readable(4).readable(4).writable(4).id(77).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{77, 4}}));
}

TEST_P(OnlyPackedDeviceRing, AListMayGoRoundTheEndOfTheRing) {
  auto& rig = running({.size = 5});
  for (unsigned i = 0; i < 30; ++i) {
    auto chain = rig.driver().chain();
    const auto id = chain.readable("12").readable("34").writable(8).publish();
    rig.process();
    ASSERT_EQ(rig.driver().take_used(), (Used{{id, 4}})) << i;
    ASSERT_EQ(rig.driver().text(chain.at(2), 4), "1234");
  }
  expect_fine();
}

TEST_P(OnlyPackedDeviceRing, WriteInAUsedDescriptorSaysThatTheLengthCounts) {
  auto& rig = running();
  rig.driver().chain().readable(4).publish();
  rig.driver().chain().readable(4).writable(4).publish();
  rig.process();
  EXPECT_EQ(rig.driver().packed_at(0).flags & flag::write, 0);
  EXPECT_EQ(rig.driver().packed_at(1).flags & flag::write, flag::write);
}

TEST_P(OnlyPackedDeviceRing, VD30_EventFlagsThatMeanNothingAskForAnInterrupt) {
  for (const bool event_idx : {false, true}) {
    auto& rig = running({.without = event_idx ? Features{} : Features{Feature::event_idx}});
    unsigned expected = 1;
    rig.driver().chain().writable(4).publish();
    rig.process();  // the first is announced anyway
    const auto surplus = [&](std::uint16_t flags, std::uint16_t off_wrap) {
      rig.driver().want_interrupt_at(off_wrap);
      rig.driver().set_driver_flags(flags);
      rig.driver().chain().writable(4).publish();
      rig.process();
      EXPECT_EQ(rig.notified[0], ++expected) << flags << " " << off_wrap;
    };
    surplus(3, 0x8005);
    surplus(0xfffc, 0x8005);  // reserved bits, enable
    surplus(2, 0x8000 + 16);  // beyond the ring
    if (!event_idx) surplus(2, 0x8009);
    expect_fine();
  }
}

TEST_P(OnlySplitDeviceRing, VD31_OfTheFlagsOnlyTheLowestBitCounts) {
  auto& rig = running({.without = Features{Feature::event_idx}});
  rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_EQ(rig.notified[0], 1U);
  rig.driver().set_driver_flags(0xfffe);
  rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_EQ(rig.notified[0], 2U);
  rig.driver().set_driver_flags(0xffff);
  rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_EQ(rig.notified[0], 2U);
  expect_fine();
}

TEST_P(OnlySplitDeviceRing, VD31_WithEventIndexFlagsAreIgnored) {
  auto& rig = running();
  rig.driver().set_driver_flags(1);
  for (std::uint16_t i = 0; i < 3; ++i) {
    rig.driver().want_interrupt_at(i);
    rig.driver().chain().writable(4).publish();
    rig.process();
    EXPECT_EQ(rig.notified[0], i + 1U);
  }
}

TEST_P(OnlySplitDeviceRing, VD32_AnyUsedEventIsTaken) {
  auto& rig = running();
  for (unsigned i = 0; i < 64; ++i) {
    rig.driver().want_interrupt_at(static_cast<std::uint16_t>(i * 1021));
    rig.driver().chain().writable(4).publish();
    rig.process();
    rig.driver().take_used();
  }
  expect_fine();
}

TEST_P(EitherDeviceRing, VD33_DriverWritesToTheUsedPartAreIgnored) {
  auto& rig = running();
  rig.driver().chain().readable("a").writable(1).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used().size(), 1U);
  if (packed()) {
    rig.driver().put_packed(0, {0, 0, 0, 0});
  } else {
    std::memset(rig.driver().at(rig.driver().address(2)), 0xee, spec::used::size(16));
  }
  auto chain = rig.driver().chain();
  chain.readable("b").writable(1).publish();
  rig.process();
  EXPECT_EQ(rig.driver().text(chain.at(1), 1), "b");
  if (!packed()) {
    EXPECT_EQ(rig.driver().used_idx(), 2);
    EXPECT_EQ(rig.driver().used_entry(1), (HandDriver::Used{2, 1}));
  }
  expect_fine();
}

TEST_P(EitherDeviceRing, VD40_AStormOfKicksIsOneLookAtTheRing) {
  auto& rig = running();
  rig.driver().chain().writable(4).publish();
  for (unsigned i = 0; i < 1000; ++i) rig.core->kick(0);
  rig.settle();
  rig.process();
  rig.process();
  EXPECT_EQ(rig.device.requests, 1U);
  EXPECT_EQ(rig.device.batches, 1U);
  expect_fine();
}

TEST_P(EitherDeviceRing, VD66_TheUsedLengthIsWhatWasWrittenFromTheFirstByteOn) {
  auto& rig = running();
  rig.device.on_request = [](Request request) {
    EXPECT_TRUE(request.write(le32{1}));
    EXPECT_TRUE(request.write_zeros(2));
    EXPECT_FALSE(request.write(le64{2}));  // does not fit: not written, not counted
    EXPECT_EQ(request.writable_left(), 4U);
    request.complete();
  };
  rig.driver().chain().writable(3).writable(7).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 6}}));
}

TEST_P(EitherDeviceRing, VD66_BytesBehindAGapDoNotCountAsWritten) {
  auto& rig = running();
  rig.device.on_request = [](Request request) {
    EXPECT_TRUE(request.write(std::uint8_t{1}));
    EXPECT_TRUE(request.writable_pieces(4));
    request.pieces_written(2);
    EXPECT_TRUE(request.write_last(std::uint8_t{7}));
    request.complete();
  };
  auto chain = rig.driver().chain();
  chain.writable(3).writable(7).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 3}}));
}

TEST_P(EitherDeviceRing, AfterAViolationNothingIsPublishedAndOnlyOneIsTold) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().writable(4).publish();
  rig.process();
  rig.driver().chain().writable(4).readable(4).publish();
  rig.process();
  expect_broken();
  const unsigned notified = rig.notified[0];
  rig.device.kept[0].complete();
  rig.process();
  rig.process();
  expect_broken();
  EXPECT_EQ(rig.notified[0], notified);
}

TEST_P(EitherDeviceRing, ARequestMayAnswerWithAViolation) {
  auto& rig = running();
  rig.device.on_request = [](Request request) {
    const auto number = request.read<le64>();
    ASSERT_FALSE(number);
    request.violation(number.error());
  };
  rig.driver().chain().readable(4).publish();
  rig.process();
  expect_broken();
}

TEST_P(EitherDeviceRing, ADeviceThatLosesARequestIsBroken) {
  auto& rig = running();
  rig.device.on_request = [](Request) {};
  rig.driver().chain().writable(4).publish();
  rig.process();
  expect_broken();
  EXPECT_NE(rig.log[0].find("lost a request"), std::string::npos);
}

}  // namespace
}  // namespace outboard::virtio
