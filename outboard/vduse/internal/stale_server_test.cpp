#include <outboard/vduse/internal/stale_server.hpp>

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/base/internal/process.hpp>
#include <tests/support/denied_calls.hpp>
#include <tests/support/held_file_system.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::vduse {
namespace {

using ::testing::HasSubstr;

TEST(StaleServer, ItsFolderIsNobodyElsesToWriteToWhateverTheUmask) {
  const outboard::testing::TempDir dir;
  const mode_t before = ::umask(0);
  const auto folder = make_run_folder(dir.path("run"));
  ::umask(before);
  ASSERT_TRUE(folder) << folder.error().message();
  for (const std::string& each : {dir.path("run"), *folder}) {
    struct stat info{};
    ASSERT_EQ(::stat(each.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0755U) << each;
  }
  EXPECT_TRUE(make_run_folder(dir.path("run"))) << "it is there";
}

TEST(StaleServer, VDUSE55_ALockSaysWhoHasItAndIsNobodyElsesToRead) {
  const outboard::testing::TempDir dir;
  const std::string path = dir.path("lock");
  const auto held = lock_name(path, Duration(0));
  ASSERT_TRUE(held);
  EXPECT_THAT(lock_name(path, Duration(0)).error().message(), HasSubstr("process " + std::to_string(::getpid())));
  struct stat info{};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
}

TEST(StaleServer, WhatIsInALockIsNotRepeated) {
  const outboard::testing::TempDir dir;
  const std::string path = dir.path("lock");
  const auto held = lock_name(path, Duration(0));
  ASSERT_TRUE(held);
  std::ofstream(path) << "\x1b[2J";
  EXPECT_THAT(lock_name(path, Duration(0)).error().message(), HasSubstr("another process"));
}

TEST(StaleServer, AProcessThatCannotBeSeenIsNotSaidToRun) {
  const outboard::testing::TempDir dir;
  const std::string path = dir.path("lock");
  const auto held = lock_name(path, Duration(0));
  ASSERT_TRUE(held);
  std::ofstream(path) << "2147483647\n";  // more than the kernel gives
  const Error error = lock_name(path, Duration(0)).error();
  EXPECT_THAT(error.message(),
              HasSubstr("process 2147483647 serves this device; whether it runs or is ending cannot be "
                        "seen from here"));
  EXPECT_THAT(error.cure(), HasSubstr("if it is ending, start again when it has ended"));
}

TEST(StaleServer, ALockThatIsALinkIsNotFollowed) {
  const outboard::testing::TempDir dir;
  ASSERT_EQ(::symlink(dir.path("elsewhere").c_str(), dir.path("lock").c_str()), 0);
  EXPECT_EQ(lock_name(dir.path("lock"), Duration(0)).error().code(), ELOOP);
  EXPECT_NE(::access(dir.path("elsewhere").c_str(), F_OK), 0);
}

TEST(StaleServer, AProcessThatHasGoneIsNotWaitedFor) {
  EXPECT_TRUE(wait_for_end_of(0, 0, Duration(0)));
  EXPECT_TRUE(wait_for_end_of(::getppid(), 1, Duration(0))) << "another one of that number";
}

/// A process that waits to be told to end, and then to be reaped.
class Child {
 public:
  Child() {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    leash_.reset(ends[1]);
    pid_ = ::fork();
    if (pid_ == 0) {
      char byte = 0;
      ::close(ends[1]);
      ::_exit(static_cast<int>(::read(ends[0], &byte, 1)));
    }
    ::close(ends[0]);
  }
  ~Child() {
    end();
    ::waitpid(pid_, nullptr, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  void end() { leash_.reset(); }
  int pid() const { return pid_; }
  std::uint64_t start_time() const { return start_time_of(pid_); }

 private:
  UniqueFd leash_;
  int pid_ = 0;
};

/// A server that was killed, while a thread of it is with the storage.
class EndingServer : public ::testing::Test {
 protected:
  using Storage = outboard::testing::HeldFileSystem;

  void SetUp() override {
    auto made = Storage::create(65536);
    if (!made) GTEST_SKIP() << "no FUSE file system here: " << made.error().message();
    storage_ = std::move(*made);
    storage_->hold(Storage::Call::fsync);
    pid_ = ::fork();
    if (pid_ == 0) {
      const auto lock = lock_name(path(), Duration(0));
      const UniqueFd disk(::open(storage_->disk().c_str(), O_RDWR | O_CLOEXEC));
      ::_exit(lock && ::fsync(disk.get()) == 0 ? 0 : 1);
    }
    while (storage_->holding() == 0 && !storage_->gave_up()) std::this_thread::yield();
    start_time_ = start_time_of(pid_);
    ::kill(pid_, SIGKILL);
  }
  void TearDown() override {
    if (!storage_) return;
    storage_->release();
    EXPECT_FALSE(storage_->gave_up());
    EXPECT_EQ(::waitpid(pid_, nullptr, 0), pid_);
  }
  std::string path() const { return dir_.path("lock"); }
  /// Lets the storage answer once somebody waits for this process.
  Log releasing() {
    return Log([this](Level, std::string_view line) {
      said_ = line;
      storage_->release();
    });
  }

  outboard::testing::TempDir dir_;
  std::unique_ptr<Storage> storage_;
  int pid_ = -1;
  std::uint64_t start_time_ = 0;
  std::string said_;
};

TEST_F(EndingServer, KeepsItsSuccessorWaitingForTheNameAsLongAsTheStorageTakes) {
  const auto lock = lock_name(path(), Duration(0), releasing());
  EXPECT_TRUE(lock) << lock.error().message();
  EXPECT_THAT(said_, HasSubstr("waiting up to 60 s for process " + std::to_string(pid_)));
}

TEST_F(EndingServer, IsWaitedForAsLongAsTheStorageTakes) {
  const Status ended = wait_for_end_of(pid_, start_time_, Duration(0), releasing());
  EXPECT_TRUE(ended) << ended.error().message();
  EXPECT_THAT(said_, HasSubstr("waiting up to 60 s for process " + std::to_string(pid_)));
}

void check_that_an_end_is_waited_for() {
  Child child;
  const std::uint64_t start_time = child.start_time();
  EXPECT_EQ(wait_for_end_of(child.pid(), start_time, std::chrono::milliseconds(1)).error().code(), ETIMEDOUT);
  child.end();
  EXPECT_TRUE(wait_for_end_of(child.pid(), start_time, std::chrono::seconds(30))) << "it has ended, and is not reaped";
}

TEST(StaleServer, TheEndOfAProcessIsWaitedFor) { check_that_an_end_is_waited_for(); }

TEST(StaleServer, TheEndOfAProcessIsWaitedForWithoutPidfdOpen) {
  for (const int error : {ENOSYS, EPERM})
    outboard::testing::with_calls_denied({SYS_pidfd_open}, error, check_that_an_end_is_waited_for);
}

}  // namespace
}  // namespace outboard::vduse
