// What a driver makes of a configuration; docs/spec-map.md, VR-17: absurd values count as a feature that is not there.

#include <outboard/devices/blk/driver_limits.hpp>

#include <gtest/gtest.h>

namespace outboard::blk {
namespace {

const virtio::Features all{feature::size_max, feature::seg_max, feature::ro,      feature::blk_size,    feature::flush,
                           feature::topology, feature::mq,      feature::discard, feature::write_zeroes};

spec::Config sane() {
  spec::Config config;
  config.capacity = 2048;
  config.size_max = 65536;
  config.seg_max = 30;
  config.blk_size = 1024;
  config.physical_block_exp = 2;
  config.opt_io_size = 8;
  config.num_queues = 4;
  config.max_discard_sectors = 100;
  config.max_discard_seg = 1;
  config.max_write_zeroes_sectors = 200;
  config.max_write_zeroes_seg = 1;
  config.write_zeroes_may_unmap = 1;
  return config;
}

TEST(Limits, TakesWhatMakesSense) {
  const Limits limits = sanitise(sane(), all);
  EXPECT_EQ(limits, (Limits{.capacity = 2048,
                            .block_size = 1024,
                            .physical_block_size = 4096,
                            .optimal_io_size = 8192,
                            .seg_max = 30,
                            .size_max = 65536,
                            .queues = 4,
                            .max_discard_sectors = 100,
                            .max_write_zeroes_sectors = 200,
                            .write_zeroes_may_unmap = true,
                            .read_only = true,
                            .flush = true}));
}

TEST(Limits, FieldsOfFeaturesThatWereNotAcceptedMeanNothing) {
  const Limits limits = sanitise(sane(), {});
  EXPECT_EQ(limits, Limits{.capacity = 2048});
}

TEST(Limits, VR17_BlockSizesThatAreNoPowerOfTwoOrTooSmallAre512) {
  for (const std::uint32_t size : {0U, 1U, 256U, 513U, 1000U, 0x80000000U, UINT32_MAX}) {
    spec::Config config = sane();
    config.blk_size = size;
    EXPECT_EQ(sanitise(config, all).block_size, 512u) << size;
  }
}

TEST(Limits, VR17_APhysicalBlockBeyondReasonIsTheLogicalOne) {
  for (const unsigned exponent : {16U, 32U, 64U, 255U}) {
    spec::Config config = sane();
    config.physical_block_exp = static_cast<std::uint8_t>(exponent);
    EXPECT_EQ(sanitise(config, all).physical_block_size, 1024u) << exponent;
  }
}

TEST(Limits, VR17_NoSegmentsAreOne) {
  spec::Config config = sane();
  config.seg_max = 0;
  EXPECT_EQ(sanitise(config, all).seg_max, 1u);
}

TEST(Limits, VR17_AnElementTooSmallForASectorIsNoLimit) {
  for (const std::uint32_t size : {0U, 1U, 511U}) {
    spec::Config config = sane();
    config.size_max = size;
    EXPECT_EQ(sanitise(config, all).size_max, UINT32_MAX);
  }
}

TEST(Limits, VR17_NoQueuesAreOne) {
  spec::Config config = sane();
  config.num_queues = 0;
  EXPECT_EQ(sanitise(config, all).queues, 1);
}

TEST(Limits, VR17_RangesOfNothingAreNoFeature) {
  spec::Config config = sane();
  config.max_discard_sectors = 0;
  config.max_write_zeroes_seg = 0;
  EXPECT_EQ(sanitise(config, all).max_discard_sectors, 0u);
  EXPECT_EQ(sanitise(config, all).max_write_zeroes_sectors, 0u);
}

TEST(Limits, VR17_ACapacityBeyond64BitsOfBytesIsCut) {
  spec::Config config = sane();
  config.capacity = UINT64_MAX;
  EXPECT_EQ(sanitise(config, all).capacity, UINT64_MAX / 512);
}

}  // namespace
}  // namespace outboard::blk
