// The rules of VIRTIO 1.4, 5.2 that a device keeps, each with requests as a driver writes them, on either ring. "Row" is a
// row of the table of hostile drivers; D-BI and D-BO are clauses of 5.2.5.2 and 5.2.6.2 (docs/spec-map.md).

#include <outboard/devices/blk/device.hpp>

#include <algorithm>
#include <numeric>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/testing/held_backend.hpp>
#include <outboard/testing/loopback_transport.hpp>
#include <outboard/virtio/driver_queue.hpp>
#include <outboard/virtio/spec.hpp>

namespace outboard::blk {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::HeldBackend;
using testing::LoopbackTransport;
using testing::ManualLoop;
using Call = HeldBackend::Call;
using ByteVector = std::vector<std::byte>;

constexpr std::uint64_t disk_size = 1 << 20;
constexpr std::uint64_t disk_sectors = disk_size / sector_size;
constexpr std::byte untouched{0xee};

struct Answer {
  bool used = false;
  std::uint32_t length = 0;
  ByteVector writable;  ///< all of it, the status included

  int status() const { return writable.empty() ? -1 : std::to_integer<int>(writable.back()); }
  ByteVector data() const { return {writable.begin(), writable.end() - 1}; }
};

ByteVector pattern(std::size_t size, unsigned first = 1) {
  ByteVector bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(first + i * 7 + i / 256);
  return bytes;
}

ByteVector segment(std::uint64_t sector, std::uint32_t count, std::uint32_t flags = 0) {
  const spec::RangeSegment segment{sector, count, flags};
  const Bytes bytes = as_bytes_of(segment);
  return {bytes.begin(), bytes.end()};
}

ByteVector operator+(ByteVector a, const ByteVector& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// A device on a disk in the test's hands, and the driver's end of its queues.
class Rig {
 public:
  struct Setup {
    bool packed = false;
    bool read_only = false;
    bool refuse_flush = false;  ///< the driver does not accept FLUSH
    bool refuse_wce = true;  ///< ... CONFIG_WCE
    bool refuse_ranges = false;
    bool poll = false;  ///< the device polls its queues
    bool own_loop = false;  ///< the first queue has a loop of its own
    Device::Options device{};
    std::function<void(HeldBackend&)> backend = [](HeldBackend&) {};
  };

  explicit Rig(const Setup& setup) {
    auto backend = std::make_unique<HeldBackend>(disk_size);
    disk = backend.get();
    disk->shape.read_only = setup.read_only;
    setup.backend(*disk);
    disk->bytes = pattern(disk_size);
    device = Device::create(std::move(backend), setup.device).value();
    LoopbackTransport::Options options{.packed = setup.packed, .poll = setup.poll};
    options.log = Log([this](Level, std::string_view line) { lines.emplace_back(line); });
    if (setup.own_loop) options.queue_loops = {&queue_loop};
    transport.emplace(*device, loop, options);
    virtio::Features features = transport->core().offered();
    if (setup.refuse_flush) features.clear(feature::flush);
    if (setup.refuse_wce) features.clear(feature::config_wce);
    if (setup.refuse_ranges) features = features.without(feature::discard).without(feature::write_zeroes);
    const auto agreed = virtio::negotiate(*transport, features);
    EXPECT_TRUE(agreed) << agreed.error().message();
    for (unsigned i = 0; i < setup.device.queues; ++i)
      queues.push_back(virtio::DriverQueue::create(*transport, i, *agreed, {}).value());
    arena = transport->dma().allocate(4 << 20).value();
    EXPECT_TRUE(virtio::start_device(*transport));
  }

  void pump() { transport->pump(); }
  bool needs_reset() { return (transport->core().status() & virtio::spec::status::needs_reset) != 0; }
  template <typename T>
  T config(std::uint32_t offset) {
    T value{};
    EXPECT_TRUE(transport->read_config(offset, as_writable_bytes_of(value)));
    return value;
  }

  virtio::Element place(std::size_t size, std::byte fill = untouched) {
    if (at_ + size > arena.size()) at_ = 0;
    std::fill_n(arena.data() + at_, size, fill);
    const virtio::Element element{arena.iova() + at_, static_cast<std::uint32_t>(size)};
    at_ += size;
    return element;
  }
  std::byte* host(const virtio::Element& element) { return arena.data() + (raw(element.address) - raw(arena.iova())); }

  std::vector<std::string> lines;  ///< of the log
  ManualLoop loop, queue_loop;
  HeldBackend* disk = nullptr;
  std::unique_ptr<Device> device;
  std::optional<LoopbackTransport> transport;
  std::vector<virtio::DriverQueue> queues;
  memory::DmaBuffer arena;

 private:
  std::size_t at_ = 0;
};

/// A request, element by element.
class Chain {
 public:
  explicit Chain(Rig& rig, unsigned queue = 0) : rig_(rig), queue_(queue) {}
  static Chain of(Rig& rig, std::uint32_t type, std::uint64_t sector) { return Chain(rig).header(type, sector); }

  Chain& header(std::uint32_t type, std::uint64_t sector) {
    const spec::RequestHeader header{type, 0, sector};
    const Bytes bytes = as_bytes_of(header);
    return readable({bytes.begin(), bytes.end()});
  }
  Chain& readable(const ByteVector& bytes) {
    const auto element = rig_.place(bytes.size());
    std::ranges::copy(bytes, rig_.host(element));
    readable_.push_back(element);
    return *this;
  }
  Chain& writable(std::size_t size) {
    writable_.push_back(rig_.place(size));
    return *this;
  }
  void add() { EXPECT_TRUE(rig_.queues[queue_].add(readable_, writable_, this)); }
  Chain& send() {
    add();
    rig_.queues[queue_].publish();
    rig_.pump();
    return *this;
  }
  /// What the device has made of it.
  Answer answer() {
    Answer answer;
    const auto used = rig_.queues[queue_].next_used();
    EXPECT_TRUE(used);
    if (used && *used) answer = {true, (*used)->length, {}};
    for (const auto& element : writable_)
      answer.writable.insert(answer.writable.end(), rig_.host(element), rig_.host(element) + element.length);
    return answer;
  }
  Answer run() { return send().answer(); }

 private:
  Rig& rig_;
  unsigned queue_;
  std::vector<virtio::Element> readable_, writable_;
};

class BlkDevice : public ::testing::TestWithParam<bool> {
 protected:
  Rig::Setup setup() const { return {.packed = GetParam()}; }
};
INSTANTIATE_TEST_SUITE_P(, BlkDevice, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

ByteVector slice(const ByteVector& bytes, std::size_t offset, std::size_t size) {
  return {bytes.begin() + static_cast<std::ptrdiff_t>(offset),
          bytes.begin() + static_cast<std::ptrdiff_t>(offset + size)};
}

void expect_failed(const Answer& answer, int status) {
  EXPECT_TRUE(answer.used);
  EXPECT_EQ(answer.status(), status);
  EXPECT_EQ(answer.length, answer.writable.size()) << "the used length must cover the status";
  EXPECT_THAT(answer.data(), Each(std::byte{0})) << "and so the data, which must not be left as they were";
}

TEST_P(BlkDevice, InReadsSectorsAndReportsDataAndStatus) {
  Rig rig(setup());
  const Answer answer = Chain::of(rig, spec::type::in, 3).writable(1024).writable(1).run();
  EXPECT_EQ(answer.status(), spec::status::ok);
  EXPECT_EQ(answer.length, 1025u);
  EXPECT_EQ(answer.data(), slice(rig.disk->bytes, 3 * 512, 1024));
}

TEST_P(BlkDevice, OutWritesSectorsAndReportsTheStatusOnly) {
  Rig rig(setup());
  const ByteVector data = pattern(1024, 99);
  const Answer answer = Chain::of(rig, spec::type::out, 5).readable(data).writable(1).run();
  EXPECT_EQ(answer.status(), spec::status::ok);
  EXPECT_EQ(answer.length, 1u);
  EXPECT_EQ(slice(rig.disk->bytes, 5 * 512, 1024), data);
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
  EXPECT_EQ(answer.data(), slice(rig.disk->bytes, 512, 512));
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

TEST_P(BlkDevice, FlushIsExecutedWhetherNegotiatedOrNotAndItsSectorAndDataAreIgnored) {
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

TEST_P(BlkDevice, Row53_ARequestWithoutAWritableByteBreaksTheDevice) {
  Rig rig(setup());
  EXPECT_FALSE(Chain::of(rig, spec::type::out, 0).readable(pattern(512)).run().used);
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_TRUE(rig.disk->calls.empty());
}

TEST_P(BlkDevice, Row53_AHeaderOfLessThan16BytesFails) {
  Rig rig(setup());
  expect_failed(Chain(rig).readable(pattern(15)).writable(513).run(), spec::status::ioerr);
  expect_failed(Chain(rig).writable(1).run(), spec::status::ioerr);
  EXPECT_FALSE(rig.needs_reset());
}

TEST_P(BlkDevice, Row54_ALengthThatIsNotWholeSectorsFails) {
  Rig rig(setup());
  expect_failed(Chain::of(rig, spec::type::in, 0).writable(511).writable(1).run(), spec::status::ioerr);
  expect_failed(Chain::of(rig, spec::type::out, 0).readable(pattern(513)).writable(1).run(), spec::status::ioerr);
  EXPECT_TRUE(rig.disk->calls.empty());
}

TEST_P(BlkDevice, Row54_ARangeBeyondTheCapacityFailsAlsoWhereItOverflows) {
  Rig rig(setup());
  for (const std::uint64_t sector : {disk_sectors - 1, disk_sectors, UINT64_MAX, UINT64_MAX - 1, UINT64_MAX / 512}) {
    expect_failed(Chain::of(rig, spec::type::in, sector).writable(1024).writable(1).run(), spec::status::ioerr);
    expect_failed(Chain::of(rig, spec::type::out, sector).readable(pattern(1024)).writable(1).run(),
                  spec::status::ioerr);
  }
  EXPECT_TRUE(rig.disk->calls.empty());
}

TEST_P(BlkDevice, Row55_D_BO_3_AReadOnlyDiskRefusesWritesWhateverWasNegotiated) {
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

TEST_P(BlkDevice, Row56_AnUnknownTypeIsUnsupported) {
  Rig rig(setup());
  for (const std::uint32_t type :
       {2U, 3U, 9U, spec::type::get_lifetime, spec::type::secure_erase, 0x80000000U, UINT32_MAX})
    expect_failed(Chain::of(rig, type, 0).readable(segment(0, 1)).writable(5).run(), spec::status::unsupp);
  EXPECT_FALSE(rig.needs_reset());
}

TEST_P(BlkDevice, Row56_D_BO_16_ZoneRequestsAreUnsupported) {
  Rig rig(setup());
  for (const auto type :
       {spec::type::zone_append, spec::type::zone_report, spec::type::zone_open, spec::type::zone_close,
        spec::type::zone_finish, spec::type::zone_reset, spec::type::zone_reset_all})
    expect_failed(Chain::of(rig, type, 0).writable(65).run(), spec::status::unsupp);
}

TEST_P(BlkDevice, Row56_RangesThatWereNotNegotiatedAreUnsupported) {
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

TEST_P(BlkDevice, Row57_D_BO_4_UnknownFlagsAreUnsupportedAndNothingIsTouched) {
  Rig rig(setup());
  expect_failed(Chain::of(rig, spec::type::discard, 0).readable(segment(0, 1) + segment(8, 1, 2)).writable(1).run(),
                spec::status::unsupp);
  expect_failed(Chain::of(rig, spec::type::write_zeroes, 0).readable(segment(0, 1, 0x80000000)).writable(1).run(),
                spec::status::unsupp);
  EXPECT_TRUE(rig.disk->calls.empty());
}

TEST_P(BlkDevice, Row57_D_BO_5_UnmapOnDiscardIsUnsupported) {
  Rig rig(setup());
  expect_failed(
      Chain::of(rig, spec::type::discard, 0).readable(segment(0, 1, spec::RangeSegment::unmap)).writable(1).run(),
      spec::status::unsupp);
}

TEST_P(BlkDevice, Row57_FlagsAreLookedAtBeforeRanges) {
  Rig rig(setup());
  expect_failed(Chain::of(rig, spec::type::discard, 0).readable(segment(UINT64_MAX, UINT32_MAX, 4)).writable(1).run(),
                spec::status::unsupp);
  expect_failed(Chain::of(rig, spec::type::discard, 0).readable(segment(0, 1, 4) + pattern(3)).writable(1).run(),
                spec::status::unsupp);
}

TEST_P(BlkDevice, Row58_BadRangesFailAndNothingIsErased) {
  Rig rig(setup());
  const auto most = rig.config<le32>(36);
  const ByteVector bad[] = {
      pattern(0),
      segment(0, 1) + pattern(8),  // no segment, not a whole one
      segment(0, 1) + segment(disk_sectors, 1),  // the second lies beyond the end
      segment(disk_sectors - 1, 2),
      segment(UINT64_MAX, 1),  // runs over it, overflows
      segment(0, 1) + segment(0, most + 1),  // larger than the maximum
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

TEST_P(BlkDevice, Row58_MoreSegmentsThanTheMaximumFail) {
  Rig rig(setup());
  const auto most = rig.config<le32>(40);
  ByteVector segments;
  for (unsigned i = 0; i < most; ++i) segments = segments + segment(i, 1);
  EXPECT_EQ(Chain::of(rig, spec::type::discard, 0).readable(segments).writable(1).run().status(), spec::status::ok);
  rig.disk->calls.clear();
  expect_failed(Chain::of(rig, spec::type::discard, 0).readable(segments + segment(0, 1)).writable(1).run(),
                spec::status::ioerr);
  EXPECT_TRUE(rig.disk->calls.empty());
}

TEST_P(BlkDevice, Row59_DataInTheWrongDirectionFail) {
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

TEST_P(BlkDevice, ARangeThatFailsEndsTheRequest) {
  Rig rig(setup());
  rig.disk->fails = [](const Call& call) { return call.offset == 512 ? EIO : 0; };
  expect_failed(
      Chain::of(rig, spec::type::discard, 0).readable(segment(0, 1) + segment(1, 1) + segment(2, 1)).writable(1).run(),
      spec::status::ioerr);
  EXPECT_EQ(rig.disk->calls.size(), 2u);
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

// Cache modes: VIRTIO 1.4, 5.2.6.2, stable writes.

TEST_P(BlkDevice, D_BO_11_WritesAreFlushedOneByOneForADriverThatCannotFlush) {
  Rig::Setup with = setup();
  with.refuse_flush = true;
  Rig rig(with);
  EXPECT_EQ(Chain::of(rig, spec::type::out, 0).readable(pattern(512)).writable(1).run().status(), spec::status::ok);
  EXPECT_EQ(Chain::of(rig, spec::type::write_zeroes, 0).readable(segment(0, 1)).writable(1).run().status(),
            spec::status::ok);
  EXPECT_THAT(rig.disk->calls, ElementsAre(Call{'w', 0, 512}, Call{'f', 0, 0}, Call{'z', 0, 512}, Call{'f', 0, 0}));
}

TEST_P(BlkDevice, D_BO_11_WritesAreNotFlushedForADriverThatCan) {
  Rig rig(setup());
  EXPECT_EQ(Chain::of(rig, spec::type::out, 0).readable(pattern(512)).writable(1).run().status(), spec::status::ok);
  EXPECT_THAT(rig.disk->calls, ElementsAre(Call{'w', 0, 512}));
}

TEST_P(BlkDevice, D_BO_11_WithWriteback0AWriteIsNotCompletedBeforeItsFlush) {
  Rig::Setup with = setup();
  with.refuse_wce = false;
  Rig rig(with);
  EXPECT_EQ(rig.config<std::uint8_t>(32), 1);
  ASSERT_TRUE(rig.transport->write_config(32, as_bytes_of(std::uint8_t{0})));
  EXPECT_EQ(rig.config<std::uint8_t>(32), 0);
  rig.disk->hold = true;
  Chain chain = Chain::of(rig, spec::type::out, 0).readable(pattern(512)).writable(1);
  chain.send();
  EXPECT_EQ(rig.disk->release(), 1u);  // the write
  rig.pump();
  EXPECT_FALSE(chain.answer().used);
  EXPECT_EQ(rig.disk->release(), 1u);  // the flush
  rig.pump();
  EXPECT_EQ(chain.answer().status(), spec::status::ok);
}

TEST_P(BlkDevice, AFlushBehindAWriteThatFailsFailsTheWrite) {
  Rig::Setup with = setup();
  with.refuse_flush = true;
  Rig rig(with);
  rig.disk->fails = [](const Call& call) { return call.kind == 'f' ? EIO : 0; };
  expect_failed(Chain::of(rig, spec::type::out, 0).readable(pattern(512)).writable(1).run(), spec::status::ioerr);
}

TEST_P(BlkDevice, D_BI_2_WritebackStartsAt0WithWceAndWithoutFlush) {
  Rig::Setup with = setup();
  with.refuse_wce = false;
  with.refuse_flush = true;
  EXPECT_EQ(Rig(with).config<std::uint8_t>(32), 0);
}

TEST_P(BlkDevice, WritebackIsWrittenOnlyWhereNegotiatedAndOnlyWith0And1) {
  Rig without(setup());
  ASSERT_TRUE(without.transport->write_config(32, as_bytes_of(std::uint8_t{0})));
  EXPECT_EQ(without.config<std::uint8_t>(32), 1);
  Rig::Setup with = setup();
  with.refuse_wce = false;
  Rig rig(with);
  ASSERT_TRUE(rig.transport->write_config(32, as_bytes_of(std::uint8_t{7})));
  EXPECT_EQ(rig.config<std::uint8_t>(32), 1);
  ASSERT_TRUE(rig.transport->write_config(32, as_bytes_of(le32{0})));  // a wider write that covers it
  EXPECT_EQ(rig.config<std::uint8_t>(32), 0);
  // One that begins before it: the byte at its place counts.
  std::array<std::byte, 9> wide;
  wide.fill(std::byte{0xff});
  wide.back() = std::byte{1};
  ASSERT_TRUE(rig.transport->write_config(24, wide));
  EXPECT_EQ(rig.config<std::uint8_t>(32), 1);
}

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

// Configuration and features.

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
    EXPECT_THAT(rig.lines.back(), HasSubstr("smaller under its driver"));
    EXPECT_EQ(rig.config<le64>(0), disk_sectors);
    EXPECT_EQ(rig.device->storage().size, disk_size) << "a successor compares with what the driver was told";
  }
  ASSERT_TRUE(rig.transport->reset());
  EXPECT_TRUE(rig.device->reload()) << "no driver has anything there";
  EXPECT_THAT(rig.lines.back(), HasSubstr("fewer than before"));
  EXPECT_EQ(rig.config<le64>(0), disk_sectors / 2);
  EXPECT_EQ(rig.device->storage().size, disk_size / 2);
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
  EXPECT_EQ(Chain::of(rig, spec::type::discard, 0)
                .readable(segment(2048, 130 * 2048) + segment(0, 1))
                .writable(1)
                .run()
                .status(),
            spec::status::ok);
  EXPECT_THAT(rig.disk->calls, ElementsAre(Call{'d', mib, 64 * mib}, Call{'d', 65 * mib, 64 * mib},
                                           Call{'d', 129 * mib, 2 * mib}, Call{'d', 0, 512}));
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

TEST_P(BlkDevice, WhoPollsItsQueuesPollsTheStorageToo) {
  Rig::Setup with = setup();
  with.poll = true;
  Rig rig(with);
  rig.disk->hold = true;
  rig.disk->completes_on_poll = true;
  EXPECT_EQ(Chain::of(rig, spec::type::in, 0).writable(513).run().status(), spec::status::ok);
}

TEST_P(BlkDevice, RequestsWithTheStorageAreFinishedBeforeAResetIsDone) {
  // Row 51: the status does not read 0 while the storage still writes into the driver's memory.
  Rig rig(setup());
  rig.disk->hold = true;
  Chain chain = Chain::of(rig, spec::type::in, 0).writable(513);
  chain.send();
  rig.transport->core().write_status(0);
  rig.pump();
  EXPECT_NE(rig.transport->core().status(), 0);
  rig.disk->release();
  rig.pump();
  EXPECT_EQ(rig.transport->core().status(), 0);
}

// A queue with a loop of its own reaches the storage by a way of its own, and gives it back when it is stopped.

TEST_P(BlkDevice, AQueueWithALoopOfItsOwnSharesTheStorageUntilItIsStopped) {
  Rig::Setup with = setup();
  with.own_loop = true;
  Rig rig(with);
  EXPECT_EQ(rig.disk->shared(), 0u);
  EXPECT_EQ(Chain::of(rig, spec::type::in, 3).writable(512).writable(1).run().status(), spec::status::ok);
  EXPECT_EQ(rig.disk->shared(), 1u);
  rig.transport->core().write_status(0);
  rig.pump();
  EXPECT_EQ(rig.transport->core().status(), 0);
  EXPECT_EQ(rig.disk->shared(), 0u);
}

TEST_P(BlkDevice, StorageOfAQueueThatIsStoppedIsKeptForWhatRunsOnIt) {
  Rig::Setup with = setup();
  with.own_loop = true;
  with.refuse_flush = true;  // so that a write is followed by a flush
  const auto types = {spec::type::in, spec::type::out, spec::type::discard, spec::type::write_zeroes};
  for (const auto type : types) {
    Rig rig(with);
    rig.disk->hold = true;
    Chain chain = Chain::of(rig, type, 0);
    if (type == spec::type::in) chain.writable(512);
    if (type == spec::type::out) chain.readable(pattern(512));
    if (type >= spec::type::discard) chain.readable(segment(0, 8) + segment(8, 8) + segment(16, 0));
    chain.writable(1).send();
    rig.transport->core().write_status(0);
    rig.pump();
    EXPECT_NE(rig.transport->core().status(), 0);
    EXPECT_EQ(rig.disk->shared(), 1u);
    // What follows the first step ends from inside the call that starts it.
    rig.disk->hold = false;
    rig.disk->release();
    rig.pump();
    EXPECT_EQ(rig.transport->core().status(), 0);
    EXPECT_EQ(rig.disk->shared(), 0u);
  }
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

// What outlives the device object.

constexpr std::uint32_t writeback_at = offsetof(spec::Config, writeback);

virtio::DeviceState capture(Rig& rig) {
  std::optional<virtio::DeviceState> state;
  rig.transport->core().capture([&](Result<virtio::DeviceState> captured) { state = captured.value(); });
  rig.pump();
  EXPECT_TRUE(state);
  return state.value_or(virtio::DeviceState{});
}

/// The same device, as one that has just been made: it knows nothing of its driver any more.
void restore(Rig& rig, const virtio::DeviceState& state) {
  rig.transport->core().write_status(0);
  rig.pump();
  ASSERT_EQ(rig.config<std::uint8_t>(writeback_at), 1);
  const Status restored = rig.transport->core().restore(state);
  ASSERT_TRUE(restored) << restored.error().message();
  rig.pump();
  rig.disk->calls.clear();
}

/// What a write of one sector has the storage do.
std::string calls_of_a_write(Rig& rig) {
  rig.disk->calls.clear();
  const ByteVector data = pattern(512, 5);
  EXPECT_EQ(Chain::of(rig, spec::type::out, 2).readable(data).writable(1).run().status(), spec::status::ok);
  EXPECT_EQ(slice(rig.disk->bytes, 2 * 512, 512), data);
  std::string kinds;
  for (const Call& call : rig.disk->calls) kinds += call.kind;
  return kinds;
}

void set_writeback(Rig& rig, std::uint8_t value) {
  EXPECT_TRUE(rig.transport->write_config(writeback_at, as_bytes_of(value)));
}

TEST_P(BlkDevice, WriteThroughIsPartOfItsState) {
  Rig::Setup with = setup();
  with.refuse_wce = false;
  for (const std::uint8_t chosen : {0, 1}) {
    Rig rig(with);
    set_writeback(rig, chosen);
    const virtio::DeviceState state = capture(rig);
    restore(rig, state);
    EXPECT_EQ(rig.config<std::uint8_t>(writeback_at), chosen);
    EXPECT_EQ(calls_of_a_write(rig), chosen == 0 ? "wf" : "w");
    EXPECT_EQ(capture(rig).device, state.device);
  }
}

TEST_P(BlkDevice, AfterACrashWritesGoThroughWhereTheDriverMayHaveAskedForIt) {
  Rig::Setup with = setup();
  with.refuse_wce = false;
  Rig rig(with);
  virtio::DeviceState state = capture(rig);
  state.device.reset();  // as JournalFile::recover() leaves it
  restore(rig, state);
  EXPECT_EQ(rig.config<std::uint8_t>(writeback_at), 0) << "nobody knows what it was";
  EXPECT_EQ(calls_of_a_write(rig), "wf");
  set_writeback(rig, 1);
  EXPECT_EQ(calls_of_a_write(rig), "w") << "until it is told otherwise";
}

TEST_P(BlkDevice, AfterACrashTheCacheOfADriverThatCannotChooseIsWhatItAgreedTo) {
  for (const bool refuse_flush : {false, true}) {
    Rig::Setup with = setup();
    with.refuse_flush = refuse_flush;
    Rig rig(with);
    virtio::DeviceState state = capture(rig);
    state.device.reset();
    restore(rig, state);
    EXPECT_EQ(rig.config<std::uint8_t>(writeback_at), refuse_flush ? 0 : 1);
    EXPECT_EQ(calls_of_a_write(rig), refuse_flush ? "wf" : "w");
  }
}

TEST_P(BlkDevice, AStateWithoutAWordOfItIsTakenAsAfterACrash) {
  Rig::Setup with = setup();
  with.refuse_wce = false;
  Rig rig(with);
  virtio::DeviceState state = capture(rig);
  state.device.emplace();  // what earlier versions saved
  restore(rig, state);
  EXPECT_EQ(calls_of_a_write(rig), "wf");
}

TEST_P(BlkDevice, Row68_AStateThatIsNotItsOwnIsRefused) {
  Rig::Setup with = setup();
  with.refuse_flush = true;
  Rig rig(with);
  const ByteVector good = rig.device->save_state().value();
  ASSERT_EQ(good, (ByteVector{std::byte{1}, std::byte{0}}));
  const std::vector<std::pair<const char*, ByteVector>> wrong{
      {"another version", {std::byte{2}, std::byte{0}}},
      {"too short", {std::byte{1}}},
      {"too long", {std::byte{1}, std::byte{0}, std::byte{0}}},
      {"a value that means nothing", {std::byte{1}, std::byte{2}}},
      {"a cache that its driver cannot flush", {std::byte{1}, std::byte{1}}},
  };
  for (const auto& [name, bytes] : wrong) {
    const Status restored = rig.device->restore_state(bytes);
    ASSERT_FALSE(restored) << name;
    EXPECT_EQ(restored.error().code(), EINVAL) << name;
    EXPECT_EQ(rig.device->save_state().value(), good) << name;
  }
  EXPECT_TRUE(rig.device->restore_state(good));
}

}  // namespace
}  // namespace outboard::blk
