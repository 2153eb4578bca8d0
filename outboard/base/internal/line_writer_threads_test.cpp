#include <outboard/base/internal/line_writer.hpp>

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <memory>
#include <new>
#include <sstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/base/log.hpp>
#include <tests/support/denied_calls.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard {
namespace {

using namespace std::chrono_literals;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr Duration long_enough = 60s;
constexpr int lines = 100000;  // more than find room

/// What a LineWriter writes to, and the end that the test reads.
struct Ends {
  UniqueFd reader, writer;

  UniqueFd copy() const { return writer.duplicate().value(); }
  /// The next bytes, as many as there are; waits for the first.
  std::string take() const {
    std::array<char, 65536> bytes;
    const auto got = ::read(reader.get(), bytes.data(), bytes.size());
    std::string text(bytes.data(), static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    std::erase(text, '\r');  // a terminal puts it before each newline
    return text;
  }
  std::string take_until(std::string_view end) const {
    std::string all;
    while (!all.ends_with(end)) {
      const std::string more = take();
      if (more.empty()) break;
      all += more;
    }
    return all;
  }
};

Ends make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return {};
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

/// A terminal as an ssh session that has stalled leaves it: nobody reads the other end.
Ends make_terminal() {
  UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  std::array<char, 64> name{};
  if (::grantpt(master.get()) != 0 || ::unlockpt(master.get()) != 0) return {};
  if (::ptsname_r(master.get(), name.data(), name.size()) != 0) return {};
  UniqueFd terminal(::open(name.data(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  return {std::move(master), std::move(terminal)};
}

std::string numbered(int number) { return fmt::format("line {} {}\n", number, std::string(80, 'x')); }

/// Reads all that is written, and a last line.
std::string drain(const Ends& ends, LineWriter& writer) {
  auto said = std::async(std::launch::async, [&ends] { return ends.take_until("the end\n"); });
  EXPECT_TRUE(writer.flush(long_enough));
  writer.write("the end\n");
  return said.get();
}

/// Checks that the numbered lines are whole, in order and, with those that are said to be missing, all there. How many are missing.
int check_lines(const std::string& said, int count = lines) {
  std::istringstream text(said);
  int next = 0, missing = 0;
  for (std::string line; std::getline(text, line);) {
    int dropped = 0;
    if (std::sscanf(line.c_str(), "(%d lines were dropped here: more than could be written)", &dropped) == 1) {
      missing += dropped;
      next += dropped;
    } else if (line != "the end") {
      EXPECT_EQ(line + "\n", numbered(next++));
    }
  }
  EXPECT_EQ(next, count);
  return missing;
}

class UnreadOutput : public ::testing::TestWithParam<Ends (*)()> {};
INSTANTIATE_TEST_SUITE_P(, UnreadOutput, ::testing::Values(make_pipe, make_terminal),
                         [](const auto& made) { return std::string(made.param == make_pipe ? "Pipe" : "Terminal"); });

TEST_P(UnreadOutput, HoldsNobodyAndSaysHowManyLinesWereDropped) {
  Ends ends = GetParam()();
  ASSERT_TRUE(ends.reader.valid() && ends.writer.valid());
  LineWriter writer(ends.copy());
  auto written = std::async(std::launch::async, [&writer] {
    for (int i = 0; i < lines; ++i) writer.write(numbered(i));
  });
  const bool in_time = written.wait_for(10s) == std::future_status::ready;
  if (!in_time) ends.reader.reset();
  ASSERT_TRUE(in_time);
  EXPECT_GT(check_lines(drain(ends, writer)), 0);
}

TEST_P(UnreadOutput, DoesNotHoldTheEndOfTheWriter) {
  Ends ends = GetParam()();
  auto ended = std::async(std::launch::async, [&ends] {
    LineWriter writer(ends.copy());
    for (int i = 0; i < 2000; ++i) writer.write(numbered(i));
  });
  EXPECT_EQ(ended.wait_for(long_enough), std::future_status::ready);
  ends.reader.reset();
}

TEST(LineWriter, AFileLosesNothingOfABurst) {
  static constexpr int burst = 30000;  // less than may wait: whatever the thread does meanwhile
  const testing::TempDir dir;
  const std::string path = dir.path("log");
  {
    LineWriter writer(UniqueFd(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)));
    for (int i = 0; i < burst; ++i) writer.write(numbered(i));
    EXPECT_TRUE(writer.flush(long_enough));
  }
  std::ostringstream said;
  said << std::ifstream(path).rdbuf();
  EXPECT_EQ(check_lines(said.str(), burst), 0);
}

TEST(LineWriter, WritesWhatWaitsBeforeItEnds) {
  const Ends ends = make_pipe();
  {
    LineWriter writer(ends.copy());
    writer.write("one\n");
    writer.write("two\n");
  }
  EXPECT_EQ(ends.take(), "one\ntwo\n");
}

TEST(LineWriter, CutsALineThatAPipeWouldNotTakeInOnePiece) {
  const Ends ends = make_pipe();
  LineWriter writer(ends.copy());
  writer.write(std::string(100000, 'x') + "\n");
  ASSERT_TRUE(writer.flush(long_enough));
  const std::string got = ends.take();
  EXPECT_EQ(got.size(), 4096U);
  EXPECT_THAT(got, EndsWith("x\n"));
}

TEST(LineWriter, WaitsForRoomWhereSomebodyMadeThePipeNonBlocking) {
  const Ends ends = make_pipe();
  ASSERT_EQ(::fcntl(ends.writer.get(), F_SETFL, O_NONBLOCK), 0);
  ASSERT_GE(::fcntl(ends.writer.get(), F_SETPIPE_SZ, 4096), 4096);
  LineWriter writer(ends.copy());
  for (int i = 0; i < 500; ++i) writer.write(numbered(i));
  writer.write("the end\n");
  const std::string said = ends.take_until("the end\n");
  EXPECT_THAT(said, StartsWith(numbered(0)));
  EXPECT_THAT(said, EndsWith(numbered(499) + "the end\n"));
}

TEST(LineWriter, SaysThatNothingCanBeWritten) {
  std::promise<int> code;
  LineWriter writer(UniqueFd(::open("/dev/full", O_WRONLY | O_CLOEXEC)),
                    [&code](const Error& error) { code.set_value(error.code()); });
  writer.write("one\n");
  EXPECT_EQ(code.get_future().get(), ENOSPC);
}

TEST(LineWriter, LivesOnWhereThereIsNoMemoryToSayThatNothingCanBeWritten) {
  std::promise<void> called;
  int calls = 0;
  LineWriter writer(UniqueFd(::open("/dev/full", O_WRONLY | O_CLOEXEC)), [&](const Error&) {
    if (++calls == 2) called.set_value();
    throw std::bad_alloc();
  });
  writer.write("one\n");
  writer.write("two\n");
  called.get_future().get();
}

TEST(LineWriter, ABriefFlushWaitsForWhoeverReads) {
  const Ends ends = make_pipe();
  ASSERT_EQ(::fcntl(ends.reader.get(), F_SETFL, O_NONBLOCK), 0);
  LineWriter writer(ends.copy());
  writer.write("one\n");
  EXPECT_TRUE(writer.flush_briefly(long_enough));
  EXPECT_EQ(ends.take(), "one\n");
}

TEST_P(UnreadOutput, IsWaitedForBrieflyOnlyOnce) {
  Ends ends = GetParam()();
  LineWriter writer(ends.copy());
  for (int i = 0; i < 2000; ++i) writer.write(numbered(i));
  EXPECT_FALSE(writer.flush_briefly(1ms));
  auto again = std::async(std::launch::async, [&writer] { return writer.flush_briefly(long_enough); });
  EXPECT_EQ(again.wait_for(long_enough / 2), std::future_status::ready);
  ends.reader.reset();
}

TEST(LineWriter, WithoutAThreadATerminalBlocksNobodyAndItIsStartedLater) {
  Ends ends = make_terminal();
  std::unique_ptr<LineWriter> writer;
  auto written = std::async(std::launch::async, [&] {
    testing::with_calls_denied({SYS_clone, SYS_clone3}, EPERM, [&] {
      writer = std::make_unique<LineWriter>(ends.copy());
      for (int i = 0; i < lines; ++i) writer->write(numbered(i));
      EXPECT_FALSE(writer->flush(long_enough));
    });
  });
  const bool in_time = written.wait_for(long_enough / 2) == std::future_status::ready;
  if (!in_time) ends.reader.reset();
  ASSERT_TRUE(in_time);
  EXPECT_GT(check_lines(drain(ends, *writer)), 0);
}

TEST(LineWriter, WithoutAThreadItWritesWhereThereIsRoomAndDropsTheRest) {
  testing::with_calls_denied({SYS_clone, SYS_clone3}, EPERM, [] {
    const Ends ends = make_pipe();
    LineWriter writer(ends.copy());
    writer.write("first\n");
    EXPECT_EQ(ends.take(), "first\n");
    for (int i = 0; i < lines; ++i) writer.write(numbered(i));
    EXPECT_FALSE(writer.flush(1ms));
    std::string said;
    for (bool flushed = false; !flushed; flushed = writer.flush(1ms)) said += ends.take();
    said += ends.take();
    EXPECT_GT(check_lines(said), 0);
  });
}

TEST(LineWriter, TheChildOfAForkWritesToo) {
  const Ends ends = make_pipe();
  LineWriter writer(ends.copy());
  const pid_t child = ::fork();
  if (child == 0) {
    writer.write("the child's\n");
    ::_exit(0);
  }
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  ASSERT_EQ(::fcntl(ends.reader.get(), F_SETFL, O_NONBLOCK), 0);
  EXPECT_EQ(ends.take(), "the child's\n");
}

/// Puts another descriptor in the place of stderr.
class OtherStderr {
 public:
  explicit OtherStderr(const UniqueFd& other) : saved_(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)) {
    ::dup2(other.get(), STDERR_FILENO);
  }
  ~OtherStderr() { ::dup2(saved_.get(), STDERR_FILENO); }

 private:
  UniqueFd saved_;
};

TEST(Log, OnAnUnreadStderrBlocksNobodyAndCountsDroppedLines) {
  const Ends ends = make_terminal();
  std::string said;
  {
    const OtherStderr other(ends.writer);
    const Log log = Log::to_stderr(Level::error);
    for (int i = 0; i < lines; ++i) log.error("{} {}", i, std::string(80, 'x'));
    said = drain(ends, LineWriter::of_stderr());
    LineWriter::flush_stderr();
  }
  EXPECT_THAT(said, StartsWith("outboard: error: 0 xxx"));
  EXPECT_THAT(said, HasSubstr(" lines were dropped here: more than could be written)\n"));
}

TEST(Log, LinesOnStderrAreThereWhenTheProcessHasEnded) {
  const Ends ends = make_pipe();
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends.writer.get(), STDERR_FILENO);
    Log::to_stderr(Level::error).error("the last one");
    LineWriter::flush_stderr();
    ::_exit(0);
  }
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  ASSERT_EQ(::fcntl(ends.reader.get(), F_SETFL, O_NONBLOCK), 0);
  EXPECT_EQ(ends.take(), "outboard: error: the last one\n");
}

std::ptrdiff_t count_threads() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"), std::filesystem::directory_iterator());
}

