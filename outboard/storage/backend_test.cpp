// Rules that every back end keeps, on every engine.

#include <algorithm>
#include <array>
#include <new>
#include <numeric>
#include <optional>
#include <random>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/storage/internal/pool_engine.hpp>
#include <outboard/storage/internal/uring_engine.hpp>
#include <outboard/storage/null.hpp>
#include <outboard/storage/ram.hpp>
#include <outboard/storage/raw_file.hpp>
#include <tests/support/faulty_engine.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::storage {
namespace {

constexpr std::uint64_t disk_size = 1 << 20;

struct Kind {
  const char* name;
  std::optional<Engine> engine{};  // a file
  bool direct = false;
  bool keeps = true;               // what is written can be read
  bool difficult = false;          // the engine ends operations short, late, out of order, interrupted
};

/// Bytes that begin where O_DIRECT takes them.
template <typename T>
struct PageAligned {
  using value_type = T;
  static constexpr std::align_val_t alignment{4096};
  T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), alignment)); }
  void deallocate(T* at, std::size_t) { ::operator delete(at, alignment); }
  friend bool operator==(const PageAligned&, const PageAligned&) { return true; }
};
using AlignedBytes = std::vector<std::byte, PageAligned<std::byte>>;

/// Passes operations on to the engine of the kind, and counts those that go by O_DIRECT and those that do not.
class CountingEngine final : public FileEngine {
 public:
  struct Counts {
    unsigned direct = 0;
    unsigned cached = 0;
  };
  CountingEngine(std::unique_ptr<FileEngine> engine, Counts& counts) : engine_(std::move(engine)), counts_(counts) {}
  std::string name() const override { return engine_->name(); }
  void start(FileOp& op) override {
    if (op.kind == FileOp::Kind::read || op.kind == FileOp::Kind::write)
      ++(op.direct ? counts_.direct : counts_.cached);
    engine_->start(op);
  }
  void submit() override { engine_->submit(); }
  bool poll() override { return engine_->poll(); }

 private:
  std::unique_ptr<FileEngine> engine_;
  Counts& counts_;
};

class EveryBackend : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    auto reactor = Reactor::create();
    ASSERT_TRUE(reactor);
    loop_ = std::move(*reactor);
    if (GetParam().engine) static_cast<void>(dir_.make_file("disk.raw", disk_size));
    if (GetParam().direct) {
      const UniqueFd file(::open(dir_.path("disk.raw").c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
      if (!file)
        GTEST_SKIP() << "the file system of " << dir_.path() << " does not do O_DIRECT (TMPDIR chooses another)";
    }
    storage_.be_difficult(1);
    disk_ = open(false);
    ASSERT_TRUE(disk_);
  }

  /// The engine of the kind.
  EngineFactory make_engine() {
    if (GetParam().difficult) return storage_.factory();
    return [this](Loop& loop, FileEngine::Client& client, int fd, int direct) -> Result<std::unique_ptr<FileEngine>> {
      std::unique_ptr<FileEngine> engine;
      if (GetParam().engine == Engine::pool) {
        OUTBOARD_TRY(engine, PoolEngine::create(loop, client, fd, direct, 4));
      } else {
        OUTBOARD_TRY(engine, UringEngine::create(loop, client, fd, direct));
      }
      return std::make_unique<CountingEngine>(std::move(engine), counts_);
    };
  }

  std::unique_ptr<Backend> open(bool read_only) {
    const auto checked = [](auto opened) -> std::unique_ptr<Backend> {
      EXPECT_TRUE(opened) << opened.error().message();
      return opened ? std::move(*opened) : nullptr;
    };
    if (GetParam().engine) {
      return checked(RawFile::open(*loop_,
                                   {.path = dir_.path("disk.raw"),
                                    .read_only = read_only,
                                    .direct = GetParam().direct,
                                    .engine = *GetParam().engine,
                                    .make_engine = make_engine()},
                                   Log()));
    }
    if (GetParam().keeps) return checked(Ram::create(disk_size, read_only));
    return checked(Null::create(disk_size, read_only));
  }

  bool keeps() const { return GetParam().keeps; }

  /// Starts an operation, runs the loop until it has completed, and gives its errno.
  template <typename Start>
  int run(Start&& start) {
    std::optional<int> result;
    start([&result](int error) {
      EXPECT_FALSE(result) << "completed twice";
      result = error;
    });
    disk_->submit();
    pump([&] { return result.has_value(); });
    return result.value_or(-1);
  }
  template <typename Done>
  void pump(Done&& done) {
    for (int i = 0; i < 10000 && !done(); ++i) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
    EXPECT_TRUE(done());
  }

  int read(std::uint64_t offset, std::span<const iovec> pieces) {
    return run([&](auto done) { disk_->read(offset, pieces, done); });
  }
  int write(std::uint64_t offset, std::span<const iovec> pieces) {
    return run([&](auto done) { disk_->write(offset, pieces, done); });
  }
  AlignedBytes read(std::uint64_t offset, std::size_t size) {
    AlignedBytes bytes(size, std::byte{0xee});
    const iovec piece{bytes.data(), bytes.size()};
    EXPECT_EQ(read(offset, std::span(&piece, 1)), 0);
    return bytes;
  }
  int write(std::uint64_t offset, AlignedBytes bytes) {
    const iovec piece{bytes.data(), bytes.size()};
    return write(offset, std::span(&piece, 1));
  }
  int write_zeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap) {
    return run([&](auto done) { disk_->write_zeroes(offset, length, may_unmap, done); });
  }

  static AlignedBytes pattern(std::size_t size, unsigned seed = 1) {
    AlignedBytes bytes(size);
    std::minstd_rand random(seed);
    std::ranges::generate(bytes, [&] { return static_cast<std::byte>(random()); });
    return bytes;
  }
  static AlignedBytes zeros(std::size_t size) { return AlignedBytes(size); }

  outboard::testing::TempDir dir_;
  outboard::testing::FaultyStorage storage_;
  CountingEngine::Counts counts_;
  std::unique_ptr<Reactor> loop_;
  std::unique_ptr<Backend> disk_;
};

