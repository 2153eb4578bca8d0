// Storage that takes its time: no call of a back end may wait for it, and no engine may be gone before what it runs has ended.

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/loop.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/storage/image.hpp>
#include <outboard/storage/pool_engine.hpp>
#include <outboard/storage/raw_file.hpp>
#include <outboard/storage/uring_engine.hpp>
#include <outboard/testing/denied_calls.hpp>
#include <outboard/testing/held_file_system.hpp>
#include <outboard/testing/temp_dir.hpp>

namespace outboard::storage {
namespace {

using outboard::testing::HeldFileSystem;
using ::testing::HasSubstr;
using Call = HeldFileSystem::Call;

constexpr std::uint64_t disk_size = UINT64_C(16) << 20;

struct How {
  const char* name;
  Engine engine;
  bool direct;
};

class SlowStorage : public ::testing::TestWithParam<How> {
 protected:
  void SetUp() override {
    auto made = HeldFileSystem::create(disk_size);
    if (!made) GTEST_SKIP() << "no FUSE file system here: " << made.error().message();
    storage_ = std::move(*made);
    loop_ = Reactor::create().value();
    auto opened = RawFile::open(
        *loop_, {.path = storage_->disk(), .direct = GetParam().direct, .engine = GetParam().engine}, Log());
    ASSERT_TRUE(opened) << opened.error().message();
    disk_ = std::move(*opened);
  }
  void TearDown() override {
    if (!storage_) return;
    storage_->release();
    EXPECT_FALSE(storage_->gave_up()) << "a call on the loop has waited for the storage";
    disk_.reset();
  }
  /// Until a call is being held; the loop runs meanwhile.
  void wait_until_held() {
    while (storage_->holding() == 0 && !storage_->gave_up()) run_loop();
  }
  /// Shows that the loop does its work.
  void run_loop() {
    bool ran = false;
    const auto timer = loop_->after(std::chrono::milliseconds(1), [&ran] { ran = true; });
    while (!ran) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
  }
  template <typename Start>
  void expect_not_to_wait(Call call, Start&& start) {
    std::optional<int> result;
    storage_->hold(call);
    start([&result](int error) { result = error; });
    disk_->submit();
    EXPECT_FALSE(result) << "nothing was held";
    wait_until_held();
    EXPECT_FALSE(result);
    storage_->release();
    while (!result) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
    EXPECT_EQ(*result, 0);
  }

  std::unique_ptr<HeldFileSystem> storage_;
  std::unique_ptr<Reactor> loop_;
  std::unique_ptr<RawFile> disk_;
  alignas(4096) std::array<std::byte, 8192> bytes_{};
  iovec piece_{bytes_.data(), bytes_.size()};
};

TEST_P(SlowStorage, ReadsDoNotWait) {
  expect_not_to_wait(Call::read, [&](auto done) { disk_->read(4096, std::span(&piece_, 1), done); });
}

TEST_P(SlowStorage, WritesDoNotWait) {
  expect_not_to_wait(Call::write, [&](auto done) { disk_->write(4096, std::span(&piece_, 1), done); });
}

TEST_P(SlowStorage, FlushesDoNotWait) {
  expect_not_to_wait(Call::fsync, [&](auto done) { disk_->flush(done); });
}

TEST_P(SlowStorage, DiscardsDoNotWait) {
  expect_not_to_wait(Call::fallocate, [&](auto done) { disk_->discard(65536, 65536, done); });
}

TEST_P(SlowStorage, WritingZeroesDoesNotWait) {
  expect_not_to_wait(Call::fallocate, [&](auto done) { disk_->write_zeroes(65536, 65536, false, done); });
}

TEST_P(SlowStorage, LookingAtTheSizeDoesNotWait) {
  expect_not_to_wait(Call::getattr, [&](auto done) {
    disk_->measure([done](const auto& capacity) mutable { done(capacity ? 0 : capacity.error().code()); });
  });
}

TEST_P(SlowStorage, ALookAtTheSizeThatIsAskedForDuringAnotherBeginsAfterIt) {
  unsigned told = 0;
  const auto count = [&told](const auto& capacity) { told += capacity ? 1U : 0U; };
  storage_->hold(Call::getattr);
  disk_->measure(count);
  wait_until_held();
  disk_->measure(count);
  disk_->measure(count);
  storage_->release();
  while (told != 3) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
}

TEST_P(SlowStorage, AQueueThatTakesAndGivesBackItsShareDoesNotWait) {
  for (const Call call : {Call::getattr, Call::flush}) {
    storage_->hold(call);
    auto shared = disk_->share(*loop_);
    ASSERT_TRUE(shared);
    shared->reset();
    EXPECT_EQ(storage_->holding(), 0U);
    storage_->release();
  }
}

TEST_P(SlowStorage, WhatIsHeldKeepsOthersFromNothing) {
  storage_->hold(Call::read);
  std::optional<int> read;
  disk_->read(65536, std::span(&piece_, 1), [&](int error) { read = error; });
  disk_->submit();
  wait_until_held();
  std::optional<int> written;
  disk_->write(4096, std::span(&piece_, 1), [&](int error) { written = error; });
  disk_->submit();
  while (!written) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
  EXPECT_FALSE(read);
  storage_->release();
  while (!read) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
}

unsigned threads_of_this_process() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<unsigned>(std::distance(begin(tasks), end(tasks)));
}

/// Reads that the storage holds, and more of them than there may be threads.
class ManyHeldReads : public SlowStorage {
 protected:
  static constexpr std::size_t count = 400;
  static constexpr unsigned max_threads = 64;

