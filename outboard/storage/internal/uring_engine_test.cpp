// What an engine takes of the ring and of a device's queue, and where it has the kernel begin an operation.

#include <outboard/storage/internal/uring_engine.hpp>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/testing/fake_clock.hpp>
#include <tests/support/denied_calls.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::storage {
namespace {

/// Whether the kernel has made threads for what the calling thread has submitted: they carry its number, and one of them stays as long
/// as it does.
bool has_workers() {
  const std::string wanted = fmt::format("iou-wrk-{}", ::syscall(SYS_gettid));
  return std::ranges::any_of(std::filesystem::directory_iterator("/proc/self/task"), [&wanted](const auto& task) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm"), name);
    return name == wanted;
  });
}

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

class AnEngine : public ::testing::Test, public FileEngine::Client {
 protected:
  void SetUp() override {
    if (const auto permitted = probe_io_uring(); !permitted) GTEST_SKIP() << permitted.error().message();
    ASSERT_EQ(::pwrite(file_.get(), bytes_.data(), bytes_.size(), 0), static_cast<ssize_t>(bytes_.size()));
  }
  void ended(FileOp& op) override {
    EXPECT_GT(op.result, 0);
    ended_.push_back(&op);
    if (then_) then_();
  }
  void no_worker(const Error& why) override {
    EXPECT_FALSE(why.cure().empty());
    ++told_of_no_worker_;
  }
  /// Operations that are not `direct` are done on `fd`.
  void make_engine(const UniqueFd& fd, const UniqueFd& direct) {
    engine_ = UringEngine::create(*loop_, *this, fd.get(), direct.get()).value();
  }
  FileOp read_of(bool direct, std::uint64_t offset = 0) const {
    return {.kind = FileOp::Kind::read, .direct = direct, .offset = offset, .pieces = &piece_, .piece_count = 1};
  }
  void wait_for(std::size_t count) {
    while (ended_.size() < count) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(60)).value_or(false)) << "lost";
  }
  /// Reads in a new thread, and returns whether the kernel has begun that in the call that submits it.
  bool begins_here(FileOp op) {
    bool here = false;
    std::thread([&] {
      const std::size_t before = ended_.size();
      engine_->start(op);
      engine_->submit();
      while (ended_.size() == before) engine_->poll();
      here = !has_workers();
    }).join();
    return here;
  }
  outboard::testing::TempDir dir_;
  UniqueFd file_{dir_.make_file("disk.raw", 65536)};
  outboard::testing::FakeClock clock_;
  std::unique_ptr<Reactor> loop_ = Reactor::create({.clock = &clock_}).value();
  std::array<char, 4096> bytes_{};
  iovec piece_{bytes_.data(), bytes_.size()};
  std::vector<FileOp*> ended_;
  unsigned told_of_no_worker_ = 0;
  std::function<void()> then_;
  std::unique_ptr<FileEngine> engine_;
};

TEST_F(AnEngine, GivenMoreThanItsRingTakesDoesAllOfIt) {
  make_engine(file_, file_);
  std::vector<FileOp> ops(1000, read_of(true));
  std::vector<FileOp*> started;
  for (FileOp& op : ops) {
    engine_->start(op);
    started.push_back(&op);
  }
  FileOp last = read_of(true);  // when there is room again, but others wait for it
  then_ = [&] {
    if (ended_.size() == 1) engine_->start(last);
  };
  started.push_back(&last);
  engine_->submit();
  wait_for(started.size());
  EXPECT_THAT(ended_, ::testing::UnorderedElementsAreArray(started));
}

TEST_F(AnEngine, WhoseClientCallsItFromACompletionTellsOfTheNextOneAfterThat) {
  make_engine(file_, file_);
  std::vector<FileOp> ops(3, read_of(true));
  for (FileOp& op : ops) engine_->start(op);
  bool inside = false;
  then_ = [&] {
    EXPECT_FALSE(std::exchange(inside, true));
    EXPECT_FALSE(engine_->poll());
    engine_->submit();
    inside = false;
  };
  engine_->submit();
  wait_for(ops.size());
}

TEST_F(AnEngine, IsGivenMoreFromACompletionWithoutBeingToldToSubmit) {
  make_engine(file_, file_);
  FileOp first = read_of(true);
  FileOp second = read_of(true);
  then_ = [&] {
    if (ended_.size() == 1) engine_->start(second);
  };
  engine_->start(first);
  engine_->submit();
  wait_for(2);
}