TEST_P(EveryBackend, SaysItsSize) {
  EXPECT_EQ(disk_->geometry().capacity, disk_size);
  EXPECT_FALSE(disk_->geometry().read_only);
}

TEST_P(EveryBackend, ANewDiskReadsZeros) { EXPECT_EQ(read(512, 4096), zeros(4096)); }

TEST_P(EveryBackend, ReadsWhatWasWritten) {
  const auto bytes = pattern(8192);
  ASSERT_EQ(write(1024, bytes), 0);
  EXPECT_EQ(read(1024, 8192), keeps() ? bytes : zeros(8192));
  EXPECT_EQ(read(512, 512), zeros(512));
}

TEST_P(EveryBackend, ReachesTheLastSector) {
  const auto bytes = pattern(512);
  ASSERT_EQ(write(disk_size - 512, bytes), 0);
  EXPECT_EQ(read(disk_size - 512, 512), keeps() ? bytes : zeros(512));
}

TEST_P(EveryBackend, TakesPiecesOfAnySizeAndAlignment) {
  auto bytes = pattern(4096);
  const std::array pieces = {iovec{bytes.data(), 1}, iovec{bytes.data() + 1, 0}, iovec{bytes.data() + 1, 511},
                             iovec{bytes.data() + 512, 3584}};
  ASSERT_EQ(write(0, pieces), 0);
  AlignedBytes back(4097, std::byte{0xee});
  const std::array into = {iovec{back.data() + 1, 3000}, iovec{back.data() + 3001, 1096}};
  ASSERT_EQ(read(0, into), 0);
  EXPECT_EQ(AlignedBytes(back.begin() + 1, back.end()), keeps() ? bytes : zeros(4096));
  EXPECT_EQ(back[0], std::byte{0xee});
}

TEST_P(EveryBackend, TakesMorePiecesThanOneSystemCallDoes) {
  auto bytes = pattern(2048 * 128);
  std::vector<iovec> pieces;
  for (std::size_t i = 0; i < 2048; ++i) pieces.push_back({bytes.data() + i * 128, 128});
  ASSERT_EQ(write(0, pieces), 0);
  const auto written = bytes;
  std::ranges::fill(bytes, std::byte{0xee});
  ASSERT_EQ(read(0, pieces), 0);
  EXPECT_EQ(bytes, keeps() ? written : zeros(bytes.size()));
}

