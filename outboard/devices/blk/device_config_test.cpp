// Configuration, features and options of the device, and a capacity that changes.
// D-BI and D-BO are clauses of 5.2.5.2 and 5.2.6.2 (docs/spec-map.md).

#include <array>

#include <outboard/devices/blk/device_rig_test.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace outboard::blk {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_P(BlkDevice, NothingElseOfTheConfigurationCanBeWritten) {
  Rig::Setup with = setup();
  with.refuse_wce = false;
  Rig rig(with);
  const auto whole = [&] { return rig.config<std::array<std::byte, spec::config_size>>(0); };
  const auto before = whole();
  constexpr std::uint32_t writeback = offsetof(spec::Config, writeback);
  ASSERT_EQ(before[writeback], std::byte{1});
  // 0 is a value that the field takes: were another byte taken for it, it would show.
  for (const unsigned value : {0x00U, 0xffU}) {
    std::array<std::byte, spec::config_size> bytes;
    bytes.fill(static_cast<std::byte>(value));
    for (std::uint32_t offset = 0; offset < spec::config_size; ++offset) {
      if (offset == writeback) continue;
      ASSERT_TRUE(rig.transport->write_config(offset, Bytes(bytes).first(1)));
      EXPECT_EQ(whole(), before) << offset;
    }
    ASSERT_TRUE(rig.transport->write_config(0, Bytes(bytes).first(writeback)));
    ASSERT_TRUE(rig.transport->write_config(writeback + 1, Bytes(bytes).subspan(writeback + 1)));
    EXPECT_EQ(whole(), before);
  }
}

TEST_P(BlkDevice, D_BI_1_FlushIsAlwaysOffered) {
  for (const bool read_only : {false, true}) {
    Rig::Setup with = setup();
    with.read_only = read_only;
    Rig rig(with);
    EXPECT_TRUE(rig.transport->core().offered().has(feature::flush));
    EXPECT_TRUE(rig.transport->core().offered().has(feature::config_wce));
  }
}

TEST_P(BlkDevice, D_BI_3_PaddingIsZero) {
  Rig rig(setup());
  EXPECT_EQ(rig.config<std::uint8_t>(33), 0);
  for (const std::uint32_t offset : {57U, 58U, 59U}) EXPECT_EQ(rig.config<std::uint8_t>(offset), 0);
}

TEST_P(BlkDevice, D_BI_5_LegacyAndZonedBitsAreNeverOffered) {
  Rig rig(setup());
  for (const auto bit : {feature::barrier, feature::scsi, feature::zoned, feature::geometry, feature::lifetime})
    EXPECT_FALSE(rig.transport->core().offered().has(bit));
}

TEST_P(BlkDevice, TheConfigurationDescribesTheDisk) {
  Rig::Setup with = setup();
  with.device = {.queues = 3, .queue_size = 64, .seg_max = 0, .size_max = 65536};
  with.backend = [](HeldBackend& disk) {
    disk.shape.logical_block = 1024;
    disk.shape.physical_block = 4096;
    disk.shape.optimal_io = 65536;
  };
  Rig rig(with);
  EXPECT_EQ(rig.config<le64>(0), disk_sectors);
  EXPECT_EQ(rig.config<le32>(8), 65536u);
  EXPECT_EQ(rig.config<le32>(12), 62u) << "seg_max leaves room for header and status";
  EXPECT_EQ(rig.config<le32>(20), 1024u);
  EXPECT_EQ(rig.config<std::uint8_t>(24), 2);
  EXPECT_EQ(rig.config<le16>(26), 4);
  EXPECT_EQ(rig.config<le32>(28), 64u);
  EXPECT_EQ(rig.config<le16>(34), 3);
  EXPECT_EQ(rig.config<le32>(44), 8u) << "discard alignment in sectors";
  EXPECT_TRUE(rig.transport->core().offered().has(feature::mq));
  EXPECT_TRUE(rig.transport->core().offered().has(feature::size_max));
}

TEST_P(BlkDevice, D_BO_9_MayUnmapIsClearWhereZeroesCannotDeallocate) {
  Rig::Setup with = setup();
  EXPECT_EQ(Rig(with).config<std::uint8_t>(56), 1);
  with.backend = [](HeldBackend& disk) { disk.shape.can_unmap_zeroes = false; };
  EXPECT_EQ(Rig(with).config<std::uint8_t>(56), 0);
}

