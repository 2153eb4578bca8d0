#include <outboard/vfio_user/internal/client_socket.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace outboard::vfio_user {
namespace {

// Waiting for a server that is starting. Time is what was paused, so nothing sleeps here.
struct Attempts {
  std::vector<int> codes;  ///< one for each attempt; 0: it succeeds; the last one goes on
  std::size_t made = 0;
  std::vector<Duration> pauses;

  Status run(Duration wait, bool go_on = true) {
    return retry_while_starting(
        wait,
        [&](Duration time) {
          pauses.push_back(time);
          return go_on;
        },
        [&]() -> Status {
          const int code = codes[std::min(made++, codes.size() - 1)];
          if (code == 0) return {};
          return Error(code);
        });
  }
};

constexpr Duration second = std::chrono::seconds(1);

TEST(WaitForServer, WithoutWaitingThereIsOneAttempt) {
  Attempts attempts{.codes = {ENOENT}};
  EXPECT_EQ(attempts.run(Duration{0}).error().code(), ENOENT);
  EXPECT_EQ(attempts.made, 1u);
}

TEST(WaitForServer, ItIsTriedAgainUntilItListens) {
  Attempts attempts{.codes = {ENOENT, ECONNREFUSED, 0}};
  EXPECT_TRUE(attempts.run(second));
  EXPECT_EQ(attempts.made, 3u);
}

TEST(WaitForServer, AnotherFailureIsFinal) {
  Attempts attempts{.codes = {ENOENT, EACCES, 0}};
  EXPECT_EQ(attempts.run(second).error().code(), EACCES);
  EXPECT_EQ(attempts.made, 2u);
}

TEST(WaitForServer, ABusyServerIsNotWaitedFor) {
  Attempts attempts{.codes = {EBUSY}};
  EXPECT_EQ(attempts.run(second).error().code(), EBUSY);
}

TEST(WaitForServer, PausesGrowAreBoundedAndSumToTheWait) {
  Attempts attempts{.codes = {ENOENT}};
  EXPECT_EQ(attempts.run(3 * second).error().code(), ENOENT);
  Duration sum{0};
  for (const Duration pause : attempts.pauses) {
    EXPECT_LE(pause, std::chrono::milliseconds(250));
    sum += pause;
  }
  EXPECT_EQ(sum, 3 * second);
  EXPECT_LT(attempts.pauses.front(), attempts.pauses[3]);
}

TEST(WaitForServer, ItCanBeInterrupted) {
  Attempts attempts{.codes = {ENOENT}};
  EXPECT_EQ(attempts.run(second, false).error().code(), ECANCELED);
}

}  // namespace
}  // namespace outboard::vfio_user
