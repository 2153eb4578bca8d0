// A block device whose storage takes its time: no call of a back end may wait for room in its queue, nor for its locks.

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <outboard/storage/slow_rig_test.hpp>

namespace outboard::storage {
namespace {

constexpr std::uint64_t disk_size = UINT64_C(16) << 20;

struct DiskKind {
  const char* name;
  bool direct;
  unsigned queue_depth;  ///< 0: as the kernel has it
};

class SlowDisk : public OnSlowStorage<DiskKind> {
 protected:
  void SetUp() override {
    make_device(disk_size);
    if (!IsSkipped() && GetParam().queue_depth != 0) set_queue_depth(GetParam().queue_depth);
    if (!IsSkipped()) open({.path = device_.path, .direct = GetParam().direct, .engine = Engine::io_uring});
  }
  void TearDown() override {
    OnSlowStorage::TearDown();
    let_device_go();
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

/// While a device discards or zeroes, the kernel keeps a lock on its pages: reads through the page cache wait for it, even of what is
/// there, and reading ahead does.
class Erasing : public SlowDisk {
 protected:
  static constexpr std::size_t page = 4096;

  void expect_not_to_wait_for(const std::function<void()>& erase) {
    probe();
    storage_->hold(Call::fallocate);
    erase();
    while (storage_->holding() == 0 && !storage_->gave_up()) turn();
    for (std::uint64_t at = 0; at < 32 * page; at += page) {
      disk_->read(at, std::span(&whole_, 1), done());
      disk_->write(2 * probed + at, std::span(&whole_, 1), done());
      disk_->write(4 * probed + at, std::span(&part_, 1), done());
      turn();
    }
    disk_->read(6 * probed, std::span(&whole_, 1), done());
    disk_->discard(8 * probed, 16 * page, done());
    disk_->write_zeroes(10 * probed, 16 * page, true, done());
    disk_->flush(done());
    turn();
    EXPECT_FALSE(storage_->gave_up());
    storage_->release();
    wait_until_all_has_ended();
  }

  alignas(page) std::array<char, page> bytes_{};
  iovec whole_{bytes_.data(), page};
  iovec part_{bytes_.data(), 512};
};

TEST_P(Erasing, DoesNotKeepTheLoopWaitingWhileItDiscards) {
  expect_not_to_wait_for([this] { disk_->discard(12 * probed, 16 * page, done()); });
}

TEST_P(Erasing, DoesNotKeepTheLoopWaitingWhileItZeroes) {
  expect_not_to_wait_for([this] { disk_->write_zeroes(12 * probed, 16 * page, true, done()); });
}

// Not known to the process, so it cannot wait with its own.
TEST_P(Erasing, DoesNotKeepTheLoopWaitingWhileAnotherDiscards) {
  std::thread other;
  expect_not_to_wait_for([&] {
    other = std::thread([this] {
      const std::array<std::uint64_t, 2> range{12 * probed, 16 * page};
      EXPECT_EQ(::ioctl(device_.device.get(), BLKDISCARD, range.data()), 0);
    });
  });
  other.join();
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
    disk_->read(at, std::span(&piece, 1), done());
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
    wait_until_all_has_ended();
  }

  alignas(block) std::array<char, 2 << 20> bytes_{};
};

TEST_P(ReadAhead, DoesNotWaitForRoomInAQueueThatIsFull) { expect_not_to_wait(8, block); }

TEST_P(ReadAhead, DoesNotWaitForRoomInAQueueThatFewLargeReadsHaveFilled) { expect_not_to_wait(2, bytes_.size()); }

// Nothing that the process knows of is under way then: what is read ahead has been begun for reads that ended at once.
TEST_P(ReadAhead, DoesNotWaitForRoomInAQueueFullOfStreams) {
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
  wait_until_all_has_ended();
}

const auto kinds = ::testing::Values(DiskKind{"cached", false, 0}, DiskKind{"direct", true, 0},
                                     DiskKind{"cached_short_queue", false, 4}, DiskKind{"direct_short_queue", true, 4});
std::string name_of(const ::testing::TestParamInfo<DiskKind>& kind) { return kind.param.name; }
INSTANTIATE_TEST_SUITE_P(Storage, SlowDisk, kinds, name_of);
INSTANTIATE_TEST_SUITE_P(Storage, Erasing, kinds, name_of);
INSTANTIATE_TEST_SUITE_P(Storage, ReadAhead, kinds, name_of);

}  // namespace
}  // namespace outboard::storage
