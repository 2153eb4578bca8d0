#include <tools/outboard/stop_signal.hpp>

#include <csignal>
#include <string>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace outboard::command {
namespace {

/// What a process whose only thread is stuck ends with; `then` is done to it when it is. Its output: whether it said why.
struct End {
  int status = -1;
  bool said = false;
};

template <typename Then>
End end_of_a_stuck_process(Duration patience, Then&& then) {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd output(ends[0]);
  UniqueFd input(ends[1]);
  const pid_t pid = ::fork();
  if (pid == 0) {
    const auto stop = StopSignal::create().value();
    stop->end_within(patience, [&] { static_cast<void>(!::write(input.get(), "why", 3)); });
    static_cast<void>(!::write(input.get(), "r", 1));
    while (true) ::pause();
  }
  input.reset();
  std::string all(1, '\0');
  EXPECT_EQ(::read(output.get(), all.data(), 1), 1);
  then(pid);
  End end;
  EXPECT_EQ(::waitpid(pid, &end.status, 0), pid);
  char more[8];
  for (ssize_t size = 0; (size = ::read(output.get(), more, sizeof more)) > 0;)
    all.append(more, static_cast<std::size_t>(size));
  end.said = all.find("why") != std::string::npos;
  return end;
}

TEST(StopSignal, EndsAProcessThatIsStuckInTheEndWhenItsTimeIsOver) {
  const End end = end_of_a_stuck_process(Duration(0), [](pid_t) {});
  EXPECT_TRUE(WIFEXITED(end.status) && WEXITSTATUS(end.status) == 1) << end.status;
  EXPECT_TRUE(end.said);
}

TEST(StopSignal, EndsItWithTheSecondSignalBefore) {
  const End end = end_of_a_stuck_process(std::chrono::hours(1), [](pid_t pid) {
    ::kill(pid, SIGINT);
    ::kill(pid, SIGTERM);
  });
  // Which of two pending signals comes first is the kernel's to say.
  ASSERT_TRUE(WIFEXITED(end.status)) << end.status;
  EXPECT_TRUE(WEXITSTATUS(end.status) == 128 + SIGTERM || WEXITSTATUS(end.status) == 128 + SIGINT) << end.status;
  EXPECT_TRUE(end.said);
}

TEST(StopSignal, DoesNothingToAProcessThatEndsInTime) {
  const auto stop = StopSignal::create().value();
  bool said = false;
  stop->end_within(std::chrono::hours(1), [&said] { said = true; });
  EXPECT_FALSE(said);
}

}  // namespace
}  // namespace outboard::command
