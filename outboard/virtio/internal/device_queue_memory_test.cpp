// The engine of a device's queue: memory that moves, and files that shrink under it.

#include <memory>
#include <thread>
#include <utility>

#include <unistd.h>

#include <gtest/gtest.h>

#include <outboard/memory/fault_guard.hpp>
#include <outboard/virtio/internal/device_queue_rig_test.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::virtio {
namespace {

// Memory that moves.

TEST_P(EitherDeviceQueue, ARingWhoseMemoryIsAwayIsParkedAndScannedWhenItIsBack) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_TRUE(rig.unmap_driver());  // a kept request pins nothing

  rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_EQ(rig.device.requests, 1U);  // nothing popped
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 0U);  // nothing published
  EXPECT_FALSE(rig.needs_reset());

  rig.map_driver();
  rig.settle();  // nobody kicks
  EXPECT_EQ(rig.device.requests, 2U);
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 0}}));
  EXPECT_EQ(rig.notified[0], 1U);
}

TEST_P(EitherDeviceQueue, AnAnswerHeldForTheRingIsPublishedThoughTheQueueStops) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  rig.device.gives_up_kept = false;
  for (unsigned i = 0; i < 2; ++i) rig.driver().chain().writable(4).publish();
  rig.process();
  EXPECT_TRUE(rig.unmap_driver());
  rig.core->stop_queue(0, StopMode::drain, [](const Result<QueueState>&) {});
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 0U);
  rig.map_driver();
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 1U) << "and does not wait for the request that still runs";
}

TEST_P(EitherDeviceQueue, OnlyWhatTheDeviceWritesOfItsRingHasToBeWritable) {
  constexpr std::uint64_t page = 4096;
  constexpr Iova at{0x9000000};
  for (unsigned read_only = 0; read_only < ring_parts; ++read_only) {
    auto& rig = make();
    for (unsigned part = 0; part < ring_parts; ++part) {
      const auto memory = memory::HostMemory::anonymous(page).value();
      const Access access = part == read_only ? Access::read : Access::read_write;
      ASSERT_TRUE(rig.map.map(
          {.range = {at + part * page, page}, .access = access, .memory = memory, .offset = 0, .port = {}}));
    }
    rig.negotiate();
    rig.core->set_queue_size(0, 16);
    for (unsigned part = 0; part < ring_parts; ++part) rig.core->set_queue_address(0, part, at + part * page);
    rig.core->enable_queue(0);
    rig.driver_ok();
    // Descriptors, driver area, device area: the used elements of a packed ring are where its descriptors were.
    const bool is_written = read_only == 2 || (packed() && read_only == 0);
    EXPECT_EQ(rig.core->broken(), is_written) << read_only;
  }
}

TEST_P(EitherDeviceQueue, AKeptRequestFindsItsMemoryWhereItIsNow) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  auto chain = rig.driver().chain();
  chain.readable("ABCD").writable(4).publish();
  rig.process();
  EXPECT_TRUE(rig.unmap_driver());
  EXPECT_EQ(rig.device.kept[0].read<le32>().error().code(), EFAULT);
  rig.map_driver();
  rig.settle();
  ASSERT_TRUE(rig.device.kept[0].write(*rig.device.kept[0].read<le32>()));
  rig.device.kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.driver().text(chain.at(1), 4), "ABCD");
  EXPECT_EQ(rig.driver().used_count(), 1U);
}

TEST_P(EitherDeviceQueue, ABufferThatIsAwayForAMomentWaitsInsteadOfBreakingTheQueue) {
  auto& rig = running();
  auto other = memory::HostMemory::anonymous(4096);
  ASSERT_TRUE(other);
  const memory::Mapping more{
      .range = {Iova{0x9000000}, 4096}, .access = Access::read_write, .memory = *other, .offset = 0, .port = {}};
  ASSERT_TRUE(rig.map.map(more));
  rig.map.unmap(more.range, [](const Status&) {});
  rig.settle();
  rig.driver().chain().writable_at(Iova{0x9000000}, 4).publish();
  rig.process();
  EXPECT_FALSE(rig.needs_reset());
  EXPECT_EQ(rig.device.requests, 0U);
  ASSERT_TRUE(rig.map.map(more));
  rig.settle();
  EXPECT_EQ(rig.device.requests, 1U);
  EXPECT_EQ(rig.driver().used_count(), 1U);
}

TEST_P(EitherDeviceQueue, ABufferThatStaysAwayBreaksTheQueueAfterAll) {
  auto& rig = running();
  auto other = memory::HostMemory::anonymous(4096);
  ASSERT_TRUE(other);
  const memory::Mapping more{
      .range = {Iova{0x9000000}, 4096}, .access = Access::read_write, .memory = *other, .offset = 0, .port = {}};
  ASSERT_TRUE(rig.map.map(more));
  rig.map.unmap(more.range, [](const Status&) {});
  rig.driver().chain().writable_at(Iova{0x9000000}, 4).publish();
  rig.process();
  rig.loop.advance(DeviceQueue::remap_grace - std::chrono::milliseconds(1));
  EXPECT_FALSE(rig.needs_reset());
  rig.loop.advance(std::chrono::milliseconds(2));
  EXPECT_TRUE(rig.needs_reset());
}

