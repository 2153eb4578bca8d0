// The engine of a device's queue: memory that is reachable only by messages.

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/virtio/internal/device_queue_rig_test.hpp>
#include <tests/support/scarce_memory.hpp>

namespace outboard::virtio {
namespace {

class LatePort final : public memory::MemoryPort {
 public:
  std::vector<std::byte> bytes = std::vector<std::byte>(1 << 20);
  std::vector<std::function<void()>> waiting;
  bool late = true;
  int error = 0;
  std::uint64_t largest = 0;

  void read(Iova address, MutableBytes into, Completion done) override {
    largest = std::max<std::uint64_t>(largest, into.size());
    later([this, address, into, done = std::make_shared<Completion>(std::move(done))] {
      std::memcpy(into.data(), bytes.data() + (raw(address) - base), into.size());
      (*done)(error != 0 ? Status(Error(error)) : Status{});
    });
  }
  void write(Iova address, Bytes from, Completion done) override {
    largest = std::max<std::uint64_t>(largest, from.size());
    later([this, address, from, done = std::make_shared<Completion>(std::move(done))] {
      std::memcpy(bytes.data() + (raw(address) - base), from.data(), from.size());
      (*done)(error != 0 ? Status(Error(error)) : Status{});
    });
  }
  std::uint64_t max_transfer() const override { return 65536; }
  bool answer() {
    if (waiting.empty()) return false;
    const auto task = std::move(waiting.front());
    waiting.erase(waiting.begin());
    task();
    return true;
  }
  static constexpr std::uint64_t base = 0x50000000;

 private:
  void later(std::function<void()> task) {
    if (!late) return task();
    waiting.push_back(std::move(task));
  }
};

class Remote : public EitherDeviceQueue {
 protected:
  std::shared_ptr<LatePort> port = std::make_shared<LatePort>();
  DeviceRig& with_port() {
    auto& rig = running();
    EXPECT_TRUE(rig.map.map({.range = {Iova{LatePort::base}, port->bytes.size()},
                             .access = Access::read_write,
                             .memory = {},
                             .offset = 0,
                             .port = port}));
    return rig;
  }
  static Iova far(std::uint64_t offset) { return Iova{LatePort::base + offset}; }
};
INSTANTIATE_TEST_SUITE_P(Rings, Remote, ::testing::Bool(),
                         [](const auto& format) { return format.param ? "Packed" : "Split"; });

TEST_P(Remote, ABufferIsFetchedBeforeHandlingAndWrittenBackBeforeUse) {
  auto& rig = with_port();
  std::memcpy(port->bytes.data() + 100, "remote", 6);
  rig.driver().chain().readable_at(far(100), 6).readable("+near").writable_at(far(5000), 11).publish();
  rig.driver().chain().readable("behind").writable(6).publish();
  rig.process();
  EXPECT_EQ(rig.device.requests, 0U);  // and the one behind waits, so that the order is kept
  ASSERT_TRUE(port->answer());
  rig.settle();
  EXPECT_EQ(rig.device.requests, 2U);
  ASSERT_TRUE(port->answer());
  rig.settle();
  EXPECT_EQ(std::memcmp(port->bytes.data() + 5000, "remote+near", 11), 0);
  EXPECT_EQ(rig.driver().take_used().size(), 2U);
}

TEST_P(Remote, PiecesOfACopyAreOfTheCopy) {
  auto& rig = with_port();
  port->late = false;
  std::memset(port->bytes.data(), 'r', 200000);
  rig.device.on_request = [&](Request request) {
    const auto from = request.readable_pieces(200000);
    ASSERT_TRUE(from);
    ASSERT_EQ(from->size(), 1U);
    EXPECT_EQ(static_cast<const char*>(from->front().iov_base)[199999], 'r');
    const auto to = request.writable_pieces(100000);
    ASSERT_TRUE(to);
    std::memset(to->front().iov_base, 'w', 100000);
    request.pieces_written(100000);
    request.complete();
  };
  rig.driver().chain().readable_at(far(0), 200000).writable_at(far(400000), 100000).publish();
  rig.process();
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 100000}}));
  EXPECT_EQ(port->bytes[499999], std::byte{'w'});
  EXPECT_LE(port->largest, 65536U);
}

TEST_P(Remote, ABufferThatIsMappedInPartIsCopiedAsAWhole) {
  auto& rig = with_port();
  rig.device.on_request = [](Request request) {  // element by element
    for (const std::size_t size : {4U, 3U}) {
      std::array<std::byte, 4> bytes{};
      ASSERT_TRUE(request.read_bytes(std::span(bytes).first(size)));
      ASSERT_TRUE(request.write_bytes(std::span(bytes).first(size)));
    }
    request.complete();
  };
  auto chain = rig.driver().chain();
  chain.readable("near").readable_at(far(100), 3).writable(4).writable_at(far(5000), 3).publish();
  std::memcpy(port->bytes.data() + 100, "far", 3);
  rig.process();
  ASSERT_TRUE(port->answer());
  rig.settle();
  ASSERT_EQ(rig.device.requests, 1U);
  ASSERT_TRUE(port->answer());
  rig.settle();
  EXPECT_EQ(rig.driver().text(chain.at(2), 4), "near");
  EXPECT_EQ(std::memcmp(port->bytes.data() + 5000, "far", 3), 0);
  EXPECT_EQ(rig.driver().take_used(), (Used{{0, 7}}));
}