TEST_P(BlkDevice, D_BO_2_AChangeOfCapacityIsNotifiedAndCounts) {
  Rig rig(setup());
  ASSERT_TRUE(rig.transport->enable_vectors(1));
  ASSERT_TRUE(rig.transport->set_config_vector(0));
  const auto generation = rig.transport->core().config_generation();
  rig.disk->shape.capacity = disk_size / 2;
  rig.device->capacity_changed();
  EXPECT_EQ(rig.config<le64>(0), disk_sectors / 2);
  EXPECT_NE(rig.transport->core().config_generation(), generation);
  EXPECT_EQ(rig.transport->vector(0).drain(), 1u);
  expect_failed(Chain::of(rig, spec::type::in, disk_sectors / 2).writable(512).writable(1).run(), spec::status::ioerr);
}

TEST_P(BlkDevice, D_BO_2_ReloadTellsTheDriverOnlyOfASizeThatIsAnother) {
  Rig rig(setup());
  ASSERT_TRUE(rig.transport->enable_vectors(1));
  ASSERT_TRUE(rig.transport->set_config_vector(0));
  ASSERT_TRUE(rig.device->reload());
  EXPECT_EQ(rig.transport->vector(0).drain(), 0u);
  rig.disk->on_measure = [] { return 2 * disk_size; };
  ASSERT_TRUE(rig.device->reload());
  EXPECT_EQ(rig.config<le64>(0), 2 * disk_sectors);
  EXPECT_EQ(rig.transport->vector(0).drain(), 1u);
  rig.disk->on_measure = [] { return Error(EINVAL, "not a size"); };
  ASSERT_TRUE(rig.device->reload()) << "what is looked at later is in the log";
  EXPECT_THAT(rig.lines, ElementsAre(HasSubstr("2097152 bytes now, more than before"), HasSubstr("not a size")));
  EXPECT_EQ(rig.config<le64>(0), 2 * disk_sectors);
}

TEST_P(BlkDevice, ReloadDoesNotMakeADiskSmallerUnderItsDriver) {
  Rig rig(setup());
  rig.disk->on_measure = [] { return disk_size / 2; };
  for (unsigned i = 1; i <= 2; ++i) {
    ASSERT_TRUE(rig.device->reload());
    ASSERT_EQ(rig.lines.size(), i);
    EXPECT_THAT(rig.lines.back(), HasSubstr("smaller while a driver uses it"));
    EXPECT_EQ(rig.config<le64>(0), disk_sectors);
    EXPECT_EQ(rig.device->storage().size, disk_size) << "a successor compares with what the driver was told";
  }
  ASSERT_TRUE(rig.transport->reset());
  EXPECT_TRUE(rig.device->reload()) << "no driver has anything there";
  EXPECT_THAT(rig.lines.back(), HasSubstr("fewer than before"));
  EXPECT_EQ(rig.config<le64>(0), disk_sectors / 2);
  EXPECT_EQ(rig.device->storage().size, disk_size / 2);
}

TEST(BlkDeviceOptions, OutsideTheirRangesAreRefusedByName) {
  const auto refused = [](const Device::Options& options) {
    const auto device = Device::create(std::make_unique<HeldBackend>(disk_size), options);
    return device ? std::string() : device.error().message();
  };
  EXPECT_THAT(refused({.queues = 0}), ::testing::HasSubstr("queues"));
  EXPECT_THAT(refused({.queues = 257}), ::testing::HasSubstr("queues"));
  EXPECT_THAT(refused({.queue_size = 2}), ::testing::HasSubstr("queue-size"));
  EXPECT_THAT(refused({.queue_size = 100}), ::testing::HasSubstr("queue-size"));
  EXPECT_THAT(refused({.id = "a serial number that is too long"}), ::testing::HasSubstr("serial"));
  EXPECT_THAT(refused({.queue_size = 16, .seg_max = 15}), ::testing::HasSubstr("seg_max"));
  EXPECT_THAT(refused({.size_max = 100}), ::testing::HasSubstr("size_max"));
}

}  // namespace
}  // namespace outboard::blk
