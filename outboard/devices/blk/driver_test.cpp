// The driver against the device, in one thread, on either ring.

#include <outboard/devices/blk/driver.hpp>

#include <algorithm>
#include <deque>
#include <optional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/devices/blk/device.hpp>
#include <outboard/testing/loopback_transport.hpp>
#include <tests/support/held_backend.hpp>

namespace outboard::blk {
namespace {

using ::testing::ElementsAre;
using testing::HeldBackend;
using testing::LoopbackTransport;
using testing::ManualLoop;
using Call = HeldBackend::Call;

constexpr std::uint64_t disk_size = 1 << 20;

/// An operation that knows when it is done.
struct Operation : Io {
  explicit Operation(const Io& io) : Io(io) {
    done = [](Io& self) { ++static_cast<Operation&>(self).completions; };
  }
  int completions = 0;
};

class Rig {
 public:
  Rig(
      bool packed, Device::Options device_options, Driver::Options options,
      const std::function<void(HeldBackend&)>& shape = [](HeldBackend&) {}) {
    auto backend = std::make_unique<HeldBackend>(disk_size);
    disk = backend.get();
    shape(*disk);
    device = Device::create(std::move(backend), device_options).value();
    transport.emplace(*device, device_loop, LoopbackTransport::Options{.packed = packed});
    options.loop = &loop;
    auto started = Driver::start(*transport, options);
    EXPECT_TRUE(started) << started.error().message();
    driver.emplace(std::move(*started));
    buffer = driver->dma().allocate(disk_size).value();
    pump();
  }

  void pump() {
    for (int i = 0; i < 1000; ++i) {
      const bool driver_did = loop.run_until_idle();
      const bool device_did = device_loop.run_until_idle();
      if (!driver_did && !device_did) return;
    }
  }
  Queue& queue(unsigned index = 0) { return driver->queue(index); }
  /// Runs an operation to its end and gives its errno; -1: never done.
  int run(Operation& operation, unsigned index = 0) {
    const auto submitted = queue(index).submit(operation);
    if (!submitted) return submitted.error().code();
    queue(index).publish();
    pump();
    EXPECT_LE(operation.completions, 1);
    return operation.completions == 1 ? operation.error : -1;
  }
  int run(const Io& io, unsigned index = 0) {
    Operation operation(io);
    return run(operation, index);
  }
  std::span<const virtio::Element> piece(std::size_t offset, std::uint32_t size) {
    pieces_.push_back({buffer.iova() + offset, size});
    return {&pieces_.back(), 1};
  }
  void fill(std::size_t offset, std::size_t size, unsigned seed = 3) {
    for (std::size_t i = 0; i < size; ++i) buffer.data()[offset + i] = static_cast<std::byte>(seed + i * 13 + i / 512);
  }
  bool same(std::size_t a, std::size_t b, std::size_t size) const {
    return std::memcmp(buffer.data() + a, buffer.data() + b, size) == 0;
  }

  testing::FakeClock clock;
  ManualLoop loop{clock}, device_loop{clock};
  HeldBackend* disk = nullptr;
  std::unique_ptr<Device> device;
  std::optional<LoopbackTransport> transport;
  std::optional<Driver> driver;
  memory::DmaBuffer buffer;

