// What an engine takes of the ring and of a device's queue, and where it has the kernel begin an operation.

#include <outboard/storage/uring_engine.hpp>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/testing/denied_calls.hpp>
#include <outboard/testing/temp_dir.hpp>

namespace outboard::storage {
namespace {

/// Threads that the kernel makes for what the calling thread submits, from the construction on. The thread must be a new one:
/// its later submissions are done by the threads of the earlier ones too.
class Workers {
 public:
  bool any() const { return !std::ranges::includes(before_, names()); }

 private:
  /// They carry the number of the thread that they work for; one of them stays as long as that thread.
  static std::set<std::string> names() {
    std::set<std::string> found;
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      std::string name;
      std::getline(std::ifstream(task.path() / "comm"), name);
      if (name.starts_with("iou-wrk")) found.insert(name);
    }
    return found;
  }
  const std::set<std::string> before_ = names();
};

/// Stands still, but where a test says that each look at it takes some time.
class SteppingClock final : public Clock {
 public:
  TimePoint now() const override { return now_ += step; }
  void advance(Duration by) { now_ += by; }

  Duration step = Duration::zero();

 private:
  mutable TimePoint now_{std::chrono::seconds(1)};
};

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

class AnEngine : public ::testing::Test, public FileEngine::Client {
 protected:
  void SetUp() override {
    if (const auto permitted = probe_io_uring(); !permitted) GTEST_SKIP() << permitted.error().message();
    ASSERT_EQ(::pwrite(file_.get(), bytes_.data(), bytes_.size(), 0), static_cast<ssize_t>(bytes_.size()));
    if (::preadv2(file_.get(), &piece_, 1, 0, RWF_NOWAIT) != static_cast<ssize_t>(bytes_.size()))
      GTEST_SKIP() << "the file system of " << dir_.path() << " cannot be told not to wait (TMPDIR chooses another)";
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    pipe_ = UniqueFd(ends[0]);
    writer_ = UniqueFd(ends[1]);
  }
  void ended(FileOp& op) override {
    EXPECT_GT(op.result, 0);
    ended_.push_back(&op);
    if (then_) then_();
  }
  /// Operations that are not `direct` are done on `fd`.
  void make_engine(const UniqueFd& fd, const UniqueFd& direct) {
    engine_ = UringEngine::create(*loop_, *this, fd.get(), direct.get(), rule_).value();
  }
  FileOp read_of(bool direct, std::uint64_t offset = 0) const {
    return {.kind = FileOp::Kind::read, .direct = direct, .offset = offset, .pieces = &piece_, .piece_count = 1};
  }
  void wait_for(std::size_t count) {
    while (ended_.size() < count) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(60)).value_or(false)) << "lost";
  }
  /// Reads, and returns whether the kernel has begun that in the call that submits it.
  bool begins_here(FileOp op) {
    bool here = false;
    std::thread([&] {
      const Workers workers;
      const std::size_t before = ended_.size();
      engine_->start(op);
      engine_->submit();
      while (ended_.size() == before) engine_->poll();
      here = !workers.any();
    }).join();
    return here;
  }
  /// Ends a read from the pipe.
  void answer() { ASSERT_EQ(::write(writer_.get(), "!", 1), 1); }

  outboard::testing::TempDir dir_;
  UniqueFd file_{dir_.make_file("disk.raw", 65536)};
  UniqueFd pipe_;
  UniqueFd writer_;
  SubmissionRule rule_{.where = Submission::here};
  SteppingClock clock_;
  std::unique_ptr<Reactor> loop_ = Reactor::create({.clock = &clock_}).value();
  std::array<char, 4096> bytes_{};
  iovec piece_{bytes_.data(), bytes_.size()};
  std::vector<FileOp*> ended_;
  std::function<void()> then_;
  std::unique_ptr<FileEngine> engine_;
};

TEST_F(AnEngine, GivenMoreThanItsRingTakesDoesAllOfItInTheOrderOfTheStarts) {
  make_engine(file_, file_);
  std::vector<FileOp> ops(1000, read_of(false));
  std::vector<FileOp*> started;
  for (FileOp& op : ops) {
    engine_->start(op);
    started.push_back(&op);
  }
  FileOp last = read_of(false);  // when there is room again, but others wait for it
  then_ = [&] {
    if (ended_.size() == 1) engine_->start(last);
  };
  started.push_back(&last);
  engine_->submit();
  wait_for(started.size());
  EXPECT_EQ(ended_, started);
}

TEST_F(AnEngine, WhoseClientCallsItFromACompletionTellsOfTheNextOneAfterThat) {
  make_engine(file_, file_);
  std::vector<FileOp> ops(3, read_of(false));
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
  FileOp first = read_of(false);
  FileOp second = read_of(false);
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
  FileOp op = read_of(false);
  engine_->start(op);
  engine_.reset();
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_TRUE(ended_.empty());
}