TEST_P(EveryBackend, NothingToTransferIsDone) {
  EXPECT_EQ(read(0, std::span<const iovec>()), 0);
  EXPECT_EQ(write(0, std::span<const iovec>()), 0);
}

TEST_P(EveryBackend, FlushSucceeds) {
  ASSERT_EQ(write(0, pattern(512)), 0);
  EXPECT_EQ(run([&](auto done) { disk_->flush(done); }), 0);
}

TEST_P(EveryBackend, WriteZeroesReadsZeroWithAndWithoutUnmap) {
  for (const bool may_unmap : {false, true}) {
    ASSERT_EQ(write(0, pattern(65536)), 0);
    ASSERT_EQ(write_zeroes(512, 40960, may_unmap), 0);
    EXPECT_EQ(read(512, 40960), zeros(40960));
    if (keeps()) {
      EXPECT_NE(read(0, 512), zeros(512));
      EXPECT_NE(read(512 + 40960, 512), zeros(512));
    }
  }
}

TEST_P(EveryBackend, DiscardSucceedsAndLeavesItsNeighbours) {
  const auto bytes = pattern(65536);
  ASSERT_EQ(write(0, bytes), 0);
  ASSERT_EQ(run([&](auto done) { disk_->discard(8192, 16384, done); }), 0);
  if (!keeps()) return;
  EXPECT_EQ(read(0, 8192), AlignedBytes(bytes.begin(), bytes.begin() + 8192));
  EXPECT_EQ(read(24576, 40960), AlignedBytes(bytes.begin() + 24576, bytes.end()));
}

TEST_P(EveryBackend, ManyOperationsAtOnceAllComplete) {
  constexpr std::size_t count = 600;  // more than the submission ring has
  auto bytes = pattern(count * 512);
  std::vector<iovec> pieces;
  for (std::size_t i = 0; i < count; ++i) pieces.push_back({bytes.data() + i * 512, 512});
  std::size_t completed = 0;
  for (std::size_t i = 0; i < count; ++i) {
    disk_->write(i * 512, std::span(&pieces[i], 1), [&](int error) {
      EXPECT_EQ(error, 0);
      ++completed;
    });
  }
  disk_->submit();
  pump([&] { return completed == count; });
  EXPECT_EQ(read(0, bytes.size()), keeps() ? bytes : zeros(bytes.size()));
}

TEST_P(EveryBackend, ACompletionMayStartTheNextOperation) {
  AlignedBytes bytes = pattern(512);
  const iovec piece{bytes.data(), bytes.size()};
  int left = 50;
  std::function<void(int)> next = [&](int error) {
    EXPECT_EQ(error, 0);
    if (--left > 0) disk_->write(static_cast<std::uint64_t>(left) * 512, std::span(&piece, 1), next);
    disk_->submit();
  };
  disk_->write(0, std::span(&piece, 1), next);
  disk_->submit();
  pump([&] { return left == 0; });
}

TEST_P(EveryBackend, ReadOnlyRefusesWhatChangesIt) {
  disk_.reset();
  disk_ = open(true);
  ASSERT_TRUE(disk_);
  EXPECT_TRUE(disk_->geometry().read_only);
  EXPECT_EQ(write(0, pattern(512)), EROFS);
  EXPECT_EQ(write_zeroes(0, 512, true), EROFS);
  EXPECT_EQ(run([&](auto done) { disk_->discard(0, 512, done); }), EROFS);
  EXPECT_EQ(run([&](auto done) { disk_->flush(done); }), 0);
  EXPECT_EQ(read(0, 512), zeros(512));
}

TEST_P(EveryBackend, ASharedOneReachesTheSameBytesOnAnotherLoop) {
  const auto bytes = pattern(4096);
  ASSERT_EQ(write(0, bytes), 0);
  auto other_loop = Reactor::create();
  ASSERT_TRUE(other_loop);
  auto other = disk_->share(**other_loop);
  ASSERT_TRUE(other) << other.error().message();
  EXPECT_EQ((*other)->geometry().capacity, disk_size);
  loop_.swap(*other_loop);
  disk_.swap(*other);
  EXPECT_EQ(read(0, 4096), keeps() ? bytes : zeros(4096));
  loop_.swap(*other_loop);
  disk_.swap(*other);
}