 private:
  std::deque<virtio::Element> pieces_;
};

struct Kind {
  bool packed = false;
  bool poll = false;
};

class BlkDriver : public ::testing::TestWithParam<Kind> {
 protected:
  Rig rig(Device::Options device = {}, Driver::Options options = {}) {
    options.poll = GetParam().poll;
    return {GetParam().packed, std::move(device), std::move(options)};
  }
  static Driver::Options depth(std::uint16_t depth) {
    Driver::Options options;
    options.depth = depth;
    return options;
  }
};
INSTANTIATE_TEST_SUITE_P(, BlkDriver, ::testing::Values(Kind{false}, Kind{true}),
                         [](const auto& each) { return std::string(each.param.packed ? "Packed" : "Split"); });

TEST_P(BlkDriver, KnowsTheDisk) {
  Rig r = rig();
  EXPECT_EQ(r.driver->capacity(), disk_size);
  EXPECT_EQ(r.driver->queue_count(), 1u);
  EXPECT_EQ(r.driver->features().has(virtio::Feature::ring_packed), GetParam().packed);
}

TEST_P(BlkDriver, ReadsWhatItWrote) {
  Rig r = rig();
  r.fill(0, 8192);
  EXPECT_EQ(r.run({.kind = Io::Kind::write, .sector = Sector{16}, .data = r.piece(0, 8192)}), 0);
  EXPECT_EQ(r.run({.kind = Io::Kind::read, .sector = Sector{16}, .data = r.piece(65536, 8192)}), 0);
  EXPECT_TRUE(r.same(0, 65536, 8192));
}

TEST_P(BlkDriver, FlushesDiscardsAndWritesZeroes) {
  Rig r = rig();
  EXPECT_EQ(r.run({.kind = Io::Kind::flush}), 0);
  EXPECT_EQ(r.run({.kind = Io::Kind::discard, .sector = Sector{8}, .sectors = 16}), 0);
  EXPECT_EQ(r.run({.kind = Io::Kind::write_zeroes, .unmap = true, .sector = Sector{1}, .sectors = 2}), 0);
  EXPECT_EQ(r.run({.kind = Io::Kind::write_zeroes, .sector = Sector{1}, .sectors = 2}), 0);
  EXPECT_THAT(r.disk->calls,
              ElementsAre(Call{'f', 0, 0}, Call{'d', 4096, 8192}, Call{'u', 512, 1024}, Call{'z', 512, 1024}));
}

TEST_P(BlkDriver, GetsTheId) {
  Rig r = rig({.id = "disk-42"});
  std::array<char, spec::id_size> id{};
  EXPECT_EQ(r.run({.kind = Io::Kind::get_id, .id = &id}), 0);
  EXPECT_STREQ(id.data(), "disk-42");
}

TEST_P(BlkDriver, CutsUpWhatIsLargerThanTheDeviceTakes) {
  Rig r = rig({.queue_size = 64, .seg_max = 3, .size_max = 1024}, depth(4));
  r.fill(0, 65536);
  // Pieces that end inside sectors, so that a request has to end in the middle of one.
  std::vector<virtio::Element> pieces, back;
  for (std::size_t at = 0, size = 100; at < 65536; at += pieces.back().length, size = size * 3 % 5000 + 1) {
    pieces.push_back({r.buffer.iova() + at, static_cast<std::uint32_t>(std::min<std::size_t>(size + 512, 65536 - at))});
    back.push_back({r.buffer.iova() + 131072 + at, pieces.back().length});
  }
  EXPECT_EQ(r.run({.kind = Io::Kind::write, .sector = Sector{7}, .data = pieces}), 0);
  EXPECT_GT(r.disk->calls.size(), 20u);
  for (const Call& call : r.disk->calls) EXPECT_LE(call.length, 3 * 1024u);
  EXPECT_EQ(std::memcmp(r.disk->bytes.data() + 7 * 512, r.buffer.data(), 65536), 0);
  EXPECT_EQ(r.run({.kind = Io::Kind::read, .sector = Sector{7}, .data = back}), 0);
  EXPECT_TRUE(r.same(0, 131072, 65536));
}

TEST_P(BlkDriver, ElementsTooSmallForTheDevicesSegmentsAreRefused) {
  Rig r = rig({.queue_size = 64, .seg_max = 2});
  std::vector<virtio::Element> pieces(16, {r.buffer.iova(), 32});
  EXPECT_EQ(r.run({.kind = Io::Kind::write, .data = pieces}), EINVAL);
}

TEST_P(BlkDriver, MoreOperationsThanFitWaitTheirTurn) {
  Rig r = rig({.queue_size = 16}, depth(4));
  std::deque<Operation> operations;
  for (unsigned i = 0; i < 100; ++i) {
    operations.emplace_back(Io{.kind = Io::Kind::write, .sector = Sector{i}, .data = r.piece(0, 512)});
    ASSERT_TRUE(r.queue().submit(operations.back()));
  }
  EXPECT_EQ(r.queue().in_flight(), 100u);
  r.queue().publish();
  r.pump();
  for (const auto& operation : operations) EXPECT_EQ(operation.completions, 1);
  EXPECT_EQ(r.disk->calls.size(), 100u);
  EXPECT_EQ(r.queue().in_flight(), 0u);
}

TEST_P(BlkDriver, ACompletionMaySubmitTheNextOperationAndThatIsPublished) {
  Rig r = rig();
  struct Again : Io {
    Queue* queue = nullptr;
    int left = 20;
  } again;
  again.kind = Io::Kind::flush;
  again.queue = &r.queue();
  again.done = [](Io& io) {
    auto& self = static_cast<Again&>(io);
    if (--self.left > 0) {
      EXPECT_TRUE(self.queue->submit(self));
    }
  };
  ASSERT_TRUE(r.queue().submit(again));
  r.queue().publish();
  r.pump();
  EXPECT_EQ(again.left, 0);
}

TEST_P(BlkDriver, OperationsBeyondTheEndOrWithoutWholeSectorsAreRefused) {
  Rig r = rig();
  EXPECT_EQ(r.run({.kind = Io::Kind::read, .sector = Sector{2048}, .data = r.piece(0, 512)}), EINVAL);
  EXPECT_EQ(r.run({.kind = Io::Kind::read, .sector = Sector{UINT64_MAX}, .data = r.piece(0, 512)}), EINVAL);
  EXPECT_EQ(r.run({.kind = Io::Kind::read, .data = r.piece(0, 511)}), EINVAL);
  EXPECT_EQ(r.run({.kind = Io::Kind::read}), EINVAL);
  EXPECT_EQ(r.run({.kind = Io::Kind::discard}), EINVAL);
  EXPECT_EQ(r.run({.kind = Io::Kind::discard, .sector = Sector{1}, .sectors = UINT64_MAX}), EINVAL);
  EXPECT_EQ(r.run({.kind = Io::Kind::get_id}), EINVAL);
  const virtio::Element empty[] = {{r.buffer.iova(), 512}, {r.buffer.iova(), 0}};
  EXPECT_EQ(r.run({.kind = Io::Kind::read, .data = empty}), EINVAL);
  EXPECT_TRUE(r.disk->calls.empty());
}

TEST_P(BlkDriver, AReadOnlyDiskIsNotWritten) {
  Rig r(GetParam().packed, {}, {}, [](HeldBackend& disk) { disk.shape.read_only = true; });
  EXPECT_TRUE(r.driver->limits().read_only);
  EXPECT_EQ(r.run({.kind = Io::Kind::write, .data = r.piece(0, 512)}), EROFS);
  EXPECT_EQ(r.run({.kind = Io::Kind::write_zeroes, .sectors = 1}), EROFS);
  EXPECT_EQ(r.run({.kind = Io::Kind::read, .data = r.piece(0, 512)}), 0);
}

TEST_P(BlkDriver, WhatTheDeviceDoesNotDoIsNotSupported) {
  Rig r = rig({.discard = false});
  EXPECT_EQ(r.run({.kind = Io::Kind::discard, .sectors = 1}), ENOTSUP);
  EXPECT_EQ(r.run({.kind = Io::Kind::write_zeroes, .sectors = 1}), ENOTSUP);
}

TEST_P(BlkDriver, ErrorsOfTheDiskAreEIOAndEndTheRestOfTheOperation) {
  Rig r = rig({.queue_size = 16, .seg_max = 1, .size_max = 512}, depth(2));
  r.disk->fails = [](const Call& call) { return call.offset == 512 ? ENOSPC : 0; };
  EXPECT_EQ(r.run({.kind = Io::Kind::write, .data = r.piece(0, 512 * 50)}), EIO);
  EXPECT_LT(r.disk->calls.size(), 10u);
  r.disk->fails = [](const Call&) { return 0; };
  EXPECT_EQ(r.run({.kind = Io::Kind::write, .data = r.piece(0, 512 * 50)}), 0);
}

TEST_P(BlkDriver, VR24_AfterAChangeOfCapacityOperationsBeyondTheEndFail) {
  Rig r = rig();
  r.disk->shape.capacity = disk_size / 2;
  r.device->capacity_changed();
  r.pump();
  EXPECT_EQ(r.driver->capacity(), disk_size / 2);
  EXPECT_EQ(r.run({.kind = Io::Kind::read, .sector = Sector{1024}, .data = r.piece(0, 512)}), EINVAL);
}

TEST_P(BlkDriver, EachQueueWorks) {
  Driver::Options options;
  options.queues = 8;
  Rig r = rig({.queues = 3}, options);
  ASSERT_EQ(r.driver->queue_count(), 3u);
  for (unsigned queue = 0; queue < 3; ++queue) {
    EXPECT_EQ(r.run({.kind = Io::Kind::write, .sector = Sector{queue}, .data = r.piece(0, 512)}, queue), 0);
    EXPECT_GT(r.transport->interrupts(queue), 0u);
  }
}

TEST_P(BlkDriver, WithoutInterruptsTheCallerPolls) {
  Driver::Options options;
  options.poll = true;
  Rig r(GetParam().packed, {}, options);
  Operation read(Io{.kind = Io::Kind::read, .data = r.piece(0, 512)});
  ASSERT_TRUE(r.queue().submit(read));
  r.queue().publish();
  r.pump();
  EXPECT_EQ(read.completions, 0);
  EXPECT_EQ(r.queue().poll(), 1u);
  EXPECT_EQ(read.completions, 1);
}

TEST_P(BlkDriver, DestroyingItEndsWhatIsInFlightAfterTheDeviceHasStopped) {
  Rig r = rig();
  Operation flush(Io{.kind = Io::Kind::flush});
  ASSERT_TRUE(r.queue().submit(flush));  // not published: the device does not know of it
  r.driver.reset();
  EXPECT_EQ(flush.completions, 1);
  EXPECT_EQ(flush.error, ECANCELED);
  EXPECT_EQ(r.transport->core().status(), 0);
}

TEST_P(BlkDriver, TheCallsThatWaitAreRefusedOnALoopOfTheCallers) {
  Rig r = rig();
  EXPECT_EQ(r.driver->flush().error().code(), ENOTSUP);
  EXPECT_EQ(r.driver->process().error().code(), ENOTSUP);
  EXPECT_EQ(r.driver->fd(), -1);
}

}  // namespace
}  // namespace outboard::blk