TEST_P(EitherDeviceQueue, AnUnmapWaitsForTheIoThatRunsOnItAndForNoOther) {
  auto& rig = running();
  auto other = memory::HostMemory::anonymous(4096);
  ASSERT_TRUE(other);
  const memory::Mapping more{
      .range = {Iova{0x9000000}, 4096}, .access = Access::read_write, .memory = *other, .offset = 0, .port = {}};
  ASSERT_TRUE(rig.map.map(more));
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().writable_at(Iova{0x9000100}, 16).publish();
  rig.driver().chain().writable(16).publish();
  rig.process();
  const auto pieces = rig.device.kept[0].writable_pieces(16);
  ASSERT_TRUE(pieces);
  std::byte* const at = static_cast<std::byte*>(pieces->front().iov_base);

  bool answered = false;
  rig.map.unmap(more.range, [&](const Status&) { answered = true; });
  rig.settle();
  EXPECT_FALSE(answered);
  other->reset();
  std::memset(at, 1, 16);  // the memory is there as long as the I/O
  rig.device.kept[0].pieces_written(16);
  rig.device.kept[0].complete();
  EXPECT_FALSE(answered) << "the device goes on in there, and an answer may destroy it";
  rig.settle();
  EXPECT_TRUE(answered);
  EXPECT_EQ(rig.driver().used_count(), 1U);

  // The other one's I/O is not on what goes away.
  ASSERT_TRUE(rig.device.kept[1].writable_pieces(16));
  auto again = memory::HostMemory::anonymous(4096);
  ASSERT_TRUE(
      rig.map.map({.range = more.range, .access = Access::read_write, .memory = *again, .offset = 0, .port = {}}));
  answered = false;
  rig.map.unmap(more.range, [&](const Status&) { answered = true; });
  EXPECT_TRUE(answered);
}

TEST_P(EitherDeviceQueue, ACoreThatIsDestroyedWhenAnUnmapIsLetGoTakesItsQueueWithIt) {
  for (const auto& [from_elsewhere, requests] : {std::pair{false, 1U}, {false, 2U}, {true, 1U}, {true, 2U}}) {
    auto& rig = running();
    const std::weak_ptr<memory::HostMemory> ring = rig.driver().host();
    rig.device.on_request = rig.device.keep();
    const Iova at{0x9000000};
    ASSERT_TRUE(rig.map.map({.range = {at, 4096},
                             .access = Access::read_write,
                             .memory = memory::HostMemory::anonymous(4096).value(),
                             .offset = 0,
                             .port = {}}));
    for (unsigned i = 0; i < requests; ++i) rig.driver().chain().writable_at(at, 4096).publish();
    rig.process();
    ASSERT_EQ(rig.device.kept.size(), requests);
    ASSERT_TRUE(rig.device.kept[0].writable_pieces(4096));
    rig.map.unmap({at, 4096}, [&](const Status&) { rig.core.reset(); });
    rig.settle();
    ASSERT_TRUE(rig.core) << "it is pinned";
    const auto answer = [&] {
      for (Request& request : rig.device.kept) request.complete();
    };
    if (from_elsewhere) {
      std::thread(answer).join();
    } else {
      answer();
    }
    rig.settle();
    EXPECT_FALSE(rig.core);
    rig_.reset();
    EXPECT_TRUE(ring.expired()) << "nothing of the queue is left: " << from_elsewhere << ", " << requests;
  }
}

TEST_P(EitherDeviceQueue, UnpinLetsAnUnmapGoOn) {
  auto& rig = running();
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().readable("data").publish();
  rig.process();
  ASSERT_TRUE(rig.device.kept[0].readable_pieces(4));
  bool answered = false;
  rig.map.unmap(rig.driver().mapping().range, [&](const Status&) { answered = true; });
  EXPECT_FALSE(answered);
  rig.device.kept[0].unpin();
  EXPECT_FALSE(answered) << "the device goes on in there, and an answer may destroy it";
  rig.settle();
  EXPECT_TRUE(answered);
}

// Files that shrink (the fault guard puts zeroed memory in their place).

TEST_P(EitherDeviceQueue, ARequestWhoseFileShrankBreaksThisDeviceOnly) {
  ASSERT_TRUE(memory::install_fault_guard());
  auto& rig = running();
  const UniqueFd fd = testing::make_memfd(8192);
  auto file = memory::HostMemory::map_file(fd, 0, 8192, Access::read_write);
  ASSERT_TRUE(file);
  ASSERT_TRUE(rig.map.map(
      {.range = {Iova{0x9000000}, 8192}, .access = Access::read_write, .memory = *file, .offset = 0, .port = {}}));
  int code = 0;
  rig.device.on_request = [&](Request request) {
    const auto read = request.read<le64>();
    if (!read) code = read.error().code();
    request.complete();
  };
  rig.driver().chain().readable_at(Iova{0x9001000}, 8).publish();
  ASSERT_EQ(::ftruncate(fd.get(), 4096), 0);
  rig.process();
  EXPECT_EQ(code, EFAULT);
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_EQ(rig.driver().used_count(), 0U);
}

TEST_P(EitherDeviceQueue, ARingWhoseFileShrankBreaksTheDevice) {
  ASSERT_TRUE(memory::install_fault_guard());
  auto& rig = make();
  const UniqueFd fd = testing::make_memfd(HandDriver::memory_size);
  auto file = memory::HostMemory::map_file(fd, 0, HandDriver::memory_size, Access::read_write);
  ASSERT_TRUE(file);
  rig.drivers[0] = std::make_unique<HandDriver>(HandDriver::Setup{.packed = packed(), .size = 16, .memory = *file});
  rig.run();
  rig.driver().chain().writable(1).publish();
  ASSERT_EQ(::ftruncate(fd.get(), 0), 0);
  rig.process();
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_EQ(rig.device.requests, 0U);
}

}  // namespace
}  // namespace outboard::virtio
