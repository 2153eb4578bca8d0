// A block device whose storage takes its time, until its queue is full: no call of a back end may wait for room in it.

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/storage/raw_file.hpp>
#include <outboard/testing/held_file_system.hpp>
#include <outboard/testing/loop_device.hpp>

namespace outboard::storage {
namespace {

using outboard::testing::HeldFileSystem;
using outboard::testing::LoopDevice;
using Call = HeldFileSystem::Call;

constexpr std::uint64_t disk_size = UINT64_C(16) << 20;

/// A queue of a disk with room for so many requests, for as long as this exists.
class QueueDepth {
 public:
  static Result<QueueDepth> set(const LoopDevice& device, unsigned depth) {
    QueueDepth changed;
    changed.path_ = fmt::format("/sys/block/{}/queue/nr_requests", device.path.substr(sizeof "/dev/" - 1));
    if (!(std::ifstream(changed.path_) >> changed.before_) || !changed.write(depth))
      return Error(errno, "changing the number of requests").on(changed.path_);
    return changed;
  }
  QueueDepth() = default;
  QueueDepth(QueueDepth&& other) noexcept : path_(std::exchange(other.path_, {})), before_(other.before_) {}
  QueueDepth& operator=(QueueDepth&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(before_, other.before_);
    return *this;
  }
  ~QueueDepth() { EXPECT_TRUE(path_.empty() || write(before_)); }

 private:
  bool write(unsigned depth) const { return static_cast<bool>(std::ofstream(path_) << depth << std::flush); }

  std::string path_;
  unsigned before_ = 0;
};

struct DiskKind {
  const char* name;
  bool direct;
  unsigned queue_depth;  ///< 0: as the kernel has it
};

/// A block device (a loop device) on a file of a held file system; gone when nobody has it open.
class SlowDisk : public ::testing::TestWithParam<DiskKind> {
 protected:
  void SetUp() override {
    auto made = HeldFileSystem::create(disk_size);
    if (!made) GTEST_SKIP() << "no FUSE file system here: " << made.error().message();
    storage_ = std::move(*made);
    auto device = LoopDevice::attach(storage_->disk());
    if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
    device_ = std::move(*device);
    if (GetParam().queue_depth != 0) {
      auto depth = QueueDepth::set(device_, GetParam().queue_depth);
      if (!depth) GTEST_SKIP() << depth.error().message();
      depth_ = std::move(*depth);
    }
    loop_ = Reactor::create().value();
    auto opened =
        RawFile::open(*loop_, {.path = device_.path, .direct = GetParam().direct, .engine = Engine::io_uring}, Log());
    ASSERT_TRUE(opened) << opened.error().message();
    disk_ = std::move(*opened);
  }
  void TearDown() override {
    if (!storage_) return;
    storage_->release();
    EXPECT_FALSE(storage_->gave_up()) << "a call on the loop has waited for the storage";
    disk_.reset();
    depth_ = {};
    device_.device.reset();
  }

  /// What udev does to a new disk, some time: it looks for file systems at both ends, and the pages stay in memory.
  void probe() const {
    std::vector<char> bytes(probed);
    const UniqueFd device(::open(device_.path.c_str(), O_RDONLY | O_CLOEXEC));
    for (const std::uint64_t at : {UINT64_C(0), disk_size - probed})
      ASSERT_EQ(::pread(device.get(), bytes.data(), bytes.size(), static_cast<off_t>(at)),
                static_cast<ssize_t>(bytes.size()));
  }
  static constexpr std::uint64_t probed = UINT64_C(1) << 20;

  std::unique_ptr<HeldFileSystem> storage_;
  LoopDevice device_;
  QueueDepth depth_;
  std::unique_ptr<Reactor> loop_;
  std::unique_ptr<RawFile> disk_;
};

TEST_P(SlowDisk, WhoseQueueIsFullKeepsNoLoopWaiting) {
  probe();
  constexpr std::size_t count = 400;  // three times what a loop device's queue has room for
  constexpr std::uint64_t stride = 24576;
  constexpr std::uint64_t first = 3 * probed;  // behind what the kernel has read ahead for the probe
  static_assert(first + count * stride <= disk_size - probed);
  struct alignas(4096) Page {
    std::array<std::byte, 4096> bytes;
  };
  std::vector<Page> pages(count);
  std::vector<iovec> pieces;
  for (Page& page : pages) pieces.push_back({page.bytes.data(), page.bytes.size()});
  std::size_t ended = 0;
  storage_->hold(Call::read);
  for (std::size_t i = 0; i < count; ++i) {
    // Far apart, and backwards: nothing is read ahead for the next one.
    disk_->read(first + (count - 1 - i) * stride, std::span(&pieces[i], 1),
                [&ended](int error) { ended += error == 0 ? 1U : 0U; });
    if (i % 8 == 0) disk_->submit();
  }
  disk_->submit();
  while (storage_->holding() == 0 && !storage_->gave_up()) loop_->run_once(std::chrono::milliseconds(10));
  EXPECT_EQ(ended, 0U);
  EXPECT_FALSE(storage_->gave_up());
  storage_->release();
  while (ended != count) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
}

/// Reads that the kernel has in its page cache, among them the page at which it reads on ahead, while others wait for the storage.
class ReadAhead : public SlowDisk {
 protected:
  static constexpr std::uint64_t sequential = 8 * probed;
  static constexpr std::size_t block = 4096;