TEST_F(AnEngine, HasAReadThatMissesThePageCacheBegunByTheKernelsThreads) {
  if (::syscall(451, file_.get(), nullptr, nullptr, 0U) != 0 && errno == ENOSYS) GTEST_SKIP() << "no cachestat()";
  make_engine(file_, pipe_);
  const auto begun = [this](FileOp op) {
    const std::size_t before = ended_.size();
    engine_->start(op);
    const unsigned with_the_device = *rule_.begun;
    engine_->submit();
    wait_for(before + 1);
    return with_the_device;
  };
  // A hole; reading it puts it into the page cache.
  const FileOp missing = read_of(false, 32768);
  const auto forget = [this] {
    ASSERT_EQ(::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 32768, 32768), 0);
  };
  const auto hit = [&](unsigned times) {
    for (unsigned i = 0; i < times; ++i) ASSERT_EQ(begun(read_of(false)), 0U) << "it does not reach the storage";
  };
  EXPECT_EQ(begun(missing), 1U);
  forget();
  hit(255);
  EXPECT_EQ(begun(missing), 1U) << "the miss was not asked for";
  forget();
  hit(256);
  EXPECT_EQ(begun(missing), 0U) << "it was asked for, after hundreds that all were there";
  forget();
  hit(256);
  FileOp waits = read_of(true);
  engine_->start(waits);
  engine_->submit();
  EXPECT_EQ(begun(missing), 2U) << "the storage has something to do: nothing is taken for granted";
  answer();
  wait_for(ended_.size() + 1);
}

TEST_F(AnEngine, BeginsAReadHereAsOneOfTheStorageWhereThePageCacheCannotBeAsked) {
  const long cachestat = *outboard::testing::recent_call("cachestat");
  for (const int error : {ENOSYS, EPERM}) {
    outboard::testing::with_calls_denied({cachestat}, error, [this] {
      make_engine(file_, pipe_);
      FileOp op = read_of(false);
      engine_->start(op);
      EXPECT_EQ(*rule_.begun, 1U) << "it may have to wait for the storage";
      engine_->submit();
      wait_for(1);
      EXPECT_TRUE(begins_here(read_of(false)));
    });
    engine_.reset();
    ended_.clear();
  }
}

TEST_F(AnEngine, BeginsNothingHereWhileTheStorageHasEndedNothingForLong) {
  make_engine(pipe_, file_);
  FileOp waits = read_of(false);
  engine_->start(waits);
  engine_->submit();
  for (int i = 0; i < 3; ++i) {
    clock_.advance(std::chrono::milliseconds(10));
    EXPECT_TRUE(begins_here(read_of(true))) << "something ends every ten milliseconds";
  }
  clock_.advance(std::chrono::milliseconds(10) + Duration(1));
  EXPECT_FALSE(begins_here(read_of(true)));
  EXPECT_TRUE(begins_here(read_of(true))) << "that has ended";
  answer();
  wait_for(ended_.size() + 1);
  clock_.advance(std::chrono::seconds(1));
  EXPECT_TRUE(begins_here(read_of(true))) << "an idle device has nothing to end";
}

TEST_F(AnEngine, BeginsNothingHereForASecondAfterASubmissionThatWaited) {
  make_engine(file_, file_);
  const auto submit_in = [this](Duration time) {
    clock_.step = time;
    EXPECT_TRUE(begins_here(read_of(true)));
    clock_.step = Duration::zero();
  };
  submit_in(std::chrono::milliseconds(2));
  EXPECT_TRUE(begins_here(read_of(true)));
  submit_in(std::chrono::milliseconds(2) + Duration(1));
  EXPECT_FALSE(begins_here(read_of(true)));
  clock_.advance(std::chrono::seconds(1) - Duration(1));
  EXPECT_FALSE(begins_here(read_of(true)));
  clock_.advance(Duration(1));
  EXPECT_TRUE(begins_here(read_of(true)));
  submit_in(std::chrono::milliseconds(2) + Duration(1));
  clock_.advance(std::chrono::seconds(1));
  EXPECT_TRUE(begins_here(read_of(true))) << "an idle device has nothing to end";
}

TEST_F(AnEngine, SharesTheRoomOfADeviceWithTheOthers) {
  for (const unsigned room : {1U, 48U, 192U}) {
    rule_.room = room;
    make_engine(file_, file_);
    *rule_.begun = room - 1;  // of other queues, and other images
    EXPECT_TRUE(begins_here(read_of(true))) << "there is room";
    *rule_.begun = room;
    EXPECT_FALSE(begins_here(read_of(true))) << "it might wait for room, so the kernel's threads do it";
    EXPECT_EQ(*rule_.begun, room);
    engine_.reset();
    ended_.clear();
  }
}

TEST_F(AnEngine, GivesBackTheRoomOfWhatHasEnded) {
  make_engine(file_, file_);
  std::vector<FileOp> ops(3, read_of(true));
  for (FileOp& op : ops) engine_->start(op);
  EXPECT_EQ(*rule_.begun, 3U);
  engine_->submit();
  wait_for(ops.size());
  EXPECT_EQ(*rule_.begun, 0U);
}

