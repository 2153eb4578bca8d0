#include <outboard/base/internal/wait.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/time.h>

#include <array>
#include <atomic>
#include <csignal>
#include <optional>

#include <gtest/gtest.h>

#include <outboard/base/fd.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard {
namespace {

TimePoint already() { return Clock::system().now(); }

TEST(Wait, LooksOnceThoughTheTimeIsOver) {
  const auto event = EventFd::create().value();
  EXPECT_FALSE(wait_readable(event.get(), already()));
  event.signal();
  EXPECT_TRUE(wait_readable(event.get(), already()));
}

TEST(Wait, ALockBelongsToOneOpenFile) {
  const testing::TempDir dir;
  const auto open = [&dir] { return UniqueFd(::open(dir.path("lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)); };
  const UniqueFd other = open();
  {
    const UniqueFd first = open();
    EXPECT_TRUE(wait_for_lock(first.get(), already()).value());
    EXPECT_FALSE(wait_for_lock(other.get(), already()).value());
  }
  EXPECT_TRUE(wait_for_lock(other.get(), already()).value());
  EXPECT_EQ(wait_for_lock(-1, already()).error().code(), EBADF);
}

/// What three attempts return, one after the other.
struct Attempts {
  std::array<int, 3> codes;  ///< 0: it succeeds
  std::size_t made = 0;

  Status run(TimePoint end) {
    return retry_while(is_code(EBUSY), end, Duration(1), "somebody", [this]() -> Status {
      const int code = codes.at(made++);
      if (code == 0) return {};
      return Error(code);
    });
  }
};

TEST(RetryWhile, TriesAgainWhileTheErrorMayPass) {
  Attempts attempts{.codes = {EBUSY, EBUSY, 0}};
  EXPECT_TRUE(attempts.run(already() + std::chrono::hours(1)));
  EXPECT_EQ(attempts.made, 3U);
}

TEST(RetryWhile, AnotherErrorIsFinal) {
  Attempts attempts{.codes = {EBUSY, EACCES, 0}};
  EXPECT_EQ(attempts.run(already() + std::chrono::hours(1)).error().code(), EACCES);
  EXPECT_EQ(attempts.made, 2U);
}

TEST(RetryWhile, TriesOnceThoughTheTimeIsOver) {
  Attempts attempts{.codes = {EBUSY, 0, 0}};
  EXPECT_EQ(attempts.run(already()).error().code(), EBUSY);
  EXPECT_EQ(attempts.made, 1U);
}

TEST(RetryWhile, GivesUpWhenTheProgramIsToEnd) {
  const auto end = EventFd::create().value();
  const Interruption interruption(end.get());
  end.signal();
  Attempts attempts{.codes = {EBUSY, 0, 0}};
  const Status done = attempts.run(already() + std::chrono::hours(1));
  EXPECT_EQ(done.error().code(), ECANCELED);
  EXPECT_NE(done.error().message().find("somebody"), std::string::npos);
}

TEST(Wait, EndsWhenTheProgramIsToEnd) {
  const testing::TempDir dir;
  const auto open = [&dir] { return UniqueFd(::open(dir.path("lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)); };
  const UniqueFd first = open();
  const UniqueFd second = open();
  EXPECT_TRUE(wait_for_lock(first.get(), already()).value());
  const auto end = EventFd::create().value();
  EXPECT_TRUE(pause_thread(Duration(1)));
  {
    const Interruption interruption(end.get());
    EXPECT_TRUE(pause_thread(Duration(1)));
    end.signal();
    EXPECT_FALSE(pause_thread(std::chrono::hours(1)));
    EXPECT_EQ(wait_for_lock(second.get(), already() + std::chrono::hours(1)).error().code(), ECANCELED);
    EXPECT_FALSE(wait_for_lock(second.get(), already()).value()) << "tries at least once";
  }
  EXPECT_TRUE(pause_thread(Duration(1)));
}

/// Interrupts this thread a millisecond after each handler of a signal, and each handler takes a fifth of what these tests wait
/// for. So a wait until a point in time is interrupted a few times, however slow the machine is; one that begins anew after a
/// signal, or goes on without counting the time of the handler, many times. Ends after more signals than the first sees.
class SignalStorm {
 public:
  static constexpr auto deadline = std::chrono::milliseconds(50);

  /// `at_last` is called in the handler of the last signal.
  explicit SignalStorm(void (*at_last)() = nullptr) {
    left_ = signals;
    at_last_ = at_last;
    struct sigaction action{};
    action.sa_handler = handle;
    ::sigaction(SIGALRM, &action, &before_);
    set_timer(1000);
  }
  ~SignalStorm() {
    at_last_ = nullptr;
    left_ = 0;
    set_timer(0);
    ::sigaction(SIGALRM, &before_, nullptr);
  }
  SignalStorm(const SignalStorm&) = delete;
  SignalStorm& operator=(const SignalStorm&) = delete;

  static bool is_over() { return left_ <= 0; }

 private:
  static constexpr int signals = 15;
  static constexpr auto handling = deadline / 5;

  static void set_timer(int microseconds) {
    const itimerval once{.it_interval = {}, .it_value = {.tv_sec = 0, .tv_usec = microseconds}};
    ::setitimer(ITIMER_REAL, &once, nullptr);
  }
  static void handle(int) {
    const int error = errno;
    const TimePoint end = already() + handling;
    while (already() < end) {
    }
    if (--left_ > 0) {
      set_timer(1000);
    } else if (at_last_ != nullptr) {
      at_last_();
    }
    errno = error;
  }

  static inline std::atomic<int> left_;
  static inline void (*at_last_)() = nullptr;
  struct sigaction before_{};
};

/// A lock that somebody else has.
class LockOfAnother {
 public:
  int other() const { return second_.get(); }
  int fd() const { return first_.get(); }

 private:
  UniqueFd open() const { return UniqueFd(::open(dir_.path("lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)); }

  testing::TempDir dir_;
  UniqueFd first_ = open();
  UniqueFd second_ = open();
  bool held_ = wait_for_lock(first_.get(), already()).value();
};

TEST(Wait, SignalsDoNotPutTheDeadlineOfADescriptorOff) {
  const auto event = EventFd::create().value();
  const SignalStorm storm;
  const TimePoint end = already() + SignalStorm::deadline;
  EXPECT_FALSE(wait_readable(event.get(), end));
  EXPECT_GE(already(), end) << "nor do they end the wait";
  EXPECT_FALSE(SignalStorm::is_over());
}

TEST(Wait, SignalsDoNotPutTheDeadlineOfALockOff) {
  const LockOfAnother lock;
  const SignalStorm storm;
  const TimePoint end = already() + SignalStorm::deadline;
  EXPECT_FALSE(wait_for_lock(lock.other(), end).value());
  EXPECT_GE(already(), end);
  EXPECT_FALSE(SignalStorm::is_over());
}

TEST(Wait, SignalsDoNotPutTheEndOfAPauseOff) {
  const auto nothing = EventFd::create().value();
  for (const bool interruptible : {false, true}) {
    std::optional<Interruption> interruption;
    if (interruptible) interruption.emplace(nothing.get());
    const SignalStorm storm;
    const TimePoint end = already() + SignalStorm::deadline;
    EXPECT_TRUE(pause_thread(SignalStorm::deadline)) << "a signal is no wish to end";
    EXPECT_GE(already(), end);
    EXPECT_FALSE(SignalStorm::is_over()) << interruptible;
  }
}

TEST(Wait, SignalsDoNotEndAWaitForWhatComesLater) {
  static const EventFd event = EventFd::create().value();
  const auto hour = std::chrono::hours(1);
  {
    const SignalStorm storm([] { event.signal(); });
    EXPECT_TRUE(wait_readable(event.get(), already() + hour));
    EXPECT_TRUE(SignalStorm::is_over());
  }
  event.drain();
  {
    const Interruption interruption(event.get());
    const SignalStorm storm([] { event.signal(); });
    EXPECT_FALSE(pause_thread(hour));
    EXPECT_TRUE(SignalStorm::is_over());
  }
  static const LockOfAnother lock;
  const SignalStorm storm([] { ::flock(lock.fd(), LOCK_UN); });
  EXPECT_TRUE(wait_for_lock(lock.other(), already() + hour).value());
  EXPECT_TRUE(SignalStorm::is_over());
}

}  // namespace
}  // namespace outboard