  void expect_bounded_threads() {
    std::vector<iovec> pieces(count, piece_);
    std::size_t ended = 0;
    const unsigned before = threads_of_this_process();
    storage_->hold(Call::read);
    for (std::size_t i = 0; i < count; ++i) {
      // Backwards: nothing is read ahead for the next one.
      disk_->read((count - 1 - i) * 32768, std::span(&pieces[i], 1),
                  [&ended](int error) { ended += error == 0 ? 1U : 0U; });
    }
    disk_->submit();
    wait_until_held();
    unsigned most = 0;
    for (int turn = 0; turn < 200; ++turn) {
      run_loop();
      most = std::max(most, threads_of_this_process());
    }
    EXPECT_LE(most, before + max_threads);
    EXPECT_EQ(ended, 0U);
    storage_->release();
    while (ended != count) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
    // Where the engine itself counts, a thread that has answered may not be idle yet when the next request needs one.
    EXPECT_LE(threads_of_this_process(), before + 2 * max_threads);
  }
};

TEST_P(ManyHeldReads, TakeABoundedNumberOfThreads) { expect_bounded_threads(); }

TEST_P(ManyHeldReads, TakeABoundedNumberOfThreadsOnKernelsBefore5_15) {
  std::thread([this] {
    // The kernel of the test bounds what other threads have submitted; those of this one begin anew.
    const auto denied =
        outboard::testing::deny_call(SYS_io_uring_register, 1, IORING_REGISTER_IOWQ_MAX_WORKERS, EINVAL);
    ASSERT_TRUE(denied) << denied.error().message();
    disk_.reset();
    loop_ = Reactor::create().value();
    disk_ = RawFile::open(*loop_, {.path = storage_->disk(), .direct = GetParam().direct, .engine = GetParam().engine},
                          Log())
                .value();
    expect_bounded_threads();
    disk_.reset();
  }).join();
}

INSTANTIATE_TEST_SUITE_P(Storage, ManyHeldReads,
                         ::testing::Values(How{"io_uring", Engine::io_uring, false}, How{"pool", Engine::pool, false},
                                           How{"io_uring_direct", Engine::io_uring, true}),
                         [](const auto& how) { return std::string(how.param.name); });

INSTANTIATE_TEST_SUITE_P(Storage, SlowStorage,
                         ::testing::Values(How{"io_uring", Engine::io_uring, false}, How{"pool", Engine::pool, false},
                                           How{"io_uring_direct", Engine::io_uring, true},
                                           How{"pool_direct", Engine::pool, true}),
                         [](const auto& how) { return std::string(how.param.name); });

struct LoopDevice {
  UniqueFd device;  ///< keeps it; without anyone who has it open it is gone
  std::string path;
};

/// EBUSY: somebody else has taken the number meanwhile.
Result<LoopDevice> take_free_loop_device(const UniqueFd& control, const UniqueFd& file, std::uint32_t block_size) {
  const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
  if (number < 0) return Error::from_errno("asking for a free loop device");
  LoopDevice made;
  made.path = fmt::format("/dev/loop{}", number);
  made.device = UniqueFd(::open(made.path.c_str(), O_RDWR | O_CLOEXEC));
  loop_config config{};
  config.fd = static_cast<std::uint32_t>(file.get());
  config.block_size = block_size;
  config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
  if (!made.device || ::ioctl(made.device.get(), LOOP_CONFIGURE, &config) != 0)
    return Error::from_errno("setting up").on(made.path);
  return made;
}

/// A block device on a file. Tests that run beside this one ask for loop devices too.
Result<LoopDevice> attach_loop_device(const std::string& file_path, std::uint32_t block_size) {
  const UniqueFd control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control) return Error::from_errno("opening").on("/dev/loop-control");
  const UniqueFd file(::open(file_path.c_str(), O_RDWR | O_CLOEXEC));
  if (!file) return Error::from_errno("opening").on(file_path);
  constexpr int attempts = 100;
  auto made = take_free_loop_device(control, file, block_size);
  for (int i = 1; i < attempts && !made && made.error().code() == EBUSY; ++i)
    made = take_free_loop_device(control, file, block_size);
  return made;
}

