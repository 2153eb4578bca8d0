#include <outboard/base/internal/process.hpp>

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <tests/support/temp_dir.hpp>

namespace outboard {
namespace {

namespace fs = std::filesystem;

/// /proc with one process, of two threads unless it says otherwise.
class AProcess : public ::testing::Test {
 protected:
  struct Thread {
    int number = 0;
    char state = 'S';
    unsigned flags = 0x400100;
    unsigned pending = 0;  ///< signals, as bits
    unsigned shared_pending = 0;
  };

  void show(const Thread& thread) {
    if (thread.number == pid) write(fmt::format("{}", pid), thread);
    write(fmt::format("{}/task/{}", pid, thread.number), thread);
  }
  ProcessState state() const { return process_state(pid, dir.path("proc")); }
  bool is_ending() const { return process_is_ending(pid, dir.path("proc")); }

  static constexpr int pid = 12;
  static constexpr unsigned sigkill = 0x100;
  std::string name = "outboard";
  int threads = 2;

 private:
  void write(const std::string& folder, const Thread& thread) {
    const fs::path there = dir.path("proc/" + folder);
    fs::create_directories(there);
    std::ofstream(there / "stat") << fmt::format("{} ({}) {} 1 1 1 0 -1 {} 0 0 0 0 0 0 0 0 20 0 {} 0 777 0 0\n",
                                                 thread.number, name, thread.state, thread.flags, threads);
    std::ofstream(there / "status") << fmt::format("Name:\t{}\nSigPnd:\t{:016x}\nShdPnd:\t{:016x}\n", name,
                                                   thread.pending, thread.shared_pending);
  }

  outboard::testing::TempDir dir;
};

TEST_F(AProcess, ThatRunsIsNotEnding) {
  for (const char state : {'R', 'S', 'D', 'T'}) {
    show({.number = 12, .state = state});
    show({.number = 13, .state = state});
    EXPECT_FALSE(is_ending()) << state;
  }
  show({.number = 12, .pending = 0x4000, .shared_pending = 0x2});
  EXPECT_FALSE(is_ending()) << "SIGTERM and SIGINT it may survive";
}

TEST_F(AProcess, OfWhichAThreadEndsIsNotEnding) {
  show({.number = 12});
  show({.number = 13, .state = 'Z', .flags = 0x400104});
  EXPECT_FALSE(is_ending());
}

TEST_F(AProcess, ThatIsNotShownIsNeitherRunningNorEnding) {
  EXPECT_EQ(state(), ProcessState::unseen);
  show({.number = 13});
  EXPECT_EQ(state(), ProcessState::unseen) << "nothing is to be read in its folder (hidepid=1)";
  show({.number = 12});
  EXPECT_EQ(state(), ProcessState::running);
  show({.number = 12, .pending = sigkill});
  EXPECT_EQ(state(), ProcessState::ending);
}

TEST_F(AProcess, OfWhichTheFirstThreadHasLeftIsNotEnding) {
  show({.number = 12, .state = 'Z', .flags = 0x400104});
  show({.number = 13});
  EXPECT_FALSE(is_ending());
  show({.number = 13, .pending = sigkill});
  EXPECT_TRUE(is_ending());
}

TEST_F(AProcess, ThatIsAZombieIsEnding) {
  threads = 1;
  for (const char state : {'Z', 'X'}) {
    show({.number = 12, .state = state});
    EXPECT_TRUE(is_ending()) << state;
  }
}

TEST_F(AProcess, ThatExitsOrCrashesIsEnding) {
  for (const unsigned flag : {0x4U, 0x200U, 0x400U}) {
    show({.number = 12, .state = 'D', .flags = 0x400100 | flag});
    EXPECT_TRUE(is_ending()) << flag;
  }
}

TEST_F(AProcess, WithSigkillPendingIsEnding) {
  show({.number = 12, .pending = sigkill});
  EXPECT_TRUE(is_ending());
  show({.number = 12, .shared_pending = sigkill});
  EXPECT_TRUE(is_ending());
}

TEST_F(AProcess, WhoseOtherThreadsAreKilledIsEnding) {
  // The first one called _exit(), and waits for its io_uring requests: nothing of itself tells.
  show({.number = 12, .state = 'D'});
  show({.number = 13, .state = 'D', .pending = sigkill});
  EXPECT_TRUE(is_ending());
  show({.number = 13, .state = 'D', .flags = 0x400500});
  EXPECT_TRUE(is_ending());
}

TEST_F(AProcess, MayBeCalledWhatItLikes) {
  for (const char* odd : {"a b", "a) Z (b", ") Z 1 1 1 0 -1 4 0", "(()", ""}) {
    name = odd;
    show({.number = 12});
    EXPECT_FALSE(is_ending()) << odd;
    show({.number = 12, .state = 'D', .flags = 0x400104});
    EXPECT_TRUE(is_ending()) << odd;
  }
}

TEST(ProcessNumber, IsDigitsAndNothingElse) {
  EXPECT_EQ(parse_pid("12"), 12);
  EXPECT_EQ(parse_pid("4194303"), 4194303);
  for (const char* none : {"", "0", "-1", "+1", " 12", "12 ", "12x", "self", "0x12", "99999999999"})
    EXPECT_FALSE(parse_pid(none)) << none;
}

TEST(ProcessInAContainer, IsFoundByItsNumberThere) {
  struct stat space{};
  ASSERT_EQ(::stat("/proc/self/ns/pid", &space), 0);
  EXPECT_EQ(process_in_container(::getpid(), [&](std::uint64_t number) { return number == space.st_ino; }), ::getpid());
  EXPECT_FALSE(process_in_container(::getpid(), [&](std::uint64_t number) { return number != space.st_ino; }));
  EXPECT_FALSE(process_in_container(0, [](std::uint64_t) { return true; }));
}

}  // namespace
}  // namespace outboard
