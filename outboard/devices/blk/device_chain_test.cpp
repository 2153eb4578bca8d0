// The block device behind rings that a driver of another make has filled: chains that are longer, and requests that are
// larger, than ours would send.

#include <algorithm>
#include <cstring>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/devices/blk/device.hpp>
#include <outboard/testing/hand_driver.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/virtio/device_core.hpp>
#include <tests/support/held_backend.hpp>

namespace outboard::blk {
namespace {

using testing::HandDriver;
namespace status = virtio::spec::status;

constexpr std::uint64_t disk_size = UINT64_C(1) << 20;
constexpr std::uint64_t mebibyte = UINT64_C(1) << 20;

/// A disk, and a driver that accepts VERSION_1 and the rings' features and no more: what firmware does.
class Disk final : private virtio::TransportEvents {
 public:
  struct Setup {
    bool packed = false;
    std::uint16_t queue_size = 256;  ///< the device's
    std::uint16_t ring_size = 256;  ///< the driver's
    std::uint32_t seg_max = 0;  ///< 0: what the queue has room for
    std::uint64_t size = disk_size;
    bool own_loop = false;  ///< the queue has a loop of its own
  };

  explicit Disk(const Setup& setup) : driver({.packed = setup.packed, .size = setup.ring_size}) {
    auto backend = std::make_unique<testing::HeldBackend>(setup.size);
    storage = backend.get();
    device = Device::create(std::move(backend), {.queue_size = setup.queue_size, .seg_max = setup.seg_max}).value();
    virtio::DeviceCore::Options options{.packed = setup.packed,
                                        .log = Log([this](Level, std::string_view line) { log.emplace_back(line); })};
    if (setup.own_loop) options.queue_loops = {&queue_loop};
    core = virtio::DeviceCore::create(*device, map, loop, *this, std::move(options)).value();
    EXPECT_TRUE(map.map(driver.mapping()));
    start();
  }
  ~Disk() override { core.reset(); }

  void start() {
    core->write_status(status::acknowledge | status::driver);
    virtio::Features accepted{virtio::Feature::version_1, virtio::Feature::indirect_desc, feature::seg_max,
                              feature::discard, feature::write_zeroes};
    if (driver.packed()) accepted.set(virtio::Feature::ring_packed);
    for (std::uint32_t word = 0; word < virtio::Features::words; ++word)
      core->write_driver_features(word, accepted.word(word));
    core->write_status(core->status() | status::features_ok);
    core->set_queue_size(0, driver.size());
    for (unsigned area = 0; area < virtio::ring_parts; ++area) core->set_queue_address(0, area, driver.address(area));
    core->enable_queue(0);
    core->write_status(core->status() | status::driver_ok);
    loop.run_until_idle();
  }
  void reset() {
    core->write_status(0);
    loop.run_until_idle();
  }

  std::uint32_t seg_max() {
    le32 value;
    core->read_config(offsetof(spec::Config, seg_max), as_writable_bytes_of(value));
    return value;
  }
  bool broken() const { return (core->status() & status::needs_reset) != 0; }

  /// A read from sector 0 into `elements` elements of `size` bytes, which are all the same memory, by an indirect table.
  void read(unsigned elements, std::uint32_t size) {
    begin(elements, size);
    loop.run_until_idle();
  }
  void begin(unsigned elements, std::uint32_t size) { begin_at(driver.allocate(size, 512), size, elements); }
  void begin_at(memory::Iova data, std::uint32_t size, unsigned elements = 1) {
    const memory::Iova header = driver.allocate(sizeof(spec::RequestHeader));
    status_at = driver.allocate(1);
    *driver.at(status_at) = std::byte{0xff};
    auto chain = driver.chain();
    chain.indirect().readable_at(header, sizeof(spec::RequestHeader));
    for (unsigned i = 0; i < elements; ++i) chain.writable_at(data, size);
    chain.writable_at(status_at, 1).publish();
    data_at = data;
    core->kick(0);
  }
  /// A DISCARD or WRITE_ZEROES, or with no segments a FLUSH.
  void begin_ranges(std::uint32_t type, const std::vector<spec::RangeSegment>& segments) {
    const spec::RequestHeader header{type, 0, 0};
    const auto text = [](const void* at, std::size_t size) {
      return std::string_view(static_cast<const char*>(at), size);
    };
    auto chain = driver.chain();
    chain.readable(text(&header, sizeof header));
    if (!segments.empty()) chain.readable(text(segments.data(), segments.size() * sizeof(spec::RangeSegment)));
    chain.writable(1).publish();
    status_at = chain.at(segments.empty() ? 1 : 2);
    *driver.at(status_at) = std::byte{0xff};
    core->kick(0);
  }
  int answer() const { return std::to_integer<int>(*driver.at(status_at)); }