/// A block device (a loop device) on a file of a held file system; gone when nobody has it open.
class SlowDisk : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    auto made = HeldFileSystem::create(disk_size);
    if (!made) GTEST_SKIP() << "no FUSE file system here: " << made.error().message();
    storage_ = std::move(*made);
    auto device = attach_loop_device(storage_->disk(), 0);
    if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
    device_ = std::move(*device);
    loop_ = Reactor::create().value();
    auto opened =
        RawFile::open(*loop_, {.path = device_.path, .direct = GetParam(), .engine = Engine::io_uring}, Log());
    ASSERT_TRUE(opened) << opened.error().message();
    disk_ = std::move(*opened);
  }
  void TearDown() override {
    if (!storage_) return;
    storage_->release();
    EXPECT_FALSE(storage_->gave_up()) << "a call on the loop has waited for the storage";
    disk_.reset();
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

INSTANTIATE_TEST_SUITE_P(Storage, SlowDisk, ::testing::Bool(),
                         [](const auto& direct) { return std::string(direct.param ? "direct" : "cached"); });

/// A process that has written to a disk through the page cache; it keeps the disk until it is killed.
pid_t start_writer(LoopDevice& device, std::size_t bytes) {
  std::array<int, 2> ready{};
  if (::pipe2(ready.data(), O_CLOEXEC) != 0) return -1;
  const UniqueFd theirs(ready[0]);
  UniqueFd ours(ready[1]);
  const pid_t pid = ::fork();
  if (pid == 0) {
    device.device.reset();
    auto image = open_image(device.path, false, false, Log());
    const std::vector<char> dirt(bytes, 'd');
    image->guard.reset();  // io_uring lets go of what is registered with it after everything else
    if (!image || ::pwrite(image->fd.get(), dirt.data(), dirt.size(), 0) != static_cast<ssize_t>(bytes)) ::_exit(1);
    static_cast<void>(!::write(ours.get(), "w", 1));
    while (true) ::pause();
  }
  ours.reset();
  char word = 0;
  return ::read(theirs.get(), &word, 1) == 1 ? pid : -1;
}

TEST(ADiskWhoseWriterWasKilled, IsClaimedOnceTheKernelHasWrittenWhatItLeft) {
  auto made = HeldFileSystem::create(disk_size);
  if (!made) GTEST_SKIP() << "no FUSE file system here: " << made.error().message();
  HeldFileSystem& storage = **made;
  auto device = attach_loop_device(storage.disk(), 0);
  if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
  const pid_t writer = start_writer(*device, 1 << 20);
  ASSERT_GT(writer, 0);
  device->device.reset();  // the last one that closes it waits for its pages
  storage.hold(Call::write);
  ::kill(writer, SIGKILL);
  while (storage.holding() == 0 && !storage.gave_up()) std::this_thread::yield();

  std::promise<std::string> said;
  std::atomic<bool> first{true};
  const Log log([&](Level level, std::string_view line) {
    if (level == Level::warning && first.exchange(false)) said.set_value(std::string(line));
  });
  const LockPatience patience{.running = Duration::zero(), .ended = std::chrono::seconds(600)};
  auto opened = std::async(std::launch::async, [&] {
    auto image = open_image(device->path, false, false, log, patience);
    if (first.exchange(false)) said.set_value(image ? "did not wait" : image.error().message());
    return image;
  });
  const std::string line = said.get_future().get();
  EXPECT_THAT(line, HasSubstr("waiting up to 600 s"));
  EXPECT_THAT(line, HasSubstr("the kernel is still writing what a process that has ended left"));
  storage.release();
  const auto image = opened.get();
  EXPECT_TRUE(image) << image.error().message();
  EXPECT_FALSE(storage.gave_up());
  EXPECT_EQ(::waitpid(writer, nullptr, 0), writer);
}

TEST(ADiskOf4096ByteBlocks, TakesRangesOfSectorsAndLosesNoWayOfDoingThemByIt) {
  const outboard::testing::TempDir dir;
  const UniqueFd file = dir.make_file("disk.raw", disk_size);
  const std::vector<char> old(disk_size, 'o');
  ASSERT_EQ(::pwrite(file.get(), old.data(), old.size(), 0), static_cast<ssize_t>(old.size()));
  auto device = attach_loop_device(dir.path("disk.raw"), 4096);
  if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
  for (const Engine engine : {Engine::io_uring, Engine::pool}) {
    auto loop = Reactor::create().value();
    auto disk = RawFile::open(*loop, {.path = device->path, .engine = engine}, Log()).value();
    EXPECT_EQ(disk->geometry().logical_block, 4096U);
    EXPECT_TRUE(disk->geometry().can_discard);
    const auto run = [&](auto&& start) {
      std::optional<int> result;
      start([&result](int error) { result = error; });
      disk->submit();
      while (!result && loop->run_once(std::chrono::seconds(1))) {
      }
      return result.value_or(-1);
    };
    const auto read = [&](std::uint64_t offset, std::size_t size) {
      std::string bytes(size, '?');
      const iovec piece{bytes.data(), bytes.size()};
      EXPECT_EQ(run([&](auto done) { disk->read(offset, std::span(&piece, 1), done); }), 0);
      return bytes;
    };
    EXPECT_EQ(run([&](auto done) { disk->discard(512, 512, done); }), 0) << "no whole block: nothing to do";
    EXPECT_EQ(run([&](auto done) { disk->discard(512, 4096, done); }), 0);
    EXPECT_EQ(read(0, 8192), std::string(8192, 'o'));
    for (const bool may_unmap : {false, true}) {
      const std::uint64_t at = (may_unmap ? 1 << 20 : 2 << 20) + 512;
      EXPECT_EQ(run([&](auto done) { disk->write_zeroes(at, 16384, may_unmap, done); }), 0);
      EXPECT_EQ(read(at - 512, 17408), std::string(512, 'o') + std::string(16384, '\0') + std::string(512, 'o'));
    }
    EXPECT_EQ(run([&](auto done) { disk->discard((4 << 20) + 512, 65536, done); }), 0);
    EXPECT_EQ(read(4 << 20, 4096), std::string(4096, 'o'));
    EXPECT_EQ(read((4 << 20) + 4096, 61440), std::string(61440, '\0')) << "discards still reach the disk";
    const iovec all{const_cast<char*>(old.data()), 8 << 20};
    ASSERT_EQ(run([&](auto done) { disk->write(0, std::span(&all, 1), done); }), 0);
  }
}

class ADiskThatIsClaimed : public ::testing::Test {
 protected:
  void SetUp() override {
    static_cast<void>(dir_.make_file("disk.raw", disk_size));
    auto device = attach_loop_device(dir_.path("disk.raw"), 0);
    if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
    device_ = std::move(*device);
    claim_ = UniqueFd(::open(device_.path.c_str(), O_RDWR | O_EXCL | O_CLOEXEC));
    ASSERT_TRUE(claim_);
  }
  outboard::testing::TempDir dir_;
  LoopDevice device_;
  UniqueFd claim_;
};

TEST_F(ADiskThatIsClaimed, IsRefusedToWritersAndNotToReaders) {
  const LockPatience none{.running = Duration::zero(), .ended = Duration::zero()};
  const auto writer = open_image(device_.path, false, false, Log(), none);
  ASSERT_FALSE(writer);
  EXPECT_EQ(writer.error().code(), EBUSY);
  EXPECT_THAT(writer.error().message(), HasSubstr("the block device is in use"));
  EXPECT_THAT(writer.error().cure(), HasSubstr("lsblk " + device_.path));
  EXPECT_TRUE(open_image(device_.path, true, false, Log(), none));
}

TEST_F(ADiskThatIsClaimed, IsAskedForMoreAndMoreSeldom) {
  std::vector<std::int64_t> pauses;
  LockPatience patience{.running = std::chrono::seconds(600), .ended = std::chrono::seconds(600)};
  patience.pause = [&pauses](Duration time) {
    pauses.push_back(std::chrono::duration_cast<std::chrono::milliseconds>(time).count());
    return pauses.size() < 7;
  };
  const auto image = open_image(device_.path, false, false, Log(), patience);
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().code(), ECANCELED);
  EXPECT_EQ(pauses, (std::vector<std::int64_t>{5, 10, 20, 40, 80, 100, 100}));
}

