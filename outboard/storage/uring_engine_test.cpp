// What of a device's queue the engines of one process take.

#include <outboard/storage/uring_engine.hpp>

#include <array>
#include <filesystem>
#include <fstream>
#include <string>

#include <sys/uio.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/testing/temp_dir.hpp>

namespace outboard::storage {
namespace {

/// Threads of the kernel that work for this process's rings.
unsigned workers() {
  unsigned count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm"), name);
    count += name.starts_with("iou-wrk") ? 1U : 0U;
  }
  return count;
}

class RoomOfADevice : public ::testing::Test, public FileEngine::Client {
 protected:
  void SetUp() override {
    if (const auto permitted = probe_io_uring(); !permitted) GTEST_SKIP() << permitted.error().message();
    ASSERT_EQ(::pwrite(file_.get(), bytes_.data(), bytes_.size(), 0), static_cast<ssize_t>(bytes_.size()));
    if (::preadv2(file_.get(), &piece_, 1, 0, RWF_NOWAIT) != static_cast<ssize_t>(bytes_.size()))
      GTEST_SKIP() << "the file system of " << dir_.path() << " cannot be told not to wait (TMPDIR chooses another)";
    engine_ = UringEngine::create(*loop_, *this, file_.get(), file_.get(), rule_).value();
  }
  void ended(FileOp& op) override {
    EXPECT_EQ(op.result, static_cast<ssize_t>(bytes_.size()));
    ++ended_;
  }
  /// A read that does not say whether it needs the storage.
  void read() {
    FileOp op{.kind = FileOp::Kind::read, .direct = true, .pieces = &piece_, .piece_count = 1};
    const unsigned before = ended_;
    engine_->start(op);
    engine_->submit();
    while (ended_ == before) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
  }

  outboard::testing::TempDir dir_;
  UniqueFd file_{dir_.make_file("disk.raw", 65536)};
  SubmissionRule rule_{.where = Submission::here};
  std::unique_ptr<Reactor> loop_ = Reactor::create().value();
  std::array<char, 4096> bytes_{};
  iovec piece_{bytes_.data(), bytes_.size()};
  unsigned ended_ = 0;
  std::unique_ptr<FileEngine> engine_;
};

TEST_F(RoomOfADevice, IsSharedByItsEngines) {
  const unsigned before = workers();
  read();
  EXPECT_EQ(workers(), before) << "there is room: it begins in the call that submits it";
  *rule_.begun = 48;  // of other queues, and other images
  read();
  EXPECT_GT(workers(), 0U) << "it might wait for room, so the kernel's threads do it";
  EXPECT_EQ(*rule_.begun, 48U);
}

TEST_F(RoomOfADevice, IsGivenBackByWhatHasEnded) {
  std::array<FileOp, 3> ops;
  for (FileOp& op : ops) {
    op = {.kind = FileOp::Kind::read, .direct = true, .pieces = &piece_, .piece_count = 1};
    engine_->start(op);
  }
  EXPECT_EQ(*rule_.begun, 3U);
  engine_->submit();
  while (ended_ != ops.size()) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
  EXPECT_EQ(*rule_.begun, 0U);
}

TEST(SubmissionRules, OfFilesOnOneDeviceShareItsRoom) {
  const outboard::testing::TempDir dir;
  const UniqueFd one = dir.make_file("one.raw", 4096);
  const UniqueFd other = dir.make_file("other.raw", 4096);
  const auto rule = submission_for(one.get());
  const UniqueFd memory = outboard::testing::make_memfd(4096);
  EXPECT_NE(submission_for(memory.get()).begun, rule.begun);
  const UniqueFd more_memory = outboard::testing::make_memfd(4096);
  if (rule.where != Submission::here || submission_for(memory.get()).where != Submission::here) GTEST_SKIP();
  EXPECT_NE(submission_for(memory.get()).begun, submission_for(more_memory.get()).begun) << "memory has no queue";
  EXPECT_EQ(submission_for(other.get()).begun, rule.begun);
}

}  // namespace
}  // namespace outboard::storage
