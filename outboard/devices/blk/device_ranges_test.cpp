// DISCARD and WRITE_ZEROES, as a driver writes them, on either ring.
// VD-n and VDUSE-n are rows of docs/spec-map.md; D-BI and D-BO are clauses of 5.2.5.2 and 5.2.6.2 (docs/spec-map.md).

#include <outboard/devices/blk/device_rig_test.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace outboard::blk {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

TEST_P(BlkDevice, VD56_RangesThatWereNotNegotiatedAreUnsupported) {
  Rig::Setup with = setup();
  with.refuse_ranges = true;
  Rig rig(with);
  for (const auto type : {spec::type::discard, spec::type::write_zeroes})
    expect_failed(Chain::of(rig, type, 0).readable(segment(0, 1)).writable(1).run(), spec::status::unsupp);
}

TEST_P(BlkDevice, DiscardAndWriteZeroesReachTheDiskSegmentBySegment) {
  Rig rig(setup());
  EXPECT_EQ(Chain::of(rig, spec::type::discard, 0).readable(segment(8, 8) + segment(32, 16)).writable(1).run().status(),
            spec::status::ok);
  EXPECT_EQ(Chain::of(rig, spec::type::write_zeroes, 0)
                .readable(segment(1, 2, 1))
                .readable(segment(4, 1))
                .writable(1)
                .run()
                .status(),
            spec::status::ok);
  EXPECT_THAT(rig.disk->calls,
              ElementsAre(Call{'d', 4096, 4096}, Call{'d', 16384, 8192}, Call{'u', 512, 1024}, Call{'z', 2048, 512}));
}

TEST_P(BlkDevice, D_BO_8_AfterWriteZeroesReadsGiveZero) {
  for (const std::uint32_t flags : {0U, spec::RangeSegment::unmap}) {
    Rig rig(setup());
    ASSERT_EQ(Chain::of(rig, spec::type::write_zeroes, 0).readable(segment(2, 2, flags)).writable(1).run().status(),
              spec::status::ok);
    EXPECT_THAT(Chain::of(rig, spec::type::in, 2).writable(1024).writable(1).run().data(), Each(std::byte{0}));
  }
}

TEST_P(BlkDevice, VD57_D_BO_4_UnknownFlagsAreUnsupportedAndNothingIsTouched) {
  Rig rig(setup());
  expect_failed(Chain::of(rig, spec::type::discard, 0).readable(segment(0, 1) + segment(8, 1, 2)).writable(1).run(),
                spec::status::unsupp);
  expect_failed(Chain::of(rig, spec::type::write_zeroes, 0).readable(segment(0, 1, 0x80000000)).writable(1).run(),
                spec::status::unsupp);
  EXPECT_TRUE(rig.disk->calls.empty());
}

TEST_P(BlkDevice, VD57_D_BO_5_UnmapOnDiscardIsUnsupported) {
  Rig rig(setup());
  expect_failed(
      Chain::of(rig, spec::type::discard, 0).readable(segment(0, 1, spec::RangeSegment::unmap)).writable(1).run(),
      spec::status::unsupp);
}

TEST_P(BlkDevice, VD57_FlagsAreLookedAtBeforeRanges) {
  Rig rig(setup());
  expect_failed(Chain::of(rig, spec::type::discard, 0).readable(segment(UINT64_MAX, UINT32_MAX, 4)).writable(1).run(),
                spec::status::unsupp);
  expect_failed(Chain::of(rig, spec::type::discard, 0).readable(segment(0, 1, 4) + pattern(3)).writable(1).run(),
                spec::status::unsupp);
}

TEST_P(BlkDevice, VD58_BadRangesFailAndNothingIsErased) {
  Rig rig(setup());
  const auto max = rig.config<le32>(36);
  const ByteVector bad[] = {
      pattern(0),
      segment(0, 1) + pattern(8),  // no segment, not a whole one
      segment(0, 1) + segment(disk_sectors, 1),  // the second lies beyond the end
      segment(disk_sectors - 1, 2),
      segment(UINT64_MAX, 1),  // runs over it, overflows
      segment(0, 1) + segment(0, max + 1),  // larger than the maximum
  };
  for (const auto type : {spec::type::discard, spec::type::write_zeroes}) {
    for (const auto& bytes : bad) {
      Chain chain = Chain::of(rig, type, 0);
      if (!bytes.empty()) chain.readable(bytes);
      expect_failed(chain.writable(1).run(), spec::status::ioerr);
    }
  }
  EXPECT_TRUE(rig.disk->calls.empty());
}

TEST_P(BlkDevice, VD58_MoreSegmentsThanTheMaximumFail) {
  Rig rig(setup());
  const auto max = rig.config<le32>(40);
  ByteVector segments;
  for (unsigned i = 0; i < max; ++i) segments = segments + segment(i, 1);
  EXPECT_EQ(Chain::of(rig, spec::type::discard, 0).readable(segments).writable(1).run().status(), spec::status::ok);
  rig.disk->calls.clear();
  expect_failed(Chain::of(rig, spec::type::discard, 0).readable(segments + segment(0, 1)).writable(1).run(),
                spec::status::ioerr);
  EXPECT_TRUE(rig.disk->calls.empty());
}