TEST_F(ADiskThatIsClaimed, IsOpenedOnceTheClaimIsGivenUp) {
  LockPatience patience{.running = std::chrono::seconds(600), .ended = std::chrono::seconds(600)};
  patience.pause = [this](Duration) {
    claim_.reset();
    return true;
  };
  EXPECT_TRUE(open_image(device_.path, false, false, Log(), patience));
}

TEST(ADiskThatIsReadAndWritten, IsKnownByItsDiskAndNotByItsName) {
  const outboard::testing::TempDir dir;
  static_cast<void>(dir.make_file("disk.raw", disk_size));
  const auto identity = [&](const std::string& path) {
    auto loop = Reactor::create().value();
    const auto disk = RawFile::open(*loop, {.path = path, .read_only = true, .engine = Engine::pool}, Log());
    EXPECT_TRUE(disk) << disk.error().message();
    return disk ? (*disk)->identity() : StorageIdentity{};
  };
  std::vector<StorageIdentity> seen;
  for (int i = 0; i < 2; ++i) {
    auto device = attach_loop_device(dir.path("disk.raw"), 0);
    if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
    ASSERT_EQ(::symlink(device->path.c_str(), dir.path("link").c_str()), 0);
    seen.push_back(identity(device->path));
    struct stat info{};
    ASSERT_EQ(::fstat(device->device.get(), &info), 0);
    EXPECT_EQ(seen.back().device, info.st_rdev);
    EXPECT_TRUE(check_same_storage(seen.back(), identity(dir.path("link"))));
    ASSERT_EQ(::unlink(dir.path("link").c_str()), 0);
    EXPECT_THAT(seen.back().id, ::testing::MatchesRegex(fmt::format("block device {}:{}, disk [1-9][0-9]*",
                                                                    major(info.st_rdev), minor(info.st_rdev))));
  }
  EXPECT_NE(seen[0].id, seen[1].id) << "another disk, though perhaps of the same number";
}