TEST_P(EveryBackend, DestroyingItWaitsForWhatRunsAndCallsNobody) {
  AlignedBytes bytes(65536);
  const iovec piece{bytes.data(), bytes.size()};
  unsigned called = 0;
  for (int i = 0; i < 8; ++i) disk_->read(0, std::span(&piece, 1), [&](int) { ++called; });
  disk_->submit();
  const unsigned before = called;
  disk_.reset();
  EXPECT_EQ(called, before);
}

TEST_P(EveryBackend, CompletionsCanBeFetchedWithoutTheLoop) {
  const auto bytes = pattern(4096);
  const iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
  std::optional<int> result;
  bool told_of = false;
  disk_->write(4096, std::span(&piece, 1), [&](int error) { result = error; });
  if (!result) {
    disk_->submit();
    told_of = result.has_value();
    // Nobody runs the loop: only poll() can tell.
    while (!result) told_of = disk_->poll();
    EXPECT_TRUE(told_of) << "poll() says when there was something";
  }
  EXPECT_EQ(*result, 0);
  EXPECT_FALSE(disk_->poll()) << "and when there was nothing";
  EXPECT_EQ(read(4096, 4096), keeps() ? bytes : zeros(4096));
}

class EveryEngine : public EveryBackend {};

TEST_P(EveryEngine, EveryTransferGoesByODirectWhereItIsAskedFor) {
  const auto bytes = pattern(16384);
  ASSERT_EQ(write(4096, bytes), 0);
  EXPECT_EQ(read(4096, 16384), bytes);
  EXPECT_EQ(counts_.direct, GetParam().direct ? 2U : 0U) << "aligned ones as they are";
  auto odd = pattern(4096 + 1, 2);
  const std::array pieces = {iovec{odd.data() + 1, 448}, iovec{odd.data() + 449, 3648}};
  ASSERT_EQ(write(512, pieces), 0);
  const AlignedBytes written(odd.begin() + 1, odd.end());
  std::ranges::fill(odd, std::byte{0xee});
  ASSERT_EQ(read(512, pieces), 0);
  EXPECT_EQ(AlignedBytes(odd.begin() + 1, odd.end()), written);
  EXPECT_EQ(read(512, 4096), written);
  ASSERT_EQ(write_zeroes(1024, 1024, false), 0);
  EXPECT_EQ(read(1024, 1024), zeros(1024));
  EXPECT_EQ(GetParam().direct ? counts_.cached : counts_.direct, 0U);
}

INSTANTIATE_TEST_SUITE_P(Storage, EveryBackend,
                         ::testing::Values(Kind{"null", {}, false, false}, Kind{"ram"},
                                           Kind{"file_io_uring", Engine::io_uring}, Kind{"file_pool", Engine::pool},
                                           Kind{"file_io_uring_direct", Engine::io_uring, true},
                                           Kind{"file_pool_direct", Engine::pool, true},
                                           Kind{"file_difficult", Engine::automatic, false, true, true},
                                           Kind{"file_difficult_direct", Engine::automatic, true, true, true}),
                         [](const auto& kind) { return std::string(kind.param.name); });

INSTANTIATE_TEST_SUITE_P(Storage, EveryEngine,
                         ::testing::Values(Kind{"io_uring", Engine::io_uring}, Kind{"pool", Engine::pool},
                                           Kind{"io_uring_direct", Engine::io_uring, true},
                                           Kind{"pool_direct", Engine::pool, true}),
                         [](const auto& kind) { return std::string(kind.param.name); });

TEST(Sizes, MustBeWholeSectors) {
  for (const std::uint64_t size : {UINT64_C(0), UINT64_C(511), UINT64_C(1000)}) {
    EXPECT_EQ(Null::create(size).error().code(), EINVAL);
    EXPECT_EQ(Ram::create(size).error().code(), EINVAL);
  }
}

TEST(Sizes, ARamDiskBeyondTheAddressSpaceIsAnError) { EXPECT_FALSE(Ram::create(UINT64_C(1) << 62)); }

}  // namespace
}  // namespace outboard::storage
