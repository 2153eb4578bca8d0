#include <outboard/storage/internal/image_wait.hpp>

#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/base/internal/wait.hpp>

namespace outboard::storage {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Obstacle obstacle(const std::string& who, Duration timeout) {
  return {.who = who, .what = who + " has it", .timeout = timeout, .refusal = Error(EBUSY, who + " has it")};
}

class WaitForImage : public ::testing::Test {
 protected:
  using Found = Result<std::optional<Obstacle>>;

  Status wait(const std::function<Found()>& attempt) {
    const Log log([this](Level, std::string_view line) { said.emplace_back(line); });
    return wait_for_image("disk.raw", timeouts, log, [this, attempt] {
      ++attempts;
      return attempt();
    });
  }

  LockTimeouts timeouts;
  unsigned attempts = 0;
  std::vector<std::string> said;
};

TEST_F(WaitForImage, EndsWhereNothingIsInTheWay) {
  EXPECT_TRUE(wait([]() -> Found { return std::nullopt; }));
  EXPECT_EQ(attempts, 1U);
  EXPECT_THAT(said, IsEmpty());
}

TEST_F(WaitForImage, EndsWithTheErrorOfAnAttempt) {
  EXPECT_EQ(wait([]() -> Found { return Error(EIO); }).error().code(), EIO);
  EXPECT_EQ(attempts, 1U);
}

TEST_F(WaitForImage, EndsWithTheRefusalOfWhatIsNotWaitedFor) {
  const Status ended = wait([]() -> Found { return obstacle("process 1", Duration::zero()); });
  EXPECT_EQ(ended.error().code(), EBUSY);
  EXPECT_EQ(attempts, 1U);
}

TEST_F(WaitForImage, SaysOnceForWhomAndHowLong) {
  const Status ended = wait([this]() -> Found {
    return said.empty() || attempts % 4 != 0 ? Found(obstacle("process 1", seconds(600))) : Found(std::nullopt);
  });
  EXPECT_TRUE(ended);
  ASSERT_EQ(said.size(), 2U);
  EXPECT_EQ(said[0], "disk.raw: waiting up to 600 s: process 1 has it");
  EXPECT_THAT(said[1], HasSubstr("disk.raw: free after "));
}

TEST_F(WaitForImage, SaysNothingOfWhatIsWaitedForForAMoment) {
  EXPECT_FALSE(wait([]() -> Found { return obstacle("udev", milliseconds(400)); }));
  EXPECT_THAT(said, IsEmpty());
}

TEST_F(WaitForImage, WaitsForASecondOneAsLongAsForAFirst) {
  // The one that is gone was waited for for longer than the second one's timeout.
  timeouts.pause = [](Duration) { return pause_thread(milliseconds(30)); };
  unsigned second = 0;
  const Status ended = wait([&]() -> Found {
    return attempts == 1 ? obstacle("process 1", seconds(600)) : (++second, obstacle("process 2", milliseconds(20)));
  });
  EXPECT_THAT(ended.error().message(), HasSubstr("process 2"));
  EXPECT_EQ(second, 2U);
}

TEST_F(WaitForImage, DoesNotWaitForEverForSomeThatTakeTurns) {
  const Status ended =
      wait([this]() -> Found { return obstacle("process " + std::to_string(attempts), milliseconds(10)); });
  EXPECT_EQ(ended.error().code(), EBUSY);
  EXPECT_GT(attempts, 2U);
}

TEST_F(WaitForImage, EndsWhenTheProgramIsToEnd) {
  timeouts.pause = [](Duration) { return false; };
  const Status ended = wait([]() -> Found { return obstacle("process 1", seconds(600)); });
  EXPECT_EQ(ended.error().code(), ECANCELED);
  EXPECT_THAT(ended.error().message(), HasSubstr("interrupted while waiting for process 1"));
}

}  // namespace
}  // namespace outboard::storage