TEST(ADiskOf4096ByteBlocks, KeepsEverySectorThatQueuesWriteAtOnceByODirect) {
  const outboard::testing::TempDir dir;
  static_cast<void>(dir.make_file("disk.raw", disk_size));
  auto device = attach_loop_device(dir.path("disk.raw"), 4096);
  if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
  constexpr std::size_t sectors = 512;
  for (const Engine engine : {Engine::io_uring, Engine::pool}) {
    auto loop = Reactor::create().value();
    auto disk = RawFile::open(*loop, {.path = device->path, .direct = true, .engine = engine}, Log()).value();
    ASSERT_THAT(disk->description(), HasSubstr("O_DIRECT"));
    auto other = disk->share(*loop).value();
    for (unsigned round = 0; round < 20; ++round) {
      std::string bytes;
      for (std::size_t i = 0; i < sectors; ++i)
        bytes += std::string(512, static_cast<char>('A' + (i * 7 + round) % 57));
      std::size_t ended = 0;
      std::vector<iovec> pieces;
      for (std::size_t i = 0; i < sectors; ++i) pieces.push_back({bytes.data() + i * 512, 512});
      for (std::size_t i = 0; i < sectors; ++i) {
        Backend& queue = i % 2 == 0 ? *disk : *other;
        queue.write(i * 512, std::span(&pieces[i], 1), [&ended](int error) { ended += error == 0 ? 1U : 0U; });
      }
      disk->submit();
      other->submit();
      while (ended != sectors) ASSERT_TRUE(loop->run_once(std::chrono::seconds(10)));
      std::string back(bytes.size(), '?');
      const iovec all{back.data(), back.size()};
      std::optional<int> result;
      disk->read(0, std::span(&all, 1), [&result](int error) { result = error; });
      disk->submit();
      while (!result) ASSERT_TRUE(loop->run_once(std::chrono::seconds(10)));
      ASSERT_EQ(*result, 0);
      ASSERT_TRUE(back == bytes) << "round " << round;
    }
  }
}

