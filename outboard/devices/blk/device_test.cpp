// The rules of VIRTIO 1.4, 5.2 that a device keeps about requests, each as a driver writes them, on either ring.
// VD-n and VDUSE-n are rows of docs/spec-map.md; D-BI and D-BO are clauses of 5.2.5.2 and 5.2.6.2 (docs/spec-map.md).

#include <outboard/devices/blk/device_rig_test.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace outboard::blk {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

INSTANTIATE_TEST_SUITE_P(, BlkDevice,
                         ::testing::Values(On{false, false}, On{true, false}, On{false, true}, On{true, true}),
                         [](const auto& each) {
                           return std::string(each.param.packed ? "Packed" : "Split") +
                                  (each.param.difficult ? "Difficult" : "");
                         });

TEST_P(BlkDevice, InReadsSectorsAndReportsDataAndStatus) {
  Rig rig(setup());
  const Answer answer = Chain::of(rig, spec::type::in, 3).writable(1024).writable(1).run();
  EXPECT_EQ(answer.status(), spec::status::ok);
  EXPECT_EQ(answer.length, 1025u);
  EXPECT_EQ(answer.data(), rig.on_disk(3 * 512, 1024));
}

TEST_P(BlkDevice, OutWritesSectorsAndReportsTheStatusOnly) {
  Rig rig(setup());
  const ByteVector data = pattern(1024, 99);
  const Answer answer = Chain::of(rig, spec::type::out, 5).readable(data).writable(1).run();
  EXPECT_EQ(answer.status(), spec::status::ok);
  EXPECT_EQ(answer.length, 1u);
  EXPECT_EQ(rig.on_disk(5 * 512, 1024), data);
}

TEST_P(BlkDevice, FramingIsFree) {
  // VIRTIO 1.4, 2.7.4.1: the header may be split, data and status may share an element.
  Rig rig(setup());
  const spec::RequestHeader header{spec::type::in, 0, 1};
  const Bytes bytes = as_bytes_of(header);
  const Answer answer = Chain(rig)
                            .readable({bytes.begin(), bytes.begin() + 3})
                            .readable({bytes.begin() + 3, bytes.end()})
                            .writable(100)
                            .writable(413)
                            .run();
  EXPECT_EQ(answer.status(), spec::status::ok);
  EXPECT_EQ(answer.data(), rig.on_disk(512, 512));
}

TEST_P(BlkDevice, TheStatusIsTheVeryLastWritableByte) {
  Rig rig(setup());
  const Answer answer = Chain::of(rig, spec::type::flush, 0).writable(7).run();
  EXPECT_EQ(answer.status(), spec::status::ok);
  EXPECT_EQ(answer.length, 7u);
  EXPECT_THAT(answer.data(), Each(std::byte{0}));
}

TEST_P(BlkDevice, NoDataIsNoError) {
  Rig rig(setup());
  EXPECT_EQ(Chain::of(rig, spec::type::in, 0).writable(1).run().status(), spec::status::ok);
  EXPECT_EQ(Chain::of(rig, spec::type::out, disk_sectors).writable(1).run().status(), spec::status::ok);
  EXPECT_TRUE(rig.disk->calls.empty());
}

TEST_P(BlkDevice, FlushIsExecutedThoughNotNegotiatedAndIgnoresSectorAndData) {
  for (const bool refuse : {false, true}) {
    Rig::Setup with = setup();
    with.refuse_flush = refuse;
    Rig rig(with);
    EXPECT_EQ(Chain::of(rig, spec::type::flush, UINT64_MAX).readable(pattern(5)).writable(1).run().status(),
              spec::status::ok);
    EXPECT_THAT(rig.disk->calls, ElementsAre(Call{'f', 0, 0}));
  }
}