/// In a process of their own, which has not logged before.
class LogOfAProcess : public ::testing::Test {
 protected:
  LogOfAProcess() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(LogOfAProcess, ItsThreadIsStartedBeforeTheFirstLine) {
  EXPECT_EXIT(
      {
        const auto before = count_threads();
        const Log log = Log::to_stderr(Level::error);
        ::_exit(count_threads() > before ? 0 : 1);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST_F(LogOfAProcess, TakesLinesWhenTheEndOfTheProcessHasBegun) {
  EXPECT_EXIT(
      {
        std::atexit([] { Log::to_stderr(Level::info).info("late"); });  // before that of the log, so after it
        Log::to_stderr(Level::info).info("first");
        std::exit(0);
      },
      ::testing::ExitedWithCode(0), "outboard: info: first\noutboard: info: late\n");
}

TEST_F(LogOfAProcess, IsWrittenBeforeAQuickExit) {
  EXPECT_EXIT(
      {
        Log::to_stderr(Level::info).info("the last one");
        std::quick_exit(0);
      },
      ::testing::ExitedWithCode(0), "outboard: info: the last one\n");
}

struct TooLarge {};

}  // namespace
}  // namespace outboard

template <>
struct fmt::formatter<outboard::TooLarge> : fmt::formatter<int> {
  fmt::format_context::iterator format(const outboard::TooLarge&, fmt::format_context&) const {
    throw std::bad_alloc();
  }
};

namespace outboard {
namespace {

TEST(Log, SaysThatALineIsMissingForWantOfMemory) {
  std::string said;
  const Log log([&said](Level, std::string_view line) { said += line; });
  log.error("{}", TooLarge());
  EXPECT_EQ(said, "out of memory: a line of the log is missing here");
}

}  // namespace
}  // namespace outboard
