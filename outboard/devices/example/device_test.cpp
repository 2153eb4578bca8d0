// The device against drivers that are right and wrong, with buffers as they lie in memory, on either ring. The statements
// that the tests name are those of specification.md; "Review" is a point of the review of 2019 (docs/spec-map.md).

#include <outboard/devices/example/device.hpp>

#include <array>
#include <atomic>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <optional>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/testing/loopback_transport.hpp>
#include <outboard/virtio/driver_queue.hpp>
#include <outboard/virtio/spec.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::example {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using testing::LoopbackTransport;
using testing::ManualLoop;
using ByteVector = std::vector<std::byte>;

constexpr std::byte untouched{0xee};
constexpr std::uint32_t max_value = 0xffffffff;

ByteVector bytes_of(std::initializer_list<unsigned> values) {
  ByteVector bytes;
  for (const unsigned value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

/// As a driver has to store a number, whatever the byte order of its machine.
ByteVector little_endian(std::uint64_t value, std::size_t size) {
  ByteVector bytes;
  for (std::size_t i = 0; i < size; ++i) bytes.push_back(static_cast<std::byte>(value >> 8 * i));
  return bytes;
}
ByteVector number(std::uint32_t value) { return little_endian(value, 4); }

std::uint64_t from_little_endian(Bytes bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) value |= std::to_integer<std::uint64_t>(bytes[i]) << 8 * i;
  return value;
}

ByteVector operator+(ByteVector a, const ByteVector& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// The device, and the driver's end of its queues.
class Rig {
 public:
  struct Setup {
    bool packed = false;
    bool accept_limit = true;
    bool own_loops = false;  ///< each queue has a loop of its own
    bool eventq = true;  ///< enabled where LIMIT is accepted
    bool force_eventq = false;  ///< ... and where it is not
    virtio::Features without{};
    Device::Options device{};
  };

  explicit Rig(const Setup& setup) : setup_(setup) {
    device = Device::create(setup.device).value();
    LoopbackTransport::Options options{.packed = setup.packed};
    if (setup.own_loops) options.queue_loops = {&loops[0], &loops[1]};
    transport.emplace(*device, loop, options);
    EXPECT_EQ(transport->enable_vectors(1).value(), 1u);
    arena = transport->dma().allocate(1 << 20).value();
  }
  ~Rig() { static_cast<void>(transport->reset()); }  // before the memory of the queues goes

  /// 5.x.5, as the driver of this test does it.
  void start() {
    queues.clear();
    std::memset(arena.data(), std::to_integer<int>(untouched), arena.size());
    virtio::Features features = transport->core().offered() - setup_.without;
    if (!setup_.accept_limit) features.clear(feature::limit);
    const auto agreed = virtio::negotiate(*transport, features);
    ASSERT_TRUE(agreed) << agreed.error().message();
    ASSERT_TRUE(transport->set_config_vector(0));
    const bool limited = agreed->has(feature::limit);
    for (unsigned i = 0; i < 1 + unsigned{(limited && setup_.eventq) || setup_.force_eventq}; ++i) {
      queues.push_back(virtio::DriverQueue::create(*transport, i, *agreed, {}).value());
      queues.back().enable_interrupts();
    }
    ASSERT_TRUE(virtio::start_device(*transport));
    transport->vector(0).drain();
  }

  void pump() { transport->pump(); }
  bool needs_reset() { return (transport->core().status() & virtio::spec::status::needs_reset) != 0; }
  /// Configuration change notifications since the last call.
  std::uint64_t notifications() { return transport->vector(0).drain(); }
  ByteVector config(std::uint32_t offset, std::size_t size) {
    ByteVector bytes(size);
    EXPECT_TRUE(transport->read_config(offset, bytes));
    return bytes;
  }
  std::uint64_t epoch() { return from_little_endian(config(8, 8)); }

  virtio::Element place(std::size_t size) {
    // One byte more: between any two elements lies one that nobody may write to.
    if (at_ + size + 1 > arena.size()) at_ = 0;
    std::memset(arena.data() + at_, std::to_integer<int>(untouched), size + 1);
    const virtio::Element element{arena.iova() + at_, static_cast<std::uint32_t>(size)};
    at_ += size + 1;
    return element;
  }
  std::byte* host(const virtio::Element& element) {
    return arena.data() + (memory::raw(element.address) - memory::raw(arena.iova()));
  }
  /// Starts the next element on an address of its own alignment.
  void align(std::size_t to) { at_ = (at_ + to - 1) / to * to; }

  ManualLoop loop;
  std::array<ManualLoop, 2> loops;
  std::unique_ptr<Device> device;
  std::optional<LoopbackTransport> transport;
  std::vector<virtio::DriverQueue> queues;
  memory::DmaBuffer arena;

 private:
  Setup setup_;
  std::size_t at_ = 0;
};

/// A buffer, element by element; what the device makes of it.
class Buffer {
 public:
  explicit Buffer(Rig& rig, unsigned queue = request_queue) : rig_(rig), queue_(queue) {}

  Buffer& readable(const ByteVector& bytes) {
    const auto element = rig_.place(bytes.size());
    std::ranges::copy(bytes, rig_.host(element));
    readable_.push_back(element);
    return *this;
  }
  Buffer& writable(std::size_t size) {
    writable_.push_back(rig_.place(size));
    return *this;
  }
  Buffer& add() {
    EXPECT_TRUE(rig_.queues.at(queue_).add(readable_, writable_, this));
    return *this;
  }
  /// Adds it, and lets the device do what it does.
  Buffer& send() {
    add();
    rig_.queues.at(queue_).publish();
    rig_.pump();
    return *this;
  }
  /// What the device has written, or not.
  ByteVector written() const {
    ByteVector bytes;
    for (const auto& element : writable_)
      bytes.insert(bytes.end(), rig_.host(element), rig_.host(element) + element.length);
    return bytes;
  }
  bool guards_are_untouched() const {
    const auto guard = [this](const virtio::Element& element) { return rig_.host(element)[element.length]; };
    return std::ranges::all_of(readable_, [&](const auto& each) { return guard(each) == untouched; }) &&
           std::ranges::all_of(writable_, [&](const auto& each) { return guard(each) == untouched; });
  }
  std::byte* readable_bytes() { return rig_.host(readable_.front()); }

 private:
  Rig& rig_;
  unsigned queue_;
  std::vector<virtio::Element> readable_, writable_;
};

/// The next used buffer of a queue: which, and how long; nullptr: none.
struct Used {
  const Buffer* buffer = nullptr;
  std::uint32_t length = 0;
};
Used next_used(Rig& rig, unsigned queue = request_queue) {
  const auto used = rig.queues.at(queue).next_used();
  EXPECT_TRUE(used) << "the device has broken the ring";
  if (!used || !*used) return {};
  return {static_cast<const Buffer*>((*used)->cookie), (*used)->length};
}
void expect_unused(Rig& rig, unsigned queue = request_queue) { EXPECT_EQ(next_used(rig, queue).buffer, nullptr); }

/// What a plain request gets: what was written, and the used length, which must cover it.
ByteVector ask(Rig& rig, std::uint32_t value, std::size_t room = 8) {
  Buffer request(rig);
  request.readable(number(value)).writable(room).send();
  const Used used = next_used(rig);
  EXPECT_EQ(used.buffer, &request);
  EXPECT_TRUE(request.guards_are_untouched());
  ByteVector bytes = request.written();
  EXPECT_LE(used.length, bytes.size());
  EXPECT_THAT(ByteVector(bytes.begin() + used.length, bytes.end()), Each(untouched));
  bytes.resize(used.length);
  return bytes;
}

const ByteVector ok = bytes_of({0, 0, 0, 0}), range = bytes_of({1, 0, 0, 0});  // status and reserved
ByteVector accepted(std::uint32_t value) { return number(value + 1) + ok; }
ByteVector refused(std::uint32_t value) { return number(value) + range; }
ByteVector event(std::uint32_t missed, std::uint32_t value) {
  return number(1) + number(missed) + number(value) + number(0);
}

class ExampleDevice : public ::testing::TestWithParam<bool> {
 protected:
  /// Without LIMIT.
  Rig& plain() { return make({.packed = GetParam()}); }
  Rig& limited(std::uint32_t limit = 100) { return make({.packed = GetParam(), .device = {.limit = limit}}); }
  Rig& make(Rig::Setup setup) {
    setup.packed = GetParam();
    rig_.emplace(setup);
    rig_->start();
    return *rig_;
  }

 private:
  std::optional<Rig> rig_;
};
INSTANTIATE_TEST_SUITE_P(, ExampleDevice, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

// --- Requests ----------------------------------------------------------------------------------------------------------

TEST_P(ExampleDevice, D_EX_1_TheResultIsTheValuePlusOneModulo2To32) {
  Rig& rig = plain();
  for (const std::uint32_t value : {0U, 1U, 41U, 0x7fffffffU, 0x80000000U, max_value - 1, max_value})
    EXPECT_EQ(ask(rig, value), number(value + 1)) << value;
  EXPECT_EQ(ask(rig, max_value), bytes_of({0, 0, 0, 0}));
}

TEST_P(ExampleDevice, D_EX_1_WithLimitTheStatusIsOk) {
  Rig& rig = limited(max_value);
  for (const std::uint32_t value : {0U, 41U, max_value}) EXPECT_EQ(ask(rig, value), accepted(value)) << value;
}

TEST_P(ExampleDevice, D_EX_1_Review_NumbersAreLittleEndianForBigEndianDriversToo) {
  Rig& rig = limited(0x04030201);
  const auto bytes = [&](std::initializer_list<unsigned> value) {
    Buffer request(rig);
    request.readable(bytes_of(value)).writable(8).send();
    EXPECT_EQ(next_used(rig).length, 8u);
    return request.written();
  };
  EXPECT_EQ(bytes({0x00, 0x02, 0x03, 0x04}), bytes_of({0x01, 0x02, 0x03, 0x04, 0, 0, 0, 0}));
  EXPECT_EQ(bytes({0xff, 0x00, 0x00, 0x00}), bytes_of({0x00, 0x01, 0x00, 0x00, 0, 0, 0, 0}));
  Buffer told(rig, event_queue);
  told.writable(16).send();
  EXPECT_EQ(bytes({0x02, 0x02, 0x03, 0x04}), bytes_of({0x02, 0x02, 0x03, 0x04, 1, 0, 0, 0})) << "just above";
  EXPECT_EQ(told.written(), bytes_of({1, 0, 0, 0, 0, 0, 0, 0, 2, 2, 3, 4, 0, 0, 0, 0}));
  EXPECT_EQ(rig.config(0, 4), bytes_of({0x01, 0x02, 0x03, 0x04}));
  ASSERT_TRUE(rig.device->set_limit(7));
  EXPECT_EQ(rig.config(0, 16), bytes_of({7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}));
}

TEST_P(ExampleDevice, D_EX_2_Review_TheUsedLengthIsFourBytesAndNotOne) {
  Rig& rig = plain();
  Buffer request(rig);
  request.readable(number(41)).writable(4).send();
  EXPECT_EQ(next_used(rig).length, 4u);
}

TEST_P(ExampleDevice, D_EX_2_WithLimitTheUsedLengthIsEightWhateverTheAnswer) {
  Rig& rig = limited();
  for (const std::uint32_t value : {0U, 100U, 101U, max_value}) {
    Buffer request(rig);
    request.readable(number(value)).writable(64).send();
    EXPECT_EQ(next_used(rig).length, 8u) << value;
  }
}

TEST_P(ExampleDevice, D_EX_3_AValueThatChangesMeanwhileIsReadOnce) {
  // Between a number that is accepted and one that is refused: a device that looked twice would mix the two.
  constexpr std::uint32_t low = 0x11111111, high = 0xeeeeeeee;
  Rig& rig = limited(0x7fffffff);
  rig.align(4);
  Buffer request(rig);
  request.readable(number(low)).writable(8);
  std::atomic<bool> ended{false};
  std::thread writer([&, value = reinterpret_cast<std::uint32_t*>(request.readable_bytes())] {
    const std::atomic_ref shared(*value);
    while (!ended) {
      shared.store(le32(high).stored(), std::memory_order_relaxed);
      shared.store(le32(low).stored(), std::memory_order_relaxed);
    }
  });
  for (int i = 0; i < 20000; ++i) {
    Buffer told(rig, event_queue);
    told.writable(16).send();
    request.send();
    ASSERT_EQ(next_used(rig).buffer, &request);
    const ByteVector reply = request.written();
    if (reply == accepted(low)) {
      ASSERT_TRUE(rig.device->set_limit(0)) << "so that the buffer for an event is used as well";
      ask(rig, max_value);
      ASSERT_TRUE(rig.device->set_limit(0x7fffffff));
    } else {
      ASSERT_EQ(reply, refused(high));
    }
    ASSERT_EQ(next_used(rig, event_queue).buffer, &told);
    ASSERT_EQ(told.written(), event(0, reply == refused(high) ? high : max_value));
  }
  ended = true;
  writer.join();
}

TEST_P(ExampleDevice, D_EX_4_SurplusReadableBytesAreIgnoredAndWritableOnesKept) {
  for (const bool with_limit : {false, true}) {
    Rig& rig = with_limit ? limited() : plain();
    Buffer request(rig);
    request.readable(number(41) + ByteVector(1000, std::byte{0xff}))
        .readable(number(7))
        .writable(100)
        .writable(1)
        .send();
    const Used used = next_used(rig);
    const std::size_t size = with_limit ? 8 : 4;
    EXPECT_EQ(used.length, size);
    const ByteVector written = request.written();
    EXPECT_EQ(ByteVector(written.begin(), written.begin() + size), with_limit ? accepted(41) : number(42));
    EXPECT_THAT(ByteVector(written.begin() + size, written.end()), Each(untouched));
    EXPECT_TRUE(request.guards_are_untouched());
  }
}

TEST_P(ExampleDevice, D_EX_5_Review_OneByteForEachElementIsTheSameRequest) {
  // In the ring itself, and through an indirect table.
  for (const bool indirect : {false, true}) {
    virtio::Features without;
    if (!indirect) without.set(virtio::Feature::indirect_desc);
    Rig& rig = make({.without = without, .device = {.limit = 0x04030200}});
    Buffer request(rig), told(rig, event_queue);
    for (int i = 0; i < 16; ++i) told.writable(1);
    told.send();
    for (const std::byte byte : number(0x04030201)) request.readable({byte});
    for (int i = 0; i < 8; ++i) request.writable(1);
    request.send();
    EXPECT_EQ(next_used(rig).length, 8u);
    EXPECT_EQ(request.written(), refused(0x04030201));
    EXPECT_EQ(next_used(rig, event_queue).length, 16u);
    EXPECT_EQ(told.written(), event(0, 0x04030201));
    EXPECT_TRUE(request.guards_are_untouched() && told.guards_are_untouched());
  }
}

TEST_P(ExampleDevice, D_EX_5_EveryDivisionIntoTwoElementsIsTheSameRequest) {
  Rig& rig = limited(max_value);
  const ByteVector value = number(0x12345678);
  for (std::ptrdiff_t first = 1; first < 4; ++first) {
    for (std::size_t room = 1; room < 8; ++room) {
      Buffer request(rig);
      request.readable({value.begin(), value.begin() + first}).readable({value.begin() + first, value.end()});
      request.writable(room).writable(8 - room).send();
      EXPECT_EQ(next_used(rig).length, 8u);
      EXPECT_EQ(request.written(), accepted(0x12345678)) << first << " " << room;
      EXPECT_TRUE(request.guards_are_untouched());
    }
  }
}

/// A buffer that D-EX-6 forbids, and what must become of it: nothing.
void expect_breaks(Rig& rig, Buffer& request) {
  request.send();
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_EQ(rig.notifications(), 1u);
  expect_unused(rig);
  EXPECT_THAT(request.written(), Each(untouched));
  EXPECT_TRUE(request.guards_are_untouched());
  EXPECT_EQ(rig.transport->interrupts(request_queue), 0u);
}

TEST_P(ExampleDevice, D_EX_6_Review_ABufferWithoutReadableElementsBreaksTheDevice) {
  for (const bool with_limit : {false, true}) {
    Rig& rig = with_limit ? limited() : plain();
    expect_breaks(rig, Buffer(rig).writable(64));
  }
}

TEST_P(ExampleDevice, D_EX_6_Review_AShortReadableElementBreaksTheDevice) {
  for (std::size_t size = 1; size < 4; ++size) {
    SCOPED_TRACE(size);
    for (const bool with_limit : {false, true}) {
      Rig& rig = with_limit ? limited() : plain();
      expect_breaks(rig, Buffer(rig).readable(ByteVector(size)).writable(8));
    }
  }
}

TEST_P(ExampleDevice, D_EX_6_Review_ABufferWithoutAWritableElementBreaksTheDevice) {
  for (const bool with_limit : {false, true}) {
    Rig& rig = with_limit ? limited() : plain();
    expect_breaks(rig, Buffer(rig).readable(number(41)));
  }
}

TEST_P(ExampleDevice, D_EX_6_Review_AShortWritableElementBreaksTheDevice) {
  for (std::size_t room = 1; room < 8; ++room) {
    SCOPED_TRACE(room);
    if (room < 4) {
      Rig& rig = plain();
      expect_breaks(rig, Buffer(rig).readable(number(41)).writable(room));
    }
    Rig& rig = limited();
    expect_breaks(rig, Buffer(rig).readable(number(41)).writable(room));
  }
}

TEST_P(ExampleDevice, D_EX_6_AShortBufferIsNoRefusalWhateverItsNumber) {
  Rig& rig = limited();
  Buffer told(rig, event_queue);
  told.writable(16).send();
  expect_breaks(rig, Buffer(rig).readable(number(101)).writable(4));
  expect_unused(rig, event_queue);
}

TEST_P(ExampleDevice, D_EX_6_Review_ABrokenDeviceTakesNothingUntilItIsReset) {
  Rig& rig = limited();
  expect_breaks(rig, Buffer(rig).readable(bytes_of({1, 2, 3})).writable(8));
  for (int i = 0; i < 3; ++i) {
    Buffer request(rig);
    request.readable(number(41)).writable(8).send();
    expect_unused(rig);
    EXPECT_THAT(request.written(), Each(untouched));
  }
  rig.transport->core().write_status(0xbf);  // every bit but NEEDS_RESET, which is not the driver's to clear
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_EQ(rig.notifications(), 0u) << "it is said once";

  ASSERT_TRUE(rig.transport->reset());
  EXPECT_FALSE(rig.needs_reset());
  rig.start();
  expect_unused(rig);
  EXPECT_EQ(ask(rig, 41), accepted(41));
  EXPECT_EQ(ask(rig, 101), refused(101));
}

TEST_P(ExampleDevice, D_EX_6_OnlyBuffersBeforeTheBadOneAreAnswered) {
  Rig& rig = plain();
  Buffer before(rig), bad(rig), after(rig);
  before.readable(number(1)).writable(4).add();
  bad.readable(number(2)).writable(3).add();
  after.readable(number(3)).writable(4).add();
  rig.queues[0].publish();
  rig.pump();
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_THAT(bad.written(), Each(untouched));
  EXPECT_THAT(after.written(), Each(untouched));
  // 2.1.2 leaves it open whether the driver gets to see the first.
  if (const Used used = next_used(rig); used.buffer != nullptr) {
    EXPECT_EQ(used.buffer, &before);
    EXPECT_EQ(before.written(), number(2));
  }
  expect_unused(rig);
}

TEST_P(ExampleDevice, D_EX_7_ANumberAboveTheLimitIsRefusedAndTheNextOneServed) {
  Rig& rig = limited();
  EXPECT_EQ(ask(rig, 100), accepted(100)) << "the limit itself is accepted";
  EXPECT_EQ(ask(rig, 101), refused(101));
  EXPECT_EQ(ask(rig, max_value), refused(max_value));
  EXPECT_FALSE(rig.needs_reset());
  EXPECT_EQ(rig.notifications(), 0u);
  EXPECT_EQ(ask(rig, 41), accepted(41));
}

TEST_P(ExampleDevice, D_EX_9_TheLimitThatDecidesIsTheOneWhenTheRequestIsRead) {
  Rig& rig = limited();
  Buffer early(rig);
  early.readable(number(50)).writable(8).add();
  rig.queues[0].publish();  // the device has not looked yet
  ASSERT_TRUE(rig.device->set_limit(10));
  rig.pump();
  EXPECT_EQ(next_used(rig).buffer, &early);
  EXPECT_EQ(early.written(), refused(50));
}

TEST_P(ExampleDevice, D_EX_9_AChangedLimitHoldsOnceTheDriverHasReadIt) {
  Rig& rig = limited(0);
  for (std::uint32_t limit = 1; limit < 100; ++limit) {
    ASSERT_TRUE(rig.device->set_limit(limit));
    ASSERT_EQ(rig.config(0, 4), number(limit));
    EXPECT_EQ(ask(rig, limit), accepted(limit));
    EXPECT_EQ(ask(rig, limit + 1), refused(limit + 1));
  }
  ASSERT_TRUE(rig.device->set_limit(0));
  EXPECT_EQ(ask(rig, 1), refused(1));
}

TEST_P(ExampleDevice, D_EX_18_ReservedBytesAreZeroAndNothingButTheReplyIsWritten) {
  Rig& rig = limited();
  for (const std::uint32_t value : {41U, 101U}) {
    Buffer request(rig);
    request.readable(number(value)).writable(4096).send();
    EXPECT_EQ(next_used(rig).length, 8u);
    const ByteVector written = request.written();
    EXPECT_THAT(ByteVector(written.begin() + 5, written.begin() + 8), Each(std::byte{0}));
    EXPECT_THAT(ByteVector(written.begin() + 8, written.end()), Each(untouched));
  }
}

TEST_P(ExampleDevice, Review_AKickWithNoBufferAvailableDoesNothing) {
  Rig& rig = limited();
  for (int i = 0; i < 100; ++i) {
    rig.transport->core().kick(request_queue);
    rig.transport->core().kick(event_queue);
    rig.pump();
  }
  EXPECT_FALSE(rig.needs_reset());
  expect_unused(rig);
  EXPECT_EQ(rig.transport->interrupts(request_queue), 0u);
  EXPECT_EQ(ask(rig, 41), accepted(41));
}

TEST_P(ExampleDevice, Review_OneKickStandsForManyBuffersWhichAreUsedInOrder) {
  Rig& rig = limited();
  std::vector<Buffer> requests(20, Buffer(rig));
  for (std::uint32_t i = 0; i < requests.size(); ++i) requests[i].readable(number(90 + i)).writable(8).add();
  EXPECT_TRUE(rig.queues[0].publish());
  rig.pump();
  for (std::uint32_t i = 0; i < requests.size(); ++i) {
    const Used used = next_used(rig);
    EXPECT_EQ(used.buffer, &requests[i]);
    EXPECT_EQ(used.length, 8u);
    EXPECT_EQ(requests[i].written(), i <= 10 ? accepted(90 + i) : refused(90 + i));
  }
  expect_unused(rig);
}

// --- Virtqueues and features -------------------------------------------------------------------------------------------

TEST(ExampleDeviceOptions, D_EX_14_QueuesHaveAtLeastFourEntries) {
  for (const std::uint16_t size : {4, 64, 32768}) {
    const auto device = Device::create({.queue_size = size, .limit = 1});
    ASSERT_TRUE(device);
    EXPECT_THAT((*device)->identity().queue_sizes, ElementsAre(size, size));
  }
  for (const std::uint16_t size : {0, 1, 2, 3, 6, 65535}) {
    const auto device = Device::create({.queue_size = size});
    ASSERT_FALSE(device) << size;
    EXPECT_EQ(device.error().code(), EINVAL);
  }
}

TEST(ExampleDeviceOptions, D_EX_14_Review_TheSmallestQueueHoldsADirectRequest) {
  for (const bool packed : {false, true}) {
    Rig rig({.packed = packed, .without = {virtio::Feature::indirect_desc}, .device = {.queue_size = 4}});
    rig.start();
    Buffer one(rig), two(rig);
    one.readable(number(1)).writable(4).add();
    two.readable(number(2)).writable(4).send();
    EXPECT_EQ(next_used(rig).buffer, &one);
    EXPECT_EQ(next_used(rig).buffer, &two);
    EXPECT_EQ(two.written(), number(3));
  }
}

TEST(ExampleDeviceOptions, Review_TheDeviceIdIsOneThatPciCanExpressAndNobodyHas) {
  EXPECT_EQ(Device::create({}).value()->identity().device_id, 63u);
  static_assert(device_id > 49 && device_id <= 0x107f - 0x1040);
}

TEST(ExampleDeviceOptions, WithoutLimitThereIsNoEventQueueAndNoConfiguration) {
  const auto identity = Device::create({}).value()->identity();
  EXPECT_FALSE(identity.features.has(feature::limit));
  EXPECT_THAT(identity.queue_sizes, ElementsAre(64));
  EXPECT_EQ(identity.config_size, 0u);
}

TEST_P(ExampleDevice, D_EX_15_WithoutLimitAnEventBufferBreaksTheDevice) {
  Rig& rig = make({.accept_limit = false, .force_eventq = true, .device = {.limit = 0}});
  Buffer told(rig, event_queue);
  told.writable(16).send();
  EXPECT_TRUE(rig.needs_reset());
  expect_unused(rig, event_queue);
  EXPECT_THAT(told.written(), Each(untouched));
}

TEST_P(ExampleDevice, D_EX_16_ADriverWithoutLimitIsServedAsIfThereWereNone) {
  Rig& rig = make({.accept_limit = false, .device = {.limit = 10}});
  for (const std::uint32_t value : {0U, 10U, 11U, max_value}) {
    Buffer request(rig);
    request.readable(number(value)).writable(4).send();
    EXPECT_EQ(next_used(rig).length, 4u);
    EXPECT_EQ(request.written(), number(value + 1));
  }
  EXPECT_EQ(ask(rig, 11, 64), number(12)) << "and nothing behind the four bytes";
  ASSERT_TRUE(rig.device->set_limit(5));
  EXPECT_EQ(ask(rig, 6, 4), number(7));
  EXPECT_FALSE(rig.needs_reset());
}

TEST_P(ExampleDevice, D_EX_16_WhatOneDriverHasAcceptedIsNotKeptForTheNext) {
  Rig& rig = limited(10);
  EXPECT_EQ(ask(rig, 11), refused(11));
  ASSERT_TRUE(rig.transport->reset());
  rig.queues.clear();
  const auto agreed = virtio::negotiate(*rig.transport, {virtio::Feature::ring_packed});
  ASSERT_TRUE(agreed);
  rig.queues.push_back(virtio::DriverQueue::create(*rig.transport, 0, *agreed, {}).value());
  ASSERT_TRUE(virtio::start_device(*rig.transport));
  EXPECT_EQ(ask(rig, 11, 4), number(12));
}

// --- Configuration -----------------------------------------------------------------------------------------------------

TEST_P(ExampleDevice, D_EX_8_LimitAndEpochChangeTogetherAndTheDriverIsNotified) {
  Rig& rig = limited();
  EXPECT_EQ(rig.config(0, 16), number(100) + number(0) + little_endian(0, 8));
  for (std::uint32_t i = 1; i < 300; ++i) {
    const auto before = rig.transport->core().config_generation();
    ASSERT_TRUE(rig.device->set_limit(1000 + i));
    EXPECT_EQ(rig.notifications(), 1u);
    EXPECT_EQ(rig.config(0, 16), number(1000 + i) + number(0) + little_endian(i, 8));
    EXPECT_NE(rig.transport->core().config_generation(), before);
  }
}

TEST_P(ExampleDevice, D_EX_8_TheSameLimitAgainIsNoChange) {
  Rig& rig = limited();
  ASSERT_TRUE(rig.device->set_limit(100));
  EXPECT_EQ(rig.epoch(), 0u);
  EXPECT_EQ(rig.notifications(), 0u);
}

/// 2.5.3 for a transport that reads four bytes at a time; `meanwhile` happens before each of the reads.
ByteVector read_by_the_generation_rule(Rig& rig, const std::function<void()>& meanwhile) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    const auto before = rig.transport->core().config_generation();
    ByteVector all;
    for (std::uint32_t offset = 0; offset < 16; offset += 4) {
      meanwhile();
      all = all + rig.config(offset, 4);
    }
    if (rig.transport->core().config_generation() == before) return all;
  }
  ADD_FAILURE() << "the generation never rests";
  return {};
}

/// The configuration that belongs to an epoch, where set_limit() has always been given the epoch to come.
ByteVector config_of(std::uint64_t epoch) {
  return number(static_cast<std::uint32_t>(epoch)) + number(0) + little_endian(epoch, 8);
}

TEST_P(ExampleDevice, D_EX_8_EpochAndLimitReadInPartsAreNeverTorn) {
  // The epoch is about to leave the lower half, where a torn value would be off by 2^32.
  const spec::State state{.version = 1, .limit = max_value - 5, .epoch = max_value - 5, .missed = 0, .reserved = 0};
  Rig& rig = make({.device = {.limit = 0}});
  ASSERT_TRUE(rig.device->restore_state(as_bytes_of(state)));
  std::uint64_t epoch = max_value - 5;
  const auto change = [&] {
    ++epoch;
    ASSERT_TRUE(rig.device->set_limit(static_cast<std::uint32_t>(epoch)));
  };
  for (unsigned which = 0; which < 64; ++which) {
    // Six reads to a round; changes fall before some of them, in every pattern.
    unsigned reads = 0;
    const ByteVector all = read_by_the_generation_rule(rig, [&] {
      if (reads < 6 && (which >> reads & 1) != 0) change();
      ++reads;
    });
    EXPECT_EQ(all, config_of(epoch)) << which;
  }
  EXPECT_GT(epoch, std::uint64_t{max_value} + 100);
}

TEST_P(ExampleDevice, D_EX_8_WithoutTheRuleAReaderWouldSeeAValueThatNeverWas) {
  const spec::State state{.version = 1, .limit = max_value, .epoch = max_value, .missed = 0, .reserved = 0};
  Rig& rig = make({.device = {.limit = 0}});
  ASSERT_TRUE(rig.device->restore_state(as_bytes_of(state)));
  const ByteVector low = rig.config(8, 4);
  ASSERT_TRUE(rig.device->set_limit(1));
  EXPECT_EQ(from_little_endian(low + rig.config(12, 4)), 0x1'ffffffff);
}

TEST_P(ExampleDevice, D_EX_8_BeforeDriverOkNobodyIsNotifiedButTheChangeIsThere) {
  Rig rig({.packed = GetParam(), .device = {.limit = 5}});
  ASSERT_TRUE(rig.transport->set_config_vector(0));
  ASSERT_TRUE(rig.device->set_limit(6));
  EXPECT_EQ(rig.notifications(), 0u);
  rig.start();
  EXPECT_EQ(rig.config(0, 16), number(6) + number(0) + little_endian(1, 8));
}

TEST_P(ExampleDevice, D_EX_8_TheLimitInAFileIsReadAgainOnDemand) {
  testing::TempDir dir;
  const auto write = [&](std::string_view text) { std::ofstream(dir.path("limit")) << text; };
  write("7\n");
  Rig& rig = make({.device = {.limit_file = dir.path("limit")}});
  EXPECT_EQ(ask(rig, 8), refused(8));
  write("8");
  ASSERT_TRUE(rig.device->reload());
  EXPECT_EQ(rig.notifications(), 1u);
  EXPECT_EQ(ask(rig, 8), accepted(8));
  for (const auto* const text : {"", "eight", "-1", "4294967296", "8x"}) {
    write(text);
    EXPECT_EQ(rig.device->reload().error().code(), EINVAL) << text;
  }
  EXPECT_EQ(rig.epoch(), 1u);
}

TEST(ExampleDeviceOptions, AnUnreadableLimitFileTwoLimitsOrNoneToChangeAreErrors) {
  EXPECT_EQ(Device::create({.limit_file = "/nonexistent/limit"}).error().code(), ENOENT);
  EXPECT_EQ(Device::create({.limit = 1, .limit_file = "/dev/null"}).error().code(), EINVAL);
  const auto device = Device::create({}).value();
  EXPECT_EQ(device->set_limit(1).error().code(), ENOTSUP);
  EXPECT_TRUE(device->reload());
}

TEST_P(ExampleDevice, D_EX_17_WritesToTheConfigurationAreIgnoredAndReservedIsZero) {
  Rig& rig = limited();
  const ByteVector ones(16, std::byte{0xff});
  ASSERT_TRUE(rig.transport->write_config(0, ones));
  for (std::uint32_t offset = 0; offset < 16; ++offset)
    ASSERT_TRUE(rig.transport->write_config(offset, Bytes(ones).first(1)));
  rig.pump();
  EXPECT_EQ(rig.config(0, 16), number(100) + number(0) + little_endian(0, 8));
  EXPECT_FALSE(rig.needs_reset());
  EXPECT_EQ(ask(rig, 101), refused(101));
}

TEST_P(ExampleDevice, D_EX_17_ConfigurationIsReadAtAnyOffsetAndWidth) {
  Rig& rig = limited(0x04030201);
  const ByteVector all = rig.config(0, 16);
  for (std::uint32_t offset = 0; offset < 16; ++offset) {
    for (std::uint32_t size = 1; offset + size <= 16; ++size)
      EXPECT_EQ(rig.config(offset, size), ByteVector(all.begin() + offset, all.begin() + offset + size));
  }
}

// --- Events ------------------------------------------------------------------------------------------------------------

TEST_P(ExampleDevice, D_EX_19_EachRefusalUsesOneBufferOfTheEventQueue) {
  Rig& rig = limited();
  std::vector<Buffer> told(4, Buffer(rig, event_queue));
  for (Buffer& each : told) each.writable(16).add();
  rig.queues[1].publish();
  rig.pump();
  expect_unused(rig, event_queue);
  ask(rig, 41);
  expect_unused(rig, event_queue);
  for (std::uint32_t i = 0; i < 3; ++i) {
    ask(rig, 200 + i);
    const Used used = next_used(rig, event_queue);
    EXPECT_EQ(used.buffer, &told[i]);
    EXPECT_EQ(used.length, 16u);
    EXPECT_EQ(told[i].written(), event(0, 200 + i));
    expect_unused(rig, event_queue);
  }
  EXPECT_THAT(told[3].written(), Each(untouched));
}

TEST_P(ExampleDevice, D_EX_19_ManyRefusalsOfOneKickAreToldInOrder) {
  Rig& rig = limited();
  std::vector<Buffer> told(8, Buffer(rig, event_queue)), requests(8, Buffer(rig));
  for (Buffer& each : told) each.writable(20).add();
  rig.queues[1].publish();
  for (std::uint32_t i = 0; i < 8; ++i) requests[i].readable(number(200 + i)).writable(8).add();
  rig.queues[0].publish();
  rig.pump();
  for (std::uint32_t i = 0; i < 8; ++i) {
    const Used used = next_used(rig, event_queue);
    EXPECT_EQ(used.buffer, &told[i]);
    EXPECT_EQ(used.length, 16u);
    EXPECT_EQ(told[i].written(), event(0, 200 + i) + ByteVector(4, untouched));
  }
}

TEST_P(ExampleDevice, D_EX_10_ThreeRefusalsWithoutABufferAreReportedByTheFourth) {
  Rig& rig = limited();
  for (std::uint32_t i = 0; i < 3; ++i) EXPECT_EQ(ask(rig, 101 + i), refused(101 + i));
  Buffer told(rig, event_queue);
  told.writable(16).send();
  expect_unused(rig, event_queue);
  EXPECT_EQ(ask(rig, 104), refused(104));
  EXPECT_EQ(next_used(rig, event_queue).buffer, &told);
  EXPECT_EQ(told.written(), event(3, 104));
  Buffer next(rig, event_queue);
  next.writable(16).send();
  ask(rig, 105);
  EXPECT_EQ(next.written(), event(0, 105)) << "each is reported once";
}

TEST_P(ExampleDevice, D_EX_10_WithoutAnEventQueueRefusalsAreOnlyCounted) {
  Rig& rig = make({.eventq = false, .device = {.limit = 0}});
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(ask(rig, 1), refused(1));
  EXPECT_FALSE(rig.needs_reset());
}

TEST_P(ExampleDevice, D_EX_10_TheCountSaturates) {
  Rig& rig = limited();
  const spec::State state{.version = 1, .limit = 100, .epoch = 0, .missed = max_value - 1, .reserved = 0};
  ASSERT_TRUE(rig.device->restore_state(as_bytes_of(state)));
  for (int i = 0; i < 5; ++i) ask(rig, 101);
  Buffer told(rig, event_queue);
  told.writable(16).send();
  ask(rig, 102);
  EXPECT_EQ(told.written(), event(max_value, 102));
}

TEST_P(ExampleDevice, D_EX_10_TheNextEventReportsWhatAShortBufferCost) {
  // Both refusals are there before either is told.
  Rig& rig = limited();
  Buffer small(rig, event_queue), told(rig, event_queue), next(rig, event_queue), one(rig), two(rig);
  small.writable(15).add();
  told.writable(16).send();
  one.readable(number(101)).writable(8).add();
  two.readable(number(102)).writable(8).send();
  EXPECT_EQ(next_used(rig, event_queue).length, 0u);
  EXPECT_EQ(next_used(rig, event_queue).length, 16u);
  EXPECT_EQ(told.written(), event(1, 102));
  EXPECT_EQ(next_used(rig).buffer, &one);
  EXPECT_EQ(next_used(rig).buffer, &two);
  next.writable(16).send();
  ask(rig, 103);
  EXPECT_EQ(next.written(), event(0, 103));
}

TEST_P(ExampleDevice, D_EX_11_AShortEventBufferHasLengthZeroAndItsEventIsMissed) {
  for (std::size_t size = 1; size < 16; ++size) {
    SCOPED_TRACE(size);
    Rig& rig = limited();
    Buffer small(rig, event_queue);
    small.writable(size).send();
    EXPECT_EQ(ask(rig, 101), refused(101));
    const Used used = next_used(rig, event_queue);
    EXPECT_EQ(used.buffer, &small);
    EXPECT_EQ(used.length, 0u);
    EXPECT_THAT(small.written(), Each(untouched));
    EXPECT_FALSE(rig.needs_reset());
    Buffer told(rig, event_queue);
    told.writable(16).send();
    ask(rig, 102);
    EXPECT_EQ(told.written(), event(1, 102));
  }
}

TEST_P(ExampleDevice, D_EX_11_AnEventBufferWithReadableBytesOnlyIsTooShort) {
  Rig& rig = limited();
  Buffer wrong(rig, event_queue);
  wrong.readable(ByteVector(64)).send();
  ask(rig, 101);
  const Used used = next_used(rig, event_queue);
  EXPECT_EQ(used.buffer, &wrong);
  EXPECT_EQ(used.length, 0u);
  EXPECT_FALSE(rig.needs_reset());
}

TEST_P(ExampleDevice, D_EX_5_ReadableBytesOfAnEventBufferAreIgnored) {
  Rig& rig = limited();
  Buffer told(rig, event_queue);
  told.readable(ByteVector(16, std::byte{0xff})).writable(10).writable(10).send();
  ask(rig, 101);
  EXPECT_EQ(next_used(rig, event_queue).length, 16u);
  EXPECT_EQ(told.written(), event(0, 101) + ByteVector(4, untouched));
}

TEST_P(ExampleDevice, D_EX_10_ManyShortBuffersAndManyRefusalsAddUp) {
  // Any schedule: what is told and what is said to be missed are together what was refused, in order.
  for (const bool own_loops : {false, true}) {
    Rig& rig = make({.own_loops = own_loops, .device = {.limit = 100}});
    std::deque<Buffer> told;
    std::uint32_t refusals = 0, reported = 0;
    const auto collect = [&] {
      for (Used used = next_used(rig, event_queue); used.buffer != nullptr; used = next_used(rig, event_queue)) {
        if (used.length == 0) continue;
        const ByteVector all = used.buffer->written();
        const auto missed = static_cast<std::uint32_t>(from_little_endian(Bytes(all).subspan(4, 4)));
        const auto value = static_cast<std::uint32_t>(from_little_endian(Bytes(all).subspan(8, 4)));
        reported += missed + 1;
        EXPECT_EQ(value, 100 + reported) << "the one that comes after those that were missed";
      }
    };
    std::uint32_t random = 12345;
    for (int round = 0; round < 400; ++round) {
      random = random * 1664525 + 1013904223;
      const unsigned buffers = random >> 28 & 3, requests = random >> 24 & 7;
      for (unsigned i = 0; i < buffers; ++i)
        told.emplace_back(rig, event_queue).writable((random >> i & 1) != 0 ? 16 : 8).add();
      if ((random >> 20 & 1) != 0) rig.queues[1].publish();
      std::vector<Buffer> all(requests, Buffer(rig));
      for (Buffer& each : all) each.readable(number(100 + ++refusals)).writable(8).add();
      rig.queues[0].publish();
      if ((random >> 21 & 1) != 0) rig.queues[1].publish();
      rig.pump();
      for (unsigned i = 0; i < requests; ++i) EXPECT_EQ(next_used(rig).buffer, &all[i]);
      collect();
      if (rig.queues[1].in_flight() > 50) rig.queues[1].publish();
    }
    // The last event has everything before it.
    rig.queues[1].publish();
    rig.pump();
    while (rig.queues[1].in_flight() != 0) {
      ask(rig, 100 + ++refusals);
      collect();
    }
    Buffer last(rig, event_queue);
    last.writable(16).send();
    ask(rig, 100 + ++refusals);
    collect();
    EXPECT_EQ(reported, refusals);
  }
}

// --- Reset, and state that moves ---------------------------------------------------------------------------------------

TEST_P(ExampleDevice, D_EX_12_AResetForgetsWhatWasMissedAndKeepsLimitAndEpoch) {
  Rig& rig = limited();
  ASSERT_TRUE(rig.device->set_limit(50));
  for (int i = 0; i < 3; ++i) ask(rig, 51);
  ASSERT_TRUE(rig.transport->reset());
  rig.start();
  EXPECT_EQ(rig.config(0, 16), number(50) + number(0) + little_endian(1, 8));
  Buffer told(rig, event_queue);
  told.writable(16).send();
  EXPECT_EQ(ask(rig, 51), refused(51));
  EXPECT_EQ(told.written(), event(0, 51));
}

TEST_P(ExampleDevice, D_EX_12_BuffersForEventsAreTheDriversAgainAfterAReset) {
  Rig& rig = limited();
  std::vector<Buffer> told(5, Buffer(rig, event_queue));
  for (Buffer& each : told) each.writable(16).add();
  rig.queues[1].publish();
  rig.pump();
  ASSERT_TRUE(rig.transport->reset());
  rig.start();
  ask(rig, 101);
  expect_unused(rig, event_queue);
  Buffer next(rig, event_queue);
  next.writable(16).send();
  ask(rig, 102);
  EXPECT_EQ(next_used(rig, event_queue).buffer, &next);
  EXPECT_EQ(next.written(), event(1, 102));
}

TEST_P(ExampleDevice, D_EX_12_AResetOfTheEventQueueAloneForgetsNothing) {
  Rig& rig = limited();
  Buffer given(rig, event_queue);
  given.writable(16).send();
  ASSERT_TRUE(rig.transport->reset_queue(event_queue));
  ask(rig, 101);
  EXPECT_THAT(given.written(), Each(untouched));
  virtio::Features agreed = rig.transport->core().offered();
  rig.queues[1] = virtio::DriverQueue::create(*rig.transport, event_queue, agreed, {}).value();
  Buffer told(rig, event_queue);
  told.writable(16).send();
  ask(rig, 102);
  EXPECT_EQ(told.written(), event(1, 102));
}

TEST(ExampleDeviceState, D_EX_13_IsLimitEpochAndMissedInTheLayoutOfTheChapter) {
  const auto device = Device::create({.limit = 0x11}).value();
  const spec::State state{.version = 1, .limit = 0x04030201, .epoch = 0x0807060504030201, .missed = 9, .reserved = 0};
  ASSERT_TRUE(device->restore_state(as_bytes_of(state)));
  EXPECT_EQ(device->save_state().value(),
            number(1) + number(0x04030201) + little_endian(0x0807060504030201, 8) + number(9) + number(0));
}

TEST(ExampleDeviceState, D_EX_13_AStateThatIsNotUnderstoodIsRefusedAndChangesNothing) {
  const auto device = Device::create({.limit = 5}).value();
  const ByteVector before = device->save_state().value();
  const auto refuse = [&](const ByteVector& state) {
    const auto restored = device->restore_state(state);
    ASSERT_FALSE(restored);
    EXPECT_EQ(restored.error().code(), EINVAL) << restored.error().message();
    EXPECT_EQ(device->save_state().value(), before);
  };
  const ByteVector good = number(1) + number(77) + little_endian(3, 8) + number(2) + number(0);
  for (std::size_t size = 0; size < good.size(); ++size)
    refuse({good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)});
  refuse(good + bytes_of({0}));
  for (const std::uint32_t version : {0U, 2U, 0x01000000U, max_value}) {
    ByteVector other = good;
    std::ranges::copy(number(version), other.begin());
    refuse(other);
  }
  for (std::ptrdiff_t at = 20; at < 24; ++at) {
    ByteVector other = good;
    other[static_cast<std::size_t>(at)] = std::byte{1};
    refuse(other);
  }
  EXPECT_TRUE(device->restore_state(good));
  EXPECT_EQ(device->save_state().value(), good);
}

virtio::DeviceState capture(Rig& rig) {
  std::optional<virtio::DeviceState> state;
  rig.transport->core().capture([&](Result<virtio::DeviceState> captured) { state = captured.value(); });
  rig.pump();
  EXPECT_TRUE(state);
  return state.value_or(virtio::DeviceState{});
}

/// The device becomes one that has never seen this driver; the driver and its memory stay as they are.
void become_another_device(Rig& rig) {
  rig.transport->core().write_status(0);
  rig.pump();
  ASSERT_TRUE(rig.device->set_limit(7));
  ASSERT_TRUE(rig.device->set_limit(8));
}

TEST_P(ExampleDevice, D_EX_13_AnotherDeviceGoesOnWhereThisOneStopped) {
  for (const bool own_loops : {false, true}) {
    Rig& rig = make({.own_loops = own_loops, .device = {.limit = 100}});
    ASSERT_TRUE(rig.device->set_limit(50));
    for (int i = 0; i < 2; ++i) ask(rig, 51);
    Buffer told(rig, event_queue), next(rig, event_queue);
    told.writable(16).send();
    next.writable(16).send();
    const auto state = capture(rig);
    EXPECT_EQ(state.queues.at(1).in_flight.size(), 2u) << "buffers for events that are not used";
    EXPECT_EQ(state.device, number(1) + number(50) + little_endian(1, 8) + number(2) + number(0));
    become_another_device(rig);

    ASSERT_TRUE(rig.transport->core().restore(state));
    rig.pump();
    EXPECT_EQ(rig.config(0, 16), number(50) + number(0) + little_endian(1, 8));
    EXPECT_EQ(ask(rig, 50), accepted(50));
    EXPECT_EQ(ask(rig, 51), refused(51));
    EXPECT_EQ(next_used(rig, event_queue).buffer, &told);
    EXPECT_EQ(told.written(), event(2, 51));
    EXPECT_EQ(ask(rig, 52), refused(52));
    EXPECT_EQ(next_used(rig, event_queue).buffer, &next);
    EXPECT_EQ(next.written(), event(0, 52));
    EXPECT_EQ(capture(rig).accepted, state.accepted);
  }
}

TEST_P(ExampleDevice, D_EX_13_ABrokenDeviceIsBrokenElsewhereToo) {
  Rig& rig = limited();
  expect_breaks(rig, Buffer(rig).readable(number(1)).writable(1));
  const auto state = capture(rig);
  become_another_device(rig);
  ASSERT_TRUE(rig.transport->core().restore(state));
  EXPECT_TRUE(rig.needs_reset());
  Buffer request(rig);
  request.readable(number(41)).writable(8).send();
  expect_unused(rig);
  ASSERT_TRUE(rig.transport->reset());
  rig.start();
  EXPECT_EQ(ask(rig, 41), accepted(41));
}

TEST_P(ExampleDevice, D_EX_13_AnInconsistentStateIsRefusedAndChangesNothing) {
  Rig& rig = limited();
  ask(rig, 101);
  Buffer told(rig, event_queue);
  told.writable(16).send();
  const auto good = capture(rig);
  become_another_device(rig);
  const ByteVector before = rig.device->save_state().value();
  const auto refuse = [&](const std::function<void(virtio::DeviceState&)>& change) {
    virtio::DeviceState bad = good;
    change(bad);
    const auto restored = rig.transport->core().restore(bad);
    ASSERT_FALSE(restored);
    EXPECT_EQ(restored.error().code(), EINVAL) << restored.error().message();
    EXPECT_EQ(rig.transport->core().status(), 0);
    EXPECT_EQ(rig.device->save_state().value(), before);
  };
  refuse([](auto& state) { state.device_id = 2; });
  refuse([](auto& state) { state.device.value().pop_back(); });
  refuse([](auto& state) { state.device.value().push_back(std::byte{0}); });
  refuse([](auto& state) { state.device.value().clear(); });
  refuse([](auto& state) { state.device.value()[0] = std::byte{2}; });
  refuse([](auto& state) { state.device.value()[20] = std::byte{1}; });
  refuse([](auto& state) { state.queues.pop_back(); });
  refuse([](auto& state) { state.queues[0].next_avail += 1; });
  refuse([](auto& state) { state.queues[1].in_flight.clear(); });
  refuse([](auto& state) { state.queues[1].in_flight[0].head = 64; });
  refuse([](auto& state) { state.accepted.set(virtio::Feature{1}); });
  EXPECT_TRUE(rig.transport->core().restore(good));
  rig.pump();
  EXPECT_EQ(ask(rig, 101), refused(101));
  EXPECT_EQ(told.written(), event(1, 101));
}

TEST_P(ExampleDevice, D_EX_13_AStateWithLimitIsRefusedByADeviceWithoutOne) {
  Rig& rig = limited();
  const auto state = capture(rig);
  Rig other({.packed = GetParam()});
  EXPECT_EQ(other.transport->core().restore(state).error().code(), EINVAL);
  EXPECT_EQ(other.transport->core().status(), 0);
}

}  // namespace
}  // namespace outboard::example