TEST_F(AnEngine, CountsTheRequestsThatTheKernelMakesOfAnOperation) {
  rule_.request_size = 1024;
  rule_.read_ahead = 2048;
  make_engine(pipe_, file_);
  FileOp waits = read_of(false);  // in a pipe there is no page cache
  engine_->start(waits);
  EXPECT_EQ(*rule_.begun, 7U) << "4096 bytes and what is read ahead";
  FileOp direct = read_of(true);
  engine_->start(direct);
  EXPECT_EQ(*rule_.begun, 7U + 5U);
  engine_->submit();
  wait_for(1);
  EXPECT_EQ(*rule_.begun, 7U);
  answer();
  wait_for(2);
  EXPECT_EQ(*rule_.begun, 0U);
}

TEST_F(AnEngine, BeginsALargeOperationHereOnlyWhereAllItsRequestsHaveRoom) {
  rule_.request_size = 1024;
  rule_.room = 8;
  make_engine(file_, file_);
  *rule_.begun = 3;  // of others
  EXPECT_TRUE(begins_here(read_of(true)));
  *rule_.begun = 4;
  EXPECT_FALSE(begins_here(read_of(true)));
  *rule_.begun = 0;
  engine_.reset();
  rule_.room = 1;
  make_engine(file_, file_);
  EXPECT_TRUE(begins_here(read_of(true))) << "nobody else uses the disk";
}

TEST_F(AnEngine, CountsWhatTheKernelMayReadAheadForReadsInItsCache) {
  const UniqueFd stat = dir_.make_file("stat", 0);
  const std::string busy = "0 0 0 0 0 0 0 0 64 0 0\n";
  ASSERT_EQ(::pwrite(stat.get(), busy.data(), busy.size(), 0), static_cast<ssize_t>(busy.size()));
  rule_.unseen = std::make_shared<UnseenRequests>(stat.duplicate().value());
  rule_.room = 8;
  make_engine(file_, file_);
  for (unsigned i = 0; i < rule_.room; ++i) EXPECT_TRUE(begins_here(read_of(false))) << i;
  EXPECT_EQ(rule_.unseen->count(), rule_.room);
  EXPECT_FALSE(begins_here(read_of(false)));
  EXPECT_FALSE(begins_here(read_of(true)));
  const std::string idle = "9 0 0 0 0 0 0 0 00 0 0\n";
  ASSERT_EQ(::pwrite(stat.get(), idle.data(), idle.size(), 0), static_cast<ssize_t>(idle.size()));
  EXPECT_TRUE(begins_here(read_of(false)));
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

TEST(SubmissionRules, AreThoseOfTheFileSystem) {
  const outboard::testing::TempDir dir;
  const UniqueFd file = dir.make_file("disk.raw", 4096);
  struct statfs system{};
  ASSERT_EQ(::fstatfs(file.get(), &system), 0);
  const auto in_memory = static_cast<decltype(system.f_type)>(TMPFS_MAGIC);
  EXPECT_EQ(submission_for(file.get()).where, system.f_type == in_memory ? Submission::here : Submission::on_workers);
  const UniqueFd memory = outboard::testing::make_memfd(4096);
  EXPECT_EQ(submission_for(memory.get()).where, Submission::here);
  for (const char* path : {"/proc/self/status", "/dev/null", "/"}) {
    const UniqueFd other(::open(path, O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(other) << path;
    EXPECT_EQ(submission_for(other.get()).where, Submission::on_workers) << path;
  }
  EXPECT_EQ(submission_for(-1).where, Submission::on_workers);
}

TEST(SubmissionRules, OfABlockDeviceAreThoseOfADisk) {
  for (const auto& each : std::filesystem::directory_iterator("/dev")) {
    std::error_code gone;
    if (!each.is_block_file(gone)) continue;
    const UniqueFd disk(::open(each.path().c_str(), O_PATH | O_CLOEXEC));  // does not open the device
    struct stat info{};
    ASSERT_EQ(::fstat(disk.get(), &info), 0);
    const auto queue = RequestQueue::of(info.st_rdev);
    const auto rule = submission_for(disk.get());
    const bool is_known = queue.depth() && !queue.is_on_others() && queue.disk() == info.st_rdev;
    EXPECT_EQ(rule.where, is_known ? Submission::here : Submission::on_workers) << each.path();
    if (!is_known) continue;
    EXPECT_EQ(submission_for(disk.get()).begun, rule.begun);
    const outboard::testing::TempDir no_sysfs;
    EXPECT_EQ(submission_for(disk.get(), no_sysfs.path()).where, Submission::on_workers) << "its queue is not known";
    EXPECT_EQ(rule.room, room_in(queue));
    return;
  }
  GTEST_SKIP() << "no block devices with a queue here";
}

TEST(SubmissionRules, OfFilesInMemoryShareNoRoom) {
  const UniqueFd memory = outboard::testing::make_memfd(4096);
  const UniqueFd more_memory = outboard::testing::make_memfd(4096);
  EXPECT_NE(submission_for(memory.get()).begun, submission_for(more_memory.get()).begun) << "memory has no queue";
}

}  // namespace
}  // namespace outboard::storage