TEST_P(Remote, ABufferLargerThanWhatIsCopiedBreaksTheQueue) {
  auto& rig = with_port();
  rig.driver().chain().readable_at(far(0), 1 << 20).writable(1).publish();
  rig.process();
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_TRUE(port->waiting.empty());
}

TEST_P(Remote, ATransferThatFailsBreaksTheQueue) {
  auto& rig = with_port();
  port->error = EIO;
  rig.driver().chain().readable_at(far(0), 16).publish();
  rig.process();
  ASSERT_TRUE(port->answer());
  rig.settle();
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_EQ(rig.device.requests, 0U);
}

TEST_P(Remote, AnAnswerLetsNobodyPastABufferThatIsBeingFetched) {
  auto& rig = with_port();
  rig.device.on_request = rig.device.keep();
  rig.driver().chain().writable(4).publish();
  rig.driver().chain().readable_at(far(0), 16).writable(4).publish();
  rig.driver().chain().writable(8).publish();
  rig.process();
  ASSERT_EQ(rig.device.requests, 1U);
  rig.device.kept[0].complete();
  rig.process();
  EXPECT_EQ(rig.device.requests, 1U);
  // Nor does a map that changes meanwhile.
  auto more = memory::HostMemory::anonymous(4096);
  ASSERT_TRUE(rig.map.map(
      {.range = {Iova{0x9000000}, 4096}, .access = Access::read_write, .memory = *more, .offset = 0, .port = {}}));
  rig.process();
  EXPECT_EQ(rig.device.requests, 1U);
  while (port->answer()) rig.settle();
  ASSERT_EQ(rig.device.requests, 3U);
  EXPECT_EQ(rig.device.kept[1].writable_size(), 4U);
  EXPECT_EQ(rig.device.kept[2].writable_size(), 8U);
}

TEST_P(Remote, ABufferThatWaitsForRoomIsTakenWhenTheLastOneIsWrittenBack) {
  auto& rig = with_port();
  rig.device.on_request = rig.device.keep();
  constexpr auto fit = DeviceQueue::max_queue_bounce / DeviceQueue::max_bounce;
  for (unsigned i = 0; i <= fit; ++i) rig.driver().chain().writable_at(far(0), DeviceQueue::max_bounce).publish();
  rig.process();
  ASSERT_EQ(rig.device.requests, fit);
  for (Request& request : rig.device.kept) {
    ASSERT_TRUE(request.write(std::uint8_t{1}));
    request.complete();
  }
  rig.settle();
  EXPECT_EQ(rig.device.requests, fit);
  while (port->answer()) rig.settle();  // nobody kicks
  EXPECT_EQ(rig.driver().used_count(), fit);
  EXPECT_EQ(rig.device.requests, fit + 1);
}

TEST_P(Remote, ABufferThatThereIsNoMemoryForBreaksTheDeviceOnly) {
  if (!testing::NoMemoryFor::is_possible()) GTEST_SKIP() << "a sanitizer ends the process instead";
  auto& rig = with_port();
  rig.driver().chain().readable_at(far(0), DeviceQueue::max_bounce).writable(4).publish();
  {
    const testing::NoMemoryFor large(DeviceQueue::max_bounce);
    rig.process();
  }
  EXPECT_EQ(rig.device.requests, 0U);
  EXPECT_TRUE(rig.needs_reset());
}

TEST_P(Remote, AStopWaitsForTransfers) {
  auto& rig = with_port();
  rig.driver().chain().readable_at(far(0), 16).publish();
  rig.process();
  std::optional<QueueState> state;
  rig.core->stop_queue(0, StopMode::drain, into(state));
  rig.settle();
  EXPECT_FALSE(state);
  ASSERT_TRUE(port->answer());
  EXPECT_FALSE(state) << "the port goes on in there, and whoever waits may destroy it";
  rig.settle();
  ASSERT_TRUE(state);
  EXPECT_EQ(state->in_flight.size(), 1U);
  EXPECT_EQ(rig.device.requests, 0U);
  ASSERT_TRUE(rig.core->start_queue(0, *state));
  rig.settle();
  port->late = false;
  while (port->answer()) rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 1U);
}

TEST_P(Remote, TransfersThatEndAfterTheDeviceIsGoneDoNothing) {
  auto& rig = with_port();
  rig.driver().chain().readable_at(far(0), 16).publish();
  rig.process();
  rig.core.reset();
  while (port->answer()) rig.settle();
  EXPECT_EQ(rig.device.requests, 0U);
}

}  // namespace
}  // namespace outboard::virtio