TEST_F(AnEngine, ThatGoesStartsNothingAndLeavesNoDescriptor) {
  const std::size_t before = open_descriptors();
  make_engine(file_, file_);
  EXPECT_GT(open_descriptors(), before);
  FileOp op = read_of(true);
  engine_->start(op);
  engine_.reset();
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_TRUE(ended_.empty());
}

// The kernel may wait where it is submitted, whatever it is told: for room in a queue, a lock of a discard's, a network.
TEST_F(AnEngine, HasAllBegunByTheKernelsThreads) {
  make_engine(file_, file_);
  for (const bool direct : {false, true}) EXPECT_FALSE(begins_here(read_of(direct))) << direct;
}

/// Runs `body` on a thread for which the kernel makes no thread until it calls the function that it is given.
void without_threads(const std::function<void(const std::function<void()>&)>& body) {
  std::thread([&body] {
    // The limit does not bind root. By system call, since the C library would change the whole process.
    constexpr unsigned somebody = 64123;
    if (::geteuid() == 0) {
      ASSERT_EQ(::syscall(SYS_setresuid, somebody, somebody, somebody), 0);
    }
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NPROC, &before), 0);
    const rlimit itself{.rlim_cur = 1, .rlim_max = before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NPROC, &itself), 0);
    const auto allow = [&before] { EXPECT_EQ(::setrlimit(RLIMIT_NPROC, &before), 0); };
    body(allow);
    allow();
  }).join();
}

TEST_F(AnEngine, ThatIsAllowedNoThreadWaitsForOne) {
  make_engine(file_, file_);
  without_threads([this](const std::function<void()>& allow) {
    FileOp op = read_of(false);
    engine_->start(op);
    for (int attempt = 0; attempt < 3; ++attempt) {  // it is told of the first, and tries again after a while
      engine_->submit();
      while (loop_->run_once(std::chrono::milliseconds(100)).value_or(false)) {
      }
      EXPECT_TRUE(ended_.empty()) << "it has failed";
      clock_.advance(std::chrono::seconds(1));
    }
    EXPECT_EQ(told_of_no_worker_, 1U);
    allow();
    wait_for(1);
  });
}

TEST_F(AnEngine, SaysAtTheStartThatItMayHaveNoThread) {
  const auto engine = UringEngine::create(*loop_, *this, file_.get(), file_.get()).value();
  without_threads([&](const std::function<void()>& /*allow*/) {
    const Status may = engine->wait_for_workers(std::chrono::seconds(60));
    ASSERT_FALSE(may);
    EXPECT_EQ(may.error().code(), EAGAIN);
    EXPECT_FALSE(may.error().cure().empty());
  });
  EXPECT_EQ(told_of_no_worker_, 0U) << "that is what it returns";
  const auto another = UringEngine::create(*loop_, *this, file_.get(), file_.get()).value();
  EXPECT_TRUE(another->wait_for_workers(std::chrono::seconds(60)));
}

TEST_F(AnEngine, AsksForThreadsOnceItsRingHasRoom) {
  auto engine = UringEngine::create(*loop_, *this, file_.get(), file_.get()).value();
  ASSERT_TRUE(engine->wait_for_workers(std::chrono::seconds(60)));
  engine_ = std::move(engine);
  std::vector<FileOp> ops(256, read_of(true));
  for (FileOp& op : ops) engine_->start(op);
  FileOp from_another = read_of(false);
  std::thread([&] {
    engine_->start(from_another);
    while (ended_.size() <= ops.size()) engine_->poll();
  }).join();
}

TEST_F(AnEngine, MayGoWhileItAsksForThreads) {
  make_engine(file_, file_);
  FileOp op = read_of(false);
  engine_->start(op);
  engine_->submit();
  engine_.reset();
}

TEST(IoUring, ThatIsRefusedIsRefusedWithWhatWouldMendIt) {
  const auto cure = [](int error) {
    std::string text;
    outboard::testing::with_calls_denied({SYS_io_uring_setup}, error, [&] {
      const auto permitted = probe_io_uring();
      ASSERT_FALSE(permitted);
      EXPECT_EQ(permitted.error().code(), error);
      text = permitted.error().cure();
    });
    return text;
  };
  for (const int error : {EPERM, EACCES}) EXPECT_NE(cure(error).find("kernel.io_uring_disabled=0"), std::string::npos);
  EXPECT_NE(cure(ENOMEM).find("ulimit -l"), std::string::npos);
  EXPECT_EQ(cure(ENOSYS), "");
}

}  // namespace
}  // namespace outboard::storage
