#include <outboard/base/internal/log_limit.hpp>

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/testing/fake_clock.hpp>

namespace outboard {
namespace {

class LogLimitTest : public ::testing::Test {
 protected:
  testing::FakeClock clock_;
  std::vector<std::string> lines_;
  Log log_ = limited(Log([this](Level, std::string_view line) { lines_.emplace_back(line); }, Level::debug), clock_,
                     {.burst = 3, .interval = std::chrono::seconds(1)});
};

TEST_F(LogLimitTest, AFloodIsCutAndCounted) {
  for (int i = 0; i < 1000; ++i) log_.warning("refused {}", i);
  EXPECT_EQ(lines_, (std::vector<std::string>{"refused 0", "refused 1", "refused 2"}));
  clock_.advance(std::chrono::seconds(1));
  log_.named("x").warning("refused");
  log_.warning("refused");
  EXPECT_EQ(lines_.size(), 4u);
  EXPECT_EQ(lines_.back(), "x: refused (997 lines before it left out)");
  clock_.advance(std::chrono::hours(1));
  for (int i = 0; i < 10; ++i) log_.error("again");
  EXPECT_EQ(lines_.size(), 7u) << "no more than a burst, however long it was quiet";
}

TEST_F(LogLimitTest, DebugLinesAllCome) {
  for (int i = 0; i < 100; ++i) log_.debug("detail");
  EXPECT_EQ(lines_.size(), 100u);
}

TEST_F(LogLimitTest, OfASilentLogIsSilent) { EXPECT_FALSE(limited(Log(), clock_).enabled(Level::error)); }

}  // namespace
}  // namespace outboard