  void run() {
    while (loop.run_until_idle() || queue_loop.run_until_idle()) {
    }
  }

  testing::ManualLoop loop, queue_loop;
  memory::AddressMap map{loop};
  HandDriver driver;
  std::vector<std::string> log;
  testing::HeldBackend* storage = nullptr;
  std::unique_ptr<Device> device;
  std::unique_ptr<virtio::DeviceCore> core;
  memory::Iova status_at{}, data_at{};

 private:
  void notify_queue(unsigned) override {}
  void notify_config() override {}
};

class BlkChains : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(, BlkChains, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

TEST_P(BlkChains, MayHaveAnElementMoreThanSegMax) {
  Disk disk({.packed = GetParam()});
  const unsigned elements = disk.seg_max() + 1;
  ASSERT_EQ(elements, 255U);
  disk.read(elements, 512);
  EXPECT_FALSE(disk.broken());
  EXPECT_EQ(disk.answer(), spec::status::ok);
  EXPECT_EQ(disk.driver.take_used().at(0).length, elements * 512 + 1);
}

TEST_P(BlkChains, MayHaveAnElementMoreThanSegMaxOfALargeQueueToo) {
  Disk disk({.packed = GetParam(), .queue_size = 1024, .ring_size = 1024});
  disk.read(disk.seg_max() + 1, 512);
  EXPECT_FALSE(disk.broken());
  EXPECT_EQ(disk.answer(), spec::status::ok);
}

TEST_P(BlkChains, MayBeLongerThanTheRingThatTheDriverHasChosen) {
  for (const unsigned elements : {20U, 32U, 254U}) {
    Disk disk({.packed = GetParam(), .ring_size = 16});
    disk.read(elements, 512);
    EXPECT_FALSE(disk.broken()) << elements;
    EXPECT_EQ(disk.answer(), spec::status::ok);
  }
}

TEST_P(BlkChains, HaveALimitAllTheSame) {
  Disk disk({.packed = GetParam()});
  disk.read(1022, 512);
  EXPECT_FALSE(disk.broken());
  disk.read(1023, 512);
  EXPECT_TRUE(disk.broken());
}

TEST_P(BlkChains, MayBeAsLongAsTheQueueThatIsOffered) {
  Disk disk({.packed = GetParam(), .queue_size = 2048, .ring_size = 16, .seg_max = 16});
  disk.read(2046, 512);
  EXPECT_FALSE(disk.broken());
  EXPECT_EQ(disk.answer(), spec::status::ok);
  disk.read(2047, 512);
  EXPECT_TRUE(disk.broken());
}

TEST_P(BlkChains, OfMoreThan256MebibytesFailAndTheDeviceGoesOn) {
  Disk disk({.packed = GetParam()});
  disk.read(257, mebibyte);
  EXPECT_FALSE(disk.broken());
  EXPECT_EQ(disk.answer(), spec::status::ioerr);
  EXPECT_TRUE(disk.storage->calls.empty());
  EXPECT_EQ(disk.driver.take_used().at(0).length, 0U) << "nothing before the status has been written";
  ASSERT_EQ(disk.log.size(), 1U);
  EXPECT_NE(disk.log[0].find("256 MiB"), std::string::npos);
  disk.read(1, 512);
  EXPECT_EQ(disk.answer(), spec::status::ok);
}

using Call = testing::HeldBackend::Call;
constexpr std::uint64_t step = 4 * mebibyte;
constexpr std::uint32_t sectors_of_a_mebibyte = mebibyte / sector_size;

/// How many operations the storage is asked for in one turn of the loop, at most.
class OperationsOfATurn {
 public:
  explicit OperationsOfATurn(Disk& disk)
      : neighbour_(disk.loop.poll([this, &calls = disk.storage->calls] {
          max_calls_ = std::max(max_calls_, calls.size() - std::exchange(before_, calls.size()));
          return false;
        })) {}
  std::size_t max_calls() const { return max_calls_; }

 private:
  std::size_t max_calls_ = 0;
  std::size_t before_ = 0;
  Registration neighbour_;
};

TEST_P(BlkChains, OfManyMebibytesYieldToTheLoopOnSynchronousStorage) {
  Disk disk({.packed = GetParam(), .size = 16 * mebibyte});
  const OperationsOfATurn turns(disk);
  for (int i = 0; i < 2; ++i) disk.begin(12, mebibyte - 512);
  disk.loop.run_until_idle();
  constexpr std::uint64_t rest = 4 * mebibyte - 12 * 512;
  EXPECT_EQ(disk.storage->calls, (std::vector<Call>{{'r', 0, step},
                                                    {'r', step, step},
                                                    {'r', 2 * step, rest},
                                                    {'r', 0, step},
                                                    {'r', step, step},
                                                    {'r', 2 * step, rest}}));
  EXPECT_EQ(turns.max_calls(), 1U);
  for (const auto& used : disk.driver.take_used()) EXPECT_EQ(used.length, 2 * step + rest + 1);
  EXPECT_EQ(disk.answer(), spec::status::ok);
}

TEST_P(BlkChains, OfManyMebibytesAreOnePieceForOtherStorage) {
  Disk disk({.packed = GetParam(), .size = 16 * mebibyte});
  disk.storage->hold = true;
  disk.read(12, mebibyte);
  while (disk.storage->release() != 0) disk.loop.run_until_idle();
  disk.read(12, mebibyte);
  disk.storage->release();
  disk.loop.run_until_idle();
  EXPECT_EQ(disk.storage->calls, (std::vector<Call>{{'r', 0, step}, {'r', step, 2 * step}, {'r', 0, 3 * step}}));
  EXPECT_EQ(disk.driver.used_count(), 2U);
}

TEST_P(BlkChains, WhoseMemoryIsUnmappedEndBeforeTheDeviceIsDestroyed) {
  for (const unsigned count : {1U, 3U}) {
    bool told = false;
    Disk disk({.packed = GetParam()});
    disk.storage->hold = true;
    disk.storage->fails = [](const Call&) { return EIO; };
    const memory::Mapping taken{.range = {memory::Iova{0x90000000}, mebibyte},
                                .access = memory::Access::read_write,
                                .memory = memory::HostMemory::anonymous(mebibyte).value(),
                                .offset = 0,
                                .port = {}};
    ASSERT_TRUE(disk.map.map(taken));
    for (unsigned i = 0; i < count; ++i) disk.begin_at(taken.range.start, 4096);
    disk.loop.run_until_idle();
    ASSERT_EQ(disk.storage->held(), count);
    disk.map.unmap(taken.range, [&](const Status& status) {
      told = status.has_value();
      disk.core.reset();
      disk.device.reset();
    });
    disk.loop.run_until_idle();
    ASSERT_FALSE(told);
    disk.storage->release();
    EXPECT_FALSE(told) << "the device goes on in there";
    disk.loop.run_until_idle();
    EXPECT_TRUE(told);
    EXPECT_EQ(disk.log.at(0),
              disk.storage->description() + ": a read at sector 0 failed: Input/output error (1 so far)");
  }
}

// What the kernel carries out when the device is destroyed ends when its storage has gone.
TEST_P(BlkChains, KeepTheMemoryThatTheyAreAboutUntilTheStorageHasGone) {
  for (const bool own_loop : {false, true}) {
    Disk disk({.packed = GetParam(), .own_loop = own_loop});
    memory::Mapping data{.range = {memory::Iova{0x90000000}, mebibyte},
                         .access = memory::Access::read_write,
                         .memory = memory::HostMemory::anonymous(mebibyte).value(),
                         .offset = 0,
                         .port = {}};
    const std::weak_ptr<memory::HostMemory> memory = data.memory;
    ASSERT_TRUE(disk.map.map(std::exchange(data, {})));
    disk.storage->hold = true;
    disk.begin_at(memory::Iova{0x90000000}, 4096);
    disk.run();
    ASSERT_EQ(disk.storage->held(), 1U);
    unsigned ends = 0;
    disk.storage->at_end = [&] {
      ++ends;
      EXPECT_FALSE(memory.expired()) << own_loop;
    };
    disk.core.reset();
    disk.map.clear([](const Status&) {});
    disk.device.reset();
    EXPECT_EQ(ends, own_loop ? 2U : 1U);
    EXPECT_TRUE(memory.expired());
  }
}

TEST_P(BlkChains, ThatAStopWaitsForEndBeforeWhoeverWaitsDestroysTheDevice) {
  for (const bool in_steps : {false, true}) {
    bool told = false;
    Disk disk({.packed = GetParam(), .size = 16 * mebibyte});
    disk.storage->hold = !in_steps;
    in_steps ? disk.begin(12, mebibyte) : disk.begin(1, 4096);
    while (disk.storage->calls.empty()) disk.loop.run_once();
    disk.core->stop(virtio::StopMode::discard, [&](const Status& status) {
      told = status.has_value();
      disk.core.reset();
      disk.device.reset();
    });
    disk.storage->release();
    EXPECT_FALSE(told) << "the device goes on in there";
    disk.loop.run_until_idle();
    EXPECT_TRUE(told);
  }
}

TEST_P(BlkChains, OfManyMebibytesMayEndAfterTheCoreThatTheyCameFrom) {
  for (const bool fails : {false, true}) {
    Disk disk({.packed = GetParam(), .size = 64 * mebibyte});
    disk.begin(40, mebibyte);
    for (int turn = 0; turn < 3; ++turn) disk.loop.run_once();
    if (fails) disk.storage->fails = [](const auto&) { return EIO; };
    disk.core.reset();
    disk.loop.run_until_idle();
  }
}

TEST_P(BlkChains, OfManyMebibytesEndBetweenStepsOnResetOrDestruction) {
  for (const bool is_destroyed : {false, true}) {
    Disk disk({.packed = GetParam(), .size = 16 * mebibyte});
    for (int i = 0; i < 2; ++i) disk.begin(12, mebibyte);
    while (disk.storage->calls.empty()) disk.loop.run_once();
    if (is_destroyed) {
      disk.core.reset();
      disk.storage = nullptr;
      disk.device.reset();
      disk.loop.run_until_idle();
      continue;
    }
    disk.reset();
    EXPECT_EQ(disk.core->status(), 0);
    EXPECT_EQ(disk.storage->calls.size(), 1U);
    EXPECT_EQ(disk.driver.used_count(), 0U);
  }
}

// Ranges that the storage works on inside the call are done in the same steps.

TEST_P(BlkChains, WithLargeRangesYieldToTheLoopOnSynchronousStorage) {
  for (const auto& [type, flags, kind] :
       {std::tuple{spec::type::discard, 0U, 'd'}, std::tuple{spec::type::write_zeroes, 0U, 'z'},
        std::tuple{spec::type::write_zeroes, spec::RangeSegment::unmap, 'u'}}) {
    Disk disk({.packed = GetParam(), .size = 16 * mebibyte});
    const OperationsOfATurn turns(disk);
    for (int i = 0; i < 2; ++i) disk.begin_ranges(type, {{2, 11 * sectors_of_a_mebibyte, flags}});
    disk.loop.run_until_idle();
    std::vector<Call> expected;
    for (int i = 0; i < 2; ++i) {
      expected.insert(expected.end(),
                      {{kind, 1024, step}, {kind, 1024 + step, step}, {kind, 1024 + 2 * step, 3 * mebibyte}});
      if (type == spec::type::write_zeroes) expected.push_back({'f', 0, 0});  // this driver cannot flush
    }
    EXPECT_EQ(disk.storage->calls, expected);
    EXPECT_LE(turns.max_calls(), 2U) << "a step, and the flush behind the last";
    EXPECT_EQ(disk.driver.used_count(), 2U);
    EXPECT_EQ(disk.answer(), spec::status::ok);
  }
}

TEST_P(BlkChains, WithRangesShareATurnUntilTheyAreAStepTogether) {
  Disk disk({.packed = GetParam(), .size = 16 * mebibyte});
  const OperationsOfATurn turns(disk);
  for (int i = 0; i < 8; ++i) disk.begin_ranges(spec::type::discard, {{0, sectors_of_a_mebibyte, 0}});
  disk.loop.run_until_idle();
  EXPECT_EQ(turns.max_calls(), 4U) << "of several requests";
  EXPECT_EQ(disk.driver.take_used().size(), 8U);
  disk.begin_ranges(spec::type::discard, std::vector<spec::RangeSegment>(8, {0, sectors_of_a_mebibyte, 0}));
  disk.loop.run_until_idle();
  EXPECT_EQ(turns.max_calls(), 4U) << "of one";
  EXPECT_EQ(disk.storage->calls, std::vector<Call>(16, {'d', 0, mebibyte}));
  EXPECT_EQ(disk.driver.take_used().size(), 1U);
}

TEST_P(BlkChains, LargeOnesAreDoneInOrderAndDoNotDelaySmallOnes) {
  Disk disk({.packed = GetParam(), .size = 16 * mebibyte});
  disk.begin(9, mebibyte);
  disk.begin_ranges(spec::type::discard, {{0, 9 * sectors_of_a_mebibyte, 0}});
  disk.begin(1, 512);
  disk.begin_ranges(spec::type::flush, {});
  disk.loop.run_until_idle();
  EXPECT_EQ(disk.storage->calls, (std::vector<Call>{{'r', 0, step},
                                                    {'r', 0, 512},
                                                    {'f', 0, 0},
                                                    {'r', step, step},
                                                    {'r', 2 * step, mebibyte},
                                                    {'d', 0, step},
                                                    {'d', step, step},
                                                    {'d', 2 * step, mebibyte}}));
  EXPECT_EQ(disk.driver.used_count(), 4U);
}

TEST_P(BlkChains, WithLargeRangesEndBetweenStepsOnResetAndTheDeviceGoesOn) {
  Disk disk({.packed = GetParam(), .size = 16 * mebibyte});
  for (int round = 0; round < 2; ++round) {
    disk.storage->calls.clear();
    for (int i = 0; i < 2; ++i) disk.begin_ranges(spec::type::discard, {{0, 12 * sectors_of_a_mebibyte, 0}});
    while (disk.storage->calls.empty()) disk.loop.run_once();
    disk.reset();
    EXPECT_EQ(disk.core->status(), 0);
    EXPECT_EQ(disk.storage->calls.size(), 1U);
    EXPECT_EQ(disk.driver.used_count(), 0U);
    disk.driver.restart();
    disk.start();
  }
  disk.storage->calls.clear();
  disk.begin_ranges(spec::type::discard, {{0, 12 * sectors_of_a_mebibyte, 0}});
  disk.loop.run_until_idle();
  EXPECT_EQ(disk.storage->calls, (std::vector<Call>{{'d', 0, step}, {'d', step, step}, {'d', 2 * step, step}}));
  EXPECT_EQ(disk.driver.used_count(), 1U);
}

TEST_P(BlkChains, WithLargeRangesAreDoneInLargerStepsByOtherStorage) {
  Disk disk({.packed = GetParam(), .size = 16 * mebibyte});
  disk.storage->shape.capacity = 256 * mebibyte;
  disk.device->capacity_changed();
  disk.storage->hold = true;
  disk.begin_ranges(spec::type::discard, {{0, 100 * sectors_of_a_mebibyte, 0}});
  do disk.loop.run_until_idle();
  while (disk.storage->release() != 0);
  EXPECT_EQ(disk.storage->calls,
            (std::vector<Call>{{'d', 0, step}, {'d', step, 64 * mebibyte}, {'d', 68 * mebibyte, 32 * mebibyte}}));
  EXPECT_EQ(disk.driver.used_count(), 1U);
}

TEST_P(BlkChains, WithLargeRangesGoOnWhereTheStorageHasTakenItsTimeOnlyLater) {
  Disk disk({.packed = GetParam(), .size = 16 * mebibyte});
  disk.storage->shape.capacity = 256 * mebibyte;
  disk.device->capacity_changed();
  for (int i = 0; i < 2; ++i) disk.begin_ranges(spec::type::discard, {{0, 70 * sectors_of_a_mebibyte, 0}});
  while (disk.storage->calls.empty()) disk.loop.run_once();
  disk.storage->hold = true;
  const unsigned at_first = disk.storage->submits;
  disk.loop.run_until_idle();
  const unsigned by_turns = disk.storage->submits;
  EXPECT_GT(by_turns, at_first);
  EXPECT_EQ(disk.storage->release(), 2U);
  EXPECT_EQ(disk.storage->submits, by_turns + 2);
  EXPECT_EQ(disk.storage->release(), 2U);
  EXPECT_EQ(disk.storage->calls, (std::vector<Call>{{'d', 0, step},
                                                    {'d', step, step},
                                                    {'d', 0, 64 * mebibyte},
                                                    {'d', 2 * step, 62 * mebibyte},
                                                    {'d', 64 * mebibyte, 6 * mebibyte}}));
  disk.loop.run_until_idle();
  EXPECT_EQ(disk.driver.used_count(), 2U);
}

}  // namespace
}  // namespace outboard::blk