TEST_P(BlkDevice, ARangeThatFailsEndsTheRequest) {
  Rig rig(setup());
  rig.disk->fails = [](const Call& call) { return call.offset == 512 ? EIO : 0; };
  expect_failed(
      Chain::of(rig, spec::type::discard, 0).readable(segment(0, 1) + segment(1, 1) + segment(2, 1)).writable(1).run(),
      spec::status::ioerr);
  EXPECT_EQ(rig.disk->calls.size(), 2u);
}

TEST_P(BlkDevice, RangesAreLimitedToWhatTheStorageDoesAtOnce) {
  Rig::Setup with = setup();
  Rig fast(with);
  EXPECT_EQ(fast.config<le32>(48), UINT32_C(1) << 22) << "2 GiB";
  EXPECT_EQ(fast.config<le32>(52), 32U);
  with.backend = [](HeldBackend& disk) { disk.shape.can_write_zeroes = false; };
  Rig slow(with);
  EXPECT_EQ(slow.config<le32>(48), UINT32_C(1) << 16) << "32 MiB";
  EXPECT_EQ(slow.config<le32>(52), 1U);
  expect_failed(Chain::of(slow, spec::type::write_zeroes, 0).readable(segment(0, 1) + segment(1, 1)).writable(1).run(),
                spec::status::ioerr);
  EXPECT_EQ(slow.config<le32>(36), UINT32_C(1) << 22) << "discarding is as fast as ever";
}

TEST_P(BlkDevice, ARangeReachesTheStorageInSteps) {
  constexpr std::uint64_t mib = 1 << 20;
  Rig::Setup with = setup();
  with.backend = [](HeldBackend& disk) { disk.shape.capacity = 256 * mib; };
  Rig rig(with);
  rig.disk->hold = true;
  Chain chain = Chain::of(rig, spec::type::discard, 0);
  chain.readable(segment(2048, 130 * 2048) + segment(0, 1)).writable(1).send();
  while (rig.disk->release() != 0) rig.pump();
  EXPECT_EQ(chain.answer().status(), spec::status::ok);
  EXPECT_THAT(rig.disk->calls, ElementsAre(Call{'d', mib, 4 * mib}, Call{'d', 5 * mib, 64 * mib},
                                           Call{'d', 69 * mib, 62 * mib}, Call{'d', 0, 512}));
  EXPECT_EQ(rig.disk->submits, rig.disk->calls.size()) << "nothing waits to be submitted";
}

TEST_P(BlkDevice, AResetEndsRangesAfterTheStepThatRuns) {
  Rig::Setup with = setup();
  with.backend = [](HeldBackend& disk) { disk.shape.can_write_zeroes = false; };
  for (const auto type : {spec::type::discard, spec::type::write_zeroes}) {
    Rig rig(with);
    if (type == spec::type::write_zeroes) {
      rig.disk->bytes.resize(4 << 20);
      rig.disk->shape.capacity = 4 << 20;
      rig.device->capacity_changed();
    }
    rig.disk->hold = true;
    Chain chain = Chain::of(rig, type, 0);
    type == spec::type::discard ? chain.readable(segment(0, 1) + segment(2, 1) + segment(4, 1))
                                : chain.readable(segment(0, 8192));
    chain.writable(1).send();
    ASSERT_EQ(rig.disk->calls.size(), 1U);
    rig.transport->core().write_status(0);
    rig.pump();
    rig.disk->release();
    rig.pump();
    EXPECT_EQ(rig.disk->held(), 0U);
    EXPECT_EQ(rig.disk->calls.size(), 1U) << "nobody wants the rest";
    EXPECT_EQ(rig.transport->core().status(), 0);
  }
}

TEST_P(BlkDevice, ADrainThatBecomesADiscardEndsRangesAfterTheStepThatRuns) {
  const std::function<void(virtio::DeviceCore&)> escalations[] = {
      [](auto& core) { core.write_status(0); }, [](auto& core) { core.reset_queue(0); },
      [](auto& core) { core.stop_queue(0, virtio::StopMode::discard, [](const auto&) {}); }};
  for (const bool own_loop : {false, true}) {
    for (const auto& escalate : escalations) {
      Rig::Setup with = setup();
      with.own_loop = own_loop;
      with.backend = [](HeldBackend& disk) {
        disk.shape.capacity = UINT64_C(4) << 20;
        disk.shape.can_write_zeroes = false;
      };
      Rig rig(with);
      rig.disk->bytes.resize(4 << 20);
      rig.disk->hold = true;
      Chain::of(rig, spec::type::write_zeroes, 0).readable(segment(0, 8192)).writable(1).send();
      ASSERT_EQ(rig.disk->calls.size(), 1U);
      bool at_rest = false;
      rig.transport->core().stop_queue(0, virtio::StopMode::drain, [&](const auto&) { at_rest = true; });
      rig.pump();
      rig.disk->release();
      rig.pump();
      ASSERT_EQ(rig.disk->calls.size(), 2U) << "a drain goes through all steps";
      escalate(rig.transport->core());
      rig.pump();
      rig.disk->release();
      rig.pump();
      EXPECT_EQ(rig.disk->held(), 0U);
      EXPECT_EQ(rig.disk->calls.size(), 2U) << "nobody wants the rest";
      EXPECT_TRUE(at_rest);
    }
  }
}

}  // namespace
}  // namespace outboard::blk
