#include <tools/outboard/stop_signal.hpp>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <tests/support/denied_calls.hpp>

namespace outboard::command {
namespace {

using Start = StopSignal::Start;
using Verdict = StopSignal::Verdict;

/// What a process whose only thread is stuck ended with, and what it wrote.
struct End {
  int status = -1;
  std::string said;

  bool is_exit(int code) const { return WIFEXITED(status) && WEXITSTATUS(status) == code; }
};

/// Writes one letter, and keeps to what it is told.
struct Stuck {
  UniqueFd output;

  void say(char letter) const { static_cast<void>(!::write(output.get(), &letter, 1)); }
  [[noreturn]] static void wait() {
    while (true) ::pause();
  }
};

/// `begin` is the process, and is stuck in the end; `then` is done to it once it has said something.
template <typename Begin, typename Then>
End end_of_a_process(Begin&& begin, Then&& then, long denied_call = -1) {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd output(ends[0]);
  Stuck stuck{UniqueFd(ends[1])};
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (denied_call >= 0 && !testing::deny_calls({&denied_call, 1}, EPERM)) ::_exit(99);
    const auto stop = StopSignal::create().value();
    begin(*stop, stuck);
    Stuck::wait();
  }
  stuck.output.reset();
  std::string all(1, '\0');
  EXPECT_EQ(::read(output.get(), all.data(), 1), 1);
  then(pid);
  End end;
  EXPECT_EQ(::waitpid(pid, &end.status, 0), pid);
  char more[8];
  for (ssize_t size = 0; (size = ::read(output.get(), more, sizeof more)) > 0;)
    all.append(more, static_cast<std::size_t>(size));
  end.said = all.substr(1);
  return end;
}

void nothing(pid_t /*pid*/) {}
void terminate(pid_t pid) { ::kill(pid, SIGTERM); }

TEST(StopSignal, EndsAProcessThatIsStuckInTheEndWhenItsTimeIsOver) {
  const End end = end_of_a_process(
      [](StopSignal& stop, const Stuck& stuck) {
        stuck.say('r');
        stop.bound_end({Start::now, Duration(0), [] { return Verdict::end; }, [&] { stuck.say('w'); }});
        Stuck::wait();
      },
      nothing);
  EXPECT_TRUE(end.is_exit(1)) << end.status;
  EXPECT_EQ(end.said, "w");
}

TEST(StopSignal, TheTimeOfAStuckProcessBeginsWithTheSignal) {
  const End end = end_of_a_process(
      [](StopSignal& stop, const Stuck& stuck) {
        stop.bound_end({Start::at_signal, Duration(0), [] { return Verdict::end; }, [&] { stuck.say('w'); }});
        EXPECT_TRUE(stop.pause(std::chrono::milliseconds(20))) << "no time runs yet";
        stuck.say('r');
        Stuck::wait();
      },
      terminate);
  EXPECT_TRUE(end.is_exit(1)) << end.status;
  EXPECT_EQ(end.said, "w");
}

TEST(StopSignal, EndsItWithTheSecondSignalAtOnceAndWithoutAWord) {
  const End end = end_of_a_process(
      [](StopSignal& stop, const Stuck& stuck) {
        stop.bound_end({Start::now, std::chrono::hours(1), [] { return Verdict::end; }, [&] { stuck.say('w'); }});
        stuck.say('r');
        Stuck::wait();
      },
      [](pid_t pid) {
        ::kill(pid, SIGINT);
        ::kill(pid, SIGTERM);
      });
  // Which of two pending signals comes first is the kernel's to say.
  EXPECT_TRUE(end.is_exit(128 + SIGTERM) || end.is_exit(128 + SIGINT)) << end.status;
  EXPECT_EQ(end.said, "");
}

TEST(StopSignal, EndsItAlthoughNobodyTakesItsWords) {
  const End end = end_of_a_process(
      [](StopSignal& stop, const Stuck& stuck) {
        stuck.say('r');
        stop.bound_end({Start::now, Duration(0), [] { return Verdict::end; }, [] { Stuck::wait(); }});
        Stuck::wait();
      },
      nothing);
  EXPECT_TRUE(end.is_exit(1)) << end.status;
}

/// The time is over three times: the first verdict is this one.
void expect_to_end_at_the_third_verdict(Verdict first) {
  const End end = end_of_a_process(
      [first](StopSignal& stop, const Stuck& stuck) {
        stuck.say('r');
        stop.bound_end({Start::now, Duration(0),
                        [&stuck, first, asked = 0]() mutable {
                          stuck.say('a');
                          return ++asked >= 2 ? Verdict::end : first;
                        },
                        [&] { stuck.say('w'); }});
        Stuck::wait();
      },
      nothing);
  EXPECT_TRUE(end.is_exit(1)) << end.status;
  EXPECT_EQ(end.said, "aaaw");
}

TEST(StopSignal, WaitsAsLongAsTheVerdictIsTo) { expect_to_end_at_the_third_verdict(Verdict::wait); }

TEST(StopSignal, BeginsAnewWhereTheVerdictSaysSo) { expect_to_end_at_the_third_verdict(Verdict::anew); }

// As `docker pause` does with it: the time goes on, and whoever is at work could not show it.
TEST(StopSignal, LeavesAProcessThatWasStoppedItselfTheTimeToShowThatItLives) {
  static constexpr Duration timeout = std::chrono::seconds(5);
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd awake(ends[0]);
  UniqueFd wake(ends[1]);
  const End end = end_of_a_process(
      [&](StopSignal& stop, const Stuck& stuck) {
        wake.reset();
        stop.bound_end({Start::now, timeout, [] { return Verdict::end; }, [&] { stuck.say('w'); }});
        stuck.say('r');
        for (char letter = 0; ::read(awake.get(), &letter, 1) == 1;) stop.show_life();
        ::_exit(0);
      },
      [&](pid_t pid) {
        int status = 0;
        ::kill(pid, SIGSTOP);
        EXPECT_EQ(::waitpid(pid, &status, WUNTRACED), pid);
        EXPECT_FALSE(wait_readable(awake.get(), Clock::system().now() + timeout));
        ::kill(pid, SIGCONT);
        EXPECT_FALSE(wait_readable(awake.get(), Clock::system().now() + timeout / 50)) << "it has seen the time";
        static_cast<void>(!::write(wake.get(), "l", 1));
        wake.reset();
      });
  EXPECT_TRUE(end.is_exit(0)) << end.status;
  EXPECT_EQ(end.said, "");
}

bool all_threads_sleep(pid_t pid) {
  const std::filesystem::directory_iterator threads(fmt::format("/proc/{}/task", pid));
  return std::ranges::all_of(threads, [](const auto& thread) {
    std::ifstream file(thread.path() / "stat");
    const std::string stat{std::istreambuf_iterator<char>(file), {}};
    const auto name_end = stat.rfind(')');
    return name_end != std::string::npos && stat.compare(name_end, 3, ") S") == 0;
  });
}

// As a filter of system calls may. What stays readable must not keep the thread awake.
TEST(StopSignal, HearsASignalAndSleepsWhereItCannotBeReadOrTaken) {
  for (const long call : {SYS_read, SYS_rt_sigtimedwait}) {
    bool slept = false;
    const End end = end_of_a_process(
        [](const StopSignal& stop, const Stuck& stuck) {
          terminate(::getpid());
          while (stop.pause(std::chrono::hours(1))) {
          }
          stuck.say('r');
          Stuck::wait();
        },
        [&slept, call](pid_t pid) {
          const TimePoint limit = Clock::system().now() + std::chrono::seconds(10);
          while (!(slept = all_threads_sleep(pid)) && Clock::system().now() < limit) {
          }
          ::kill(pid, call == SYS_read ? SIGINT : SIGKILL);
        },
        call);
    EXPECT_TRUE(slept) << call;
    EXPECT_EQ(call == SYS_read, end.is_exit(128 + SIGINT)) << end.status;
  }
}

TEST(StopSignal, LeavesTheSignalsToTheProcessOnceItIsGone) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    StopSignal::create().value().reset();
    ::raise(SIGTERM);
    ::_exit(0);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM) << status;
}

TEST(StopSignal, DoesNothingToAProcessThatEndsInTime) {
  const auto stop = StopSignal::create().value();
  bool said = false;
  stop->bound_end({Start::now, std::chrono::hours(1), [] { return Verdict::end; }, [&said] { said = true; }});
  EXPECT_FALSE(said);
}

}  // namespace
}  // namespace outboard::command
