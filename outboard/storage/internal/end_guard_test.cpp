// Writes beyond the end of a file that has become shorter, and beyond what this process may write.

#include <outboard/storage/internal/end_guard.hpp>

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/storage/raw_file.hpp>
#include <outboard/testing/fake_clock.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::storage {
namespace {

constexpr std::uint64_t size = 65536;

struct Kind {
  const char* name;
  Engine engine;
  bool direct;
};

class EndOfAnImage : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    file_ = dir_.make_file("disk.raw", size);
    open();
  }
  void open() {
    loop_ = Reactor::create({.clock = &clock_}).value();
    const Log log([this](Level level, std::string_view line) {
      if (level != Level::info) lines_.emplace_back(line);
    });
    disk_ = RawFile::open(
                *loop_, {.path = dir_.path("disk.raw"), .direct = GetParam().direct, .engine = GetParam().engine}, log)
                .value();
  }
  void truncate(std::uint64_t to) const { ASSERT_EQ(::ftruncate(file_.get(), static_cast<off_t>(to)), 0); }
  std::uint64_t file_size() const {
    struct stat info{};
    EXPECT_EQ(::fstat(file_.get(), &info), 0);
    return static_cast<std::uint64_t>(info.st_size);
  }

  int write(std::uint64_t offset, std::size_t length = 4096) {
    const iovec piece{bytes_.data(), length};
    return run([&](auto done) { disk_->write(offset, std::span(&piece, 1), done); });
  }
  template <typename Start>
  int run(Start&& start) {
    std::optional<int> result;
    start([&result](int error) { result = error; });
    disk_->submit();
    while (!result && loop_->run_once(std::chrono::seconds(1))) {
    }
    return result.value_or(-1);
  }
  void after_a_second() { clock_.advance(EndGuard::look_interval); }

  outboard::testing::TempDir dir_;
  outboard::testing::FakeClock clock_;
  UniqueFd file_;
  alignas(4096) std::array<std::byte, 8192> bytes_{};
  std::unique_ptr<Reactor> loop_;
  std::unique_ptr<RawFile> disk_;
  std::vector<std::string> lines_;
};

TEST_P(EndOfAnImage, IsLoggedWhenItHasMovedAndNotBefore) {
  EXPECT_EQ(write(0), 0);
  EXPECT_EQ(lines_, std::vector<std::string>{});
  truncate(32768);
  for (int i = 0; i < 2; ++i) {
    after_a_second();
    EXPECT_EQ(write(0), 0);
    EXPECT_EQ(lines_, std::vector<std::string>{dir_.path("disk.raw") +
                                               ": was shortened to 32768 bytes: writes beyond fail until it has "
                                               "65536 again"});
  }
}

TEST_P(EndOfAnImage, ThatWasShortenedIsNotMovedByAWrite) {
  truncate(32768);
  EXPECT_EQ(write(32768), EIO);
  EXPECT_EQ(write(size - 4096), EIO);
  EXPECT_EQ(write(32768 - 4096, 8192), EIO) << "half of it lies beyond";
  EXPECT_EQ(write(32768 - 4096), 0);
  EXPECT_EQ(file_size(), 32768U);
}

TEST_P(EndOfAnImage, ThatIsShortenedBetweenWritesIsNoticedAfterASecond) {
  EXPECT_EQ(write(0), 0);
  truncate(32768);
  after_a_second();
  EXPECT_EQ(write(32768), EIO);
  EXPECT_EQ(file_size(), 32768U);
}

TEST_P(EndOfAnImage, ThatWasMendedIsWrittenAgain) {
  truncate(32768);
  EXPECT_EQ(write(size - 4096), EIO);
  truncate(size);
  after_a_second();
  EXPECT_EQ(write(size - 4096), 0);
}

// A device that refuses to become smaller under its driver goes on with writes beyond the end.
TEST_P(EndOfAnImage, ThatWasShortenedIsNotMovedAfterItsSizeWasLookedAt) {
  EXPECT_EQ(write(0), 0);
  truncate(32768);
  std::optional<Result<std::uint64_t>> looked;
  disk_->measure([&looked](const Result<std::uint64_t>& capacity) { looked = capacity; });
  while (!looked) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
  EXPECT_EQ(*looked, 32768U);
  after_a_second();
  EXPECT_EQ(write(size - 4096), EIO);
  EXPECT_EQ(file_size(), 32768U);
}

TEST_P(EndOfAnImage, ThatHasGrownIsWrittenAtOnceWhereItIsNew) {
  EXPECT_EQ(write(0), 0);
  truncate(2 * size);
  EXPECT_EQ(write(2 * size - 4096), 0);
}

TEST_P(EndOfAnImage, ThatWasShortenedIsNotZeroedBeyond) {
  truncate(32768);
  for (const bool may_unmap : {false, true}) {
    EXPECT_EQ(run([&](auto done) { disk_->write_zeroes(32768, 4096, may_unmap, done); }), EIO);
    EXPECT_EQ(run([&](auto done) { disk_->write_zeroes(0, 4096, may_unmap, done); }), 0);
  }
  EXPECT_EQ(file_size(), 32768U);
}

TEST_P(EndOfAnImage, WritesThatComeTogetherAreAllChecked) {
  truncate(32768);
  std::vector<int> results;
  const iovec piece{bytes_.data(), 4096};
  for (const std::uint64_t offset : {0U, 32768U, 4096U, 40960U})
    disk_->write(offset, std::span(&piece, 1), [&results](int error) { results.push_back(error); });
  disk_->submit();
  while (results.size() < 4) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
  EXPECT_EQ(std::ranges::count(results, 0), 2);
  EXPECT_EQ(std::ranges::count(results, EIO), 2);
  EXPECT_EQ(file_size(), 32768U);
}

TEST_P(EndOfAnImage, IsWaitedForWhenTheBackEndIsDestroyed) {
  const iovec piece{bytes_.data(), 4096};
  bool told = false;
  disk_->write(0, std::span(&piece, 1), [&told](int) { told = true; });
  disk_->submit();
  const bool before = told;  // it may have ended at once
  disk_.reset();
  EXPECT_EQ(told, before);
}

TEST_P(EndOfAnImage, BeyondWhatTheProcessMayWriteIsAnErrorAndNoSignal) {
  disk_.reset();
  loop_.reset();
  const int child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_DFL);
    const rlimit limit{16384, RLIM_INFINITY};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(1);
    open();
    if (write(16384) != EFBIG) ::_exit(2);
    if (write(16384 - 4096, 8192) != EFBIG) ::_exit(3);
    if (write(0) != 0) ::_exit(4);
    // Raised while it runs.
    const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
    if (::setrlimit(RLIMIT_FSIZE, &none) != 0) ::_exit(5);
    after_a_second();
    ::_exit(write(16384) == 0 ? 0 : 6);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

INSTANTIATE_TEST_SUITE_P(Storage, EndOfAnImage,
                         ::testing::Values(Kind{"Automatic", Engine::automatic, false},
                                           Kind{"AutomaticDirect", Engine::automatic, true},
                                           Kind{"Pool", Engine::pool, false}, Kind{"PoolDirect", Engine::pool, true}),
                         [](const auto& tested) { return std::string(tested.param.name); });

}  // namespace
}  // namespace outboard::storage