TEST_P(BlkDevice, GetIdGivesTheIdAndZerosToTheEnd) {
  Rig::Setup with = setup();
  with.device.id = "serial-7";
  Rig rig(with);
  const Answer answer = Chain::of(rig, spec::type::get_id, 0).writable(24).writable(1).run();
  EXPECT_EQ(answer.status(), spec::status::ok);
  EXPECT_EQ(answer.length, 25u);
  EXPECT_EQ(std::memcmp(answer.writable.data(), "serial-7\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24), 0);
}

TEST_P(BlkDevice, AnIdOf20BytesHasNoTerminator) {
  Rig::Setup with = setup();
  with.device.id = "12345678901234567890";
  Rig rig(with);
  const Answer answer = Chain::of(rig, spec::type::get_id, 0).writable(20).writable(1).run();
  EXPECT_EQ(std::memcmp(answer.writable.data(), "12345678901234567890", 20), 0);
}

TEST_P(BlkDevice, GetIdWithLessThan20BytesFails) {
  Rig rig(setup());
  expect_failed(Chain::of(rig, spec::type::get_id, 0).writable(19).writable(1).run(), spec::status::ioerr);
}

TEST_P(BlkDevice, VD53_ARequestWithoutAWritableByteBreaksTheDevice) {
  Rig rig(setup());
  EXPECT_FALSE(Chain::of(rig, spec::type::out, 0).readable(pattern(512)).run().used);
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_TRUE(rig.disk->calls.empty());
}

TEST_P(BlkDevice, VD53_AHeaderOfLessThan16BytesFails) {
  Rig rig(setup());
  expect_failed(Chain(rig).readable(pattern(15)).writable(513).run(), spec::status::ioerr);
  expect_failed(Chain(rig).writable(1).run(), spec::status::ioerr);
  EXPECT_FALSE(rig.needs_reset());
}

TEST_P(BlkDevice, VD54_ALengthThatIsNotWholeSectorsFails) {
  Rig rig(setup());
  expect_failed(Chain::of(rig, spec::type::in, 0).writable(511).writable(1).run(), spec::status::ioerr);
  expect_failed(Chain::of(rig, spec::type::out, 0).readable(pattern(513)).writable(1).run(), spec::status::ioerr);
  EXPECT_TRUE(rig.disk->calls.empty());
}

TEST_P(BlkDevice, VD54_ARangeBeyondTheCapacityFailsAlsoWhereItOverflows) {
  Rig rig(setup());
  for (const std::uint64_t sector : {disk_sectors - 1, disk_sectors, UINT64_MAX, UINT64_MAX - 1, UINT64_MAX / 512}) {
    expect_failed(Chain::of(rig, spec::type::in, sector).writable(1024).writable(1).run(), spec::status::ioerr);
    expect_failed(Chain::of(rig, spec::type::out, sector).readable(pattern(1024)).writable(1).run(),
                  spec::status::ioerr);
  }
  EXPECT_TRUE(rig.disk->calls.empty());
}

TEST_P(BlkDevice, VD55_D_BO_3_AReadOnlyDiskRefusesWritesWhateverWasNegotiated) {
  Rig::Setup with = setup();
  with.read_only = true;
  Rig rig(with);
  EXPECT_TRUE(rig.transport->core().offered().has(feature::ro));
  expect_failed(Chain::of(rig, spec::type::out, 0).readable(pattern(512)).writable(1).run(), spec::status::ioerr);
  for (const auto type : {spec::type::discard, spec::type::write_zeroes, spec::type::secure_erase})
    expect_failed(Chain::of(rig, type, 0).readable(segment(0, 1)).writable(1).run(), spec::status::ioerr);
  EXPECT_TRUE(rig.disk->calls.empty());
  EXPECT_EQ(Chain::of(rig, spec::type::in, 0).writable(512).writable(1).run().status(), spec::status::ok);
}

TEST_P(BlkDevice, VD56_AnUnknownTypeIsUnsupported) {
  Rig rig(setup());
  for (const std::uint32_t type :
       {2U, 3U, 9U, spec::type::get_lifetime, spec::type::secure_erase, 0x80000000U, UINT32_MAX})
    expect_failed(Chain::of(rig, type, 0).readable(segment(0, 1)).writable(5).run(), spec::status::unsupp);
  EXPECT_FALSE(rig.needs_reset());
}

TEST_P(BlkDevice, VD56_D_BO_16_ZoneRequestsAreUnsupported) {
  Rig rig(setup());
  for (const auto type :
       {spec::type::zone_append, spec::type::zone_report, spec::type::zone_open, spec::type::zone_close,
        spec::type::zone_finish, spec::type::zone_reset, spec::type::zone_reset_all})
    expect_failed(Chain::of(rig, type, 0).writable(65).run(), spec::status::unsupp);
}

TEST_P(BlkDevice, VD59_DataInTheWrongDirectionFail) {
  Rig rig(setup());
  expect_failed(Chain::of(rig, spec::type::in, 0).readable(pattern(512)).writable(513).run(), spec::status::ioerr);
  expect_failed(Chain::of(rig, spec::type::out, 0).writable(513).run(), spec::status::ioerr);
  expect_failed(Chain::of(rig, spec::type::out, 0).readable(pattern(512)).writable(2).run(), spec::status::ioerr);
  expect_failed(Chain::of(rig, spec::type::get_id, 0).readable(pattern(1)).writable(21).run(), spec::status::ioerr);
  expect_failed(Chain::of(rig, spec::type::discard, 0).readable(segment(0, 1)).writable(2).run(), spec::status::ioerr);
  EXPECT_TRUE(rig.disk->calls.empty());
}

TEST_P(BlkDevice, AReadThatFailsLeavesNoByteUnwritten) {
  Rig rig(setup());
  rig.disk->fails = [](const Call&) { return EIO; };
  expect_failed(Chain::of(rig, spec::type::in, 0).writable(2048).writable(1).run(), spec::status::ioerr);
}

TEST_P(BlkDevice, WhateverTheStorageSaysBecomesIoerr) {
  Rig rig(setup());
  rig.disk->fails = [](const Call&) { return ENOSPC; };
  expect_failed(Chain::of(rig, spec::type::out, 0).readable(pattern(512)).writable(1).run(), spec::status::ioerr);
  expect_failed(Chain::of(rig, spec::type::flush, 0).writable(1).run(), spec::status::ioerr);
  expect_failed(Chain::of(rig, spec::type::discard, 0).readable(segment(0, 1)).writable(1).run(), spec::status::ioerr);
}

TEST_P(BlkDevice, AReadIntoMemoryThatIsNotThereBreaksTheDevice) {
  Rig rig(setup());
  const virtio::Element header = rig.place(16, std::byte{0});
  const virtio::Element nowhere{memory::Iova{UINT64_C(1) << 45}, 512};
  const virtio::Element status = rig.place(1);
  const virtio::Element writable[] = {nowhere, status};
  ASSERT_TRUE(rig.queues[0].add(std::span(&header, 1), writable, &rig));
  rig.queues[0].publish();
  rig.pump();
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_TRUE(rig.disk->calls.empty());
}

TEST_P(BlkDevice, OneFlushCoversEveryQueueAndEachQueueWorks) {
  Rig::Setup with = setup();
  with.device.queues = 2;
  Rig rig(with);
  EXPECT_EQ(Chain(rig, 1).header(spec::type::out, 9).readable(pattern(512)).writable(1).run().status(),
            spec::status::ok);
  EXPECT_EQ(Chain(rig, 0).header(spec::type::flush, 0).writable(1).run().status(), spec::status::ok);
  EXPECT_THAT(rig.disk->calls, ElementsAre(Call{'w', 9 * 512, 512}, Call{'f', 0, 0}));
}

TEST_P(BlkDevice, WorkIsSubmittedOncePerBatch) {
  Rig rig(setup());
  rig.disk->hold = true;
  for (unsigned batch = 1; batch <= 2; ++batch) {
    std::vector<Chain> chains;
    for (unsigned i = 0; i < 5; ++i) chains.push_back(Chain::of(rig, spec::type::in, i).writable(513));
    for (Chain& chain : chains) chain.add();
    rig.queues[0].publish();
    rig.pump();
    EXPECT_EQ(rig.disk->calls.size(), 5 * batch);
    EXPECT_EQ(rig.disk->submits, batch) << "one for all five";
    rig.disk->release();
    rig.pump();
    for (Chain& chain : chains) EXPECT_TRUE(chain.answer().used);
  }
}

TEST_P(BlkDevice, WhoPollsItsQueuesPollsTheStorageToo) {
  Rig::Setup with = setup();
  with.poll = true;
  Rig rig(with);
  rig.disk->hold = true;
  rig.disk->completes_on_poll = true;
  EXPECT_EQ(Chain::of(rig, spec::type::in, 0).writable(513).run().status(), spec::status::ok);
}

}  // namespace
}  // namespace outboard::blk
