// Storage that takes its time: no call of a back end may wait for it, and no engine may be gone before what it runs has ended.

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <outboard/storage/internal/pool_engine.hpp>
#include <outboard/storage/internal/uring_engine.hpp>
#include <outboard/storage/slow_rig_test.hpp>
#include <tests/support/denied_calls.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::storage {
namespace {

constexpr std::uint64_t disk_size = UINT64_C(16) << 20;

struct How {
  const char* name;
  Engine engine;
  bool direct;
};

class SlowStorage : public OnSlowStorage<How> {
 protected:
  void SetUp() override {
    make_storage(disk_size);
    if (!IsSkipped()) open({.path = storage_->disk(), .direct = GetParam().direct, .engine = GetParam().engine});
  }
  /// Until a call is being held; the loop runs meanwhile.
  void wait_until_held() {
    while (storage_->holding() == 0 && !storage_->gave_up()) run_loop();
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

  /// While all threads that this one may have are with the storage.
  void open_and_close_others() {
    const outboard::testing::TempDir dir;
    dir.make_file("other", 1 << 20);
    auto other = RawFile::open(*loop_, {.path = dir.path("other")}, Log());
    ASSERT_TRUE(other) << other.error().message();
    ASSERT_TRUE((*other)->share(*loop_));
    ASSERT_TRUE(disk_->share(*loop_));
    (*other)->read(0, std::span(&piece_, 1), [](int) {});  // prepared, and never entered
  }

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
    unsigned max_seen = 0;
    for (int turn = 0; turn < 200; ++turn) {
      run_loop();
      max_seen = std::max(max_seen, threads_of_this_process());
    }
    EXPECT_LE(max_seen, before + max_threads);
    EXPECT_EQ(ended, 0U);
    open_and_close_others();
    EXPECT_FALSE(storage_->gave_up()) << "another disk's requests were waited for";
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
  if (GetParam() == Engine::io_uring) {
    auto uring = UringEngine::create(*loop, *this, file.get(), -1).value();
    ASSERT_TRUE(uring->wait_for_workers(std::chrono::seconds(60)));
    engine = std::move(uring);
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
}

INSTANTIATE_TEST_SUITE_P(Storage, AnEngineThatGoes, ::testing::Values(Engine::io_uring, Engine::pool),
                         [](const auto& engine) {
                           return std::string(engine.param == Engine::pool ? "pool" : "io_uring");
                         });

}  // namespace
}  // namespace outboard::storage