  void SetUp() override {
    ASSERT_NO_FATAL_FAILURE(SlowDisk::SetUp());
    if (!disk_) return;
    const UniqueFd reader(::open(device_.path.c_str(), O_RDONLY | O_CLOEXEC));
    const std::size_t size = 64 * block;
    for (const std::uint64_t at : {sequential, sequential + size})
      ASSERT_EQ(::pread(reader.get(), bytes_.data(), size, static_cast<off_t>(at)), static_cast<ssize_t>(size));
  }
  void read(std::uint64_t at, const iovec& piece) {
    ++begun_;
    disk_->read(at, std::span(&piece, 1), [this](int error) { ended_ += error == 0 ? 1U : 0U; });
    disk_->submit();
  }
  void expect_not_to_wait(unsigned misses, std::size_t size) {
    const iovec miss{bytes_.data(), size};
    const iovec hit{bytes_.data(), block};
    storage_->hold(Call::read);
    for (std::uint64_t i = 0; i < misses; ++i)
      read(2 * probed + (misses - 1 - i) * std::max<std::uint64_t>(size, 65536), miss);
    while (storage_->holding() == 0 && !storage_->gave_up()) loop_->run_once(std::chrono::milliseconds(10));
    for (std::uint64_t i = 0; i < 256; ++i) read(sequential + i * block, hit);
    EXPECT_FALSE(storage_->gave_up());
    storage_->release();
    while (ended_ != begun_) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
  }

  alignas(block) std::array<char, 2 << 20> bytes_{};
  std::size_t begun_ = 0;
  std::size_t ended_ = 0;
};

TEST_P(ReadAhead, DoesNotWaitForRoomInAQueueThatIsFull) { expect_not_to_wait(8, block); }

TEST_P(ReadAhead, DoesNotWaitForRoomInAQueueThatFewLargeReadsHaveFilled) { expect_not_to_wait(2, bytes_.size()); }

// Nothing that the process knows of is under way then: what is read ahead has been begun for reads that ended at once.
TEST_P(ReadAhead, DoesNotWaitForRoomInAQueueThatStreamsInThePageCacheHaveFilled) {
  constexpr std::uint64_t streams = 8, stride = probed / 2, size = 16 * block;
  constexpr std::uint64_t first = disk_size - (streams + 2) * stride;
  const UniqueFd reader(::open(device_.path.c_str(), O_RDONLY | O_CLOEXEC));
  for (std::uint64_t i = 0; i < 2 * streams; ++i) {
    const std::uint64_t at = first + i / 2 * stride + i % 2 * size;
    ASSERT_EQ(::pread(reader.get(), bytes_.data(), size, static_cast<off_t>(at)), static_cast<ssize_t>(size));
  }
  const iovec hit{bytes_.data(), block};
  storage_->hold(Call::read);
  for (std::uint64_t i = 0; i < streams; ++i) {
    for (std::uint64_t at = 0; at < 3 * size; at += block) read(first + i * stride + at, hit);
  }
  EXPECT_FALSE(storage_->gave_up());
  storage_->release();
  while (ended_ != begun_) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
}

const auto kinds = ::testing::Values(DiskKind{"cached", false, 0}, DiskKind{"direct", true, 0},
                                     DiskKind{"cached_short_queue", false, 4}, DiskKind{"direct_short_queue", true, 4});
std::string name_of(const ::testing::TestParamInfo<DiskKind>& kind) { return kind.param.name; }
INSTANTIATE_TEST_SUITE_P(Storage, SlowDisk, kinds, name_of);
INSTANTIATE_TEST_SUITE_P(Storage, ReadAhead, kinds, name_of);

}  // namespace
}  // namespace outboard::storage