/// What an engine runs writes into memory of whoever started it.
class AnEngineThatGoes : public ::testing::TestWithParam<Engine>, public FileEngine::Client {
 protected:
  void ended(FileOp& /*op*/) override { ++ended_; }

  /// Whether a thread of this process waits in the kernel.
  static bool waits(pid_t thread, long call) {
    std::string text;
    std::getline(std::ifstream(fmt::format("/proc/self/task/{}/syscall", thread)) >> std::ws, text);
    return text.starts_with(std::to_string(call) + " ");
  }

  unsigned ended_ = 0;
};

TEST_P(AnEngineThatGoes, WaitsForWhatRuns) {
  auto made = HeldFileSystem::create(disk_size);
  if (!made) GTEST_SKIP() << "no FUSE file system here: " << made.error().message();
  HeldFileSystem& storage = **made;
  const UniqueFd file(::open(storage.disk().c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(::pwrite(file.get(), "late", 4, 0), 4);
  auto loop = Reactor::create().value();
  std::unique_ptr<FileEngine> engine;
  const SubmissionRule rule = submission_for(file.get());
  if (GetParam() == Engine::io_uring) {
    engine = UringEngine::create(*loop, *this, file.get(), -1, rule).value();
  } else {
    engine = PoolEngine::create(*loop, *this, file.get(), -1, 1).value();
  }
  std::array<char, 4> bytes{};
  const iovec piece{bytes.data(), bytes.size()};
  FileOp op{.kind = FileOp::Kind::read, .pieces = &piece, .piece_count = 1};
  storage.hold(Call::read);
  engine->start(op);
  engine->submit();
  while (storage.holding() == 0 && !storage.gave_up()) std::this_thread::yield();

  // It is let go once this thread waits: for the read, in the destructor.
  std::atomic<bool> gone{false};
  const pid_t self = static_cast<pid_t>(::syscall(SYS_gettid));
  const long call = GetParam() == Engine::io_uring ? SYS_io_uring_enter : SYS_futex;
  std::thread releaser([&] {
    while (!gone && !waits(self, call)) std::this_thread::yield();
    EXPECT_FALSE(gone) << "the engine has not waited";
    storage.release();
  });
  engine.reset();
  gone = true;
  EXPECT_EQ(std::string(bytes.data(), 4), "late") << "the read has not ended";
  releaser.join();
  EXPECT_EQ(ended_, 0U) << "nobody is told any more";
  EXPECT_EQ(*rule.begun, 0U) << "nothing of it is with the device";
}

INSTANTIATE_TEST_SUITE_P(Storage, AnEngineThatGoes, ::testing::Values(Engine::io_uring, Engine::pool),
                         [](const auto& engine) {
                           return std::string(engine.param == Engine::pool ? "pool" : "io_uring");
                         });

}  // namespace
}  // namespace outboard::storage
