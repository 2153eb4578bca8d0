#include <tools/outboard/blk/progress.hpp>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include <cstdio>

#include <outboard/base/fd.hpp>
#include <outboard/testing/fake_clock.hpp>

namespace outboard::command {
namespace {

/// A terminal without anybody at it.
class OnATerminal : public ::testing::Test {
 protected:
  void SetUp() override {
    keyboard_.reset(posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC));
    ASSERT_TRUE(keyboard_.valid() && grantpt(keyboard_.get()) == 0 && unlockpt(keyboard_.get()) == 0);
    screen_ = std::fopen(ptsname(keyboard_.get()), "w");
    ASSERT_NE(screen_, nullptr);
  }
  void TearDown() override {
    if (screen_ != nullptr) std::fclose(screen_);
  }
  /// What has been shown since the last look.
  std::string shown() {
    char text[512];
    const ssize_t size = read(keyboard_.get(), text, sizeof text);
    return size <= 0 ? "" : std::string(text, static_cast<std::size_t>(size));
  }

  outboard::testing::FakeClock clock_;
  UniqueFd keyboard_;
  std::FILE* screen_ = nullptr;
};

TEST_F(OnATerminal, NothingIsShownInTheFirstSecond) {
  {
    Progress progress("reading", 0, clock_, screen_);
    clock_.advance(std::chrono::milliseconds(999));
    progress.at(1 << 20);
  }
  EXPECT_EQ(shown(), "");
}

TEST_F(OnATerminal, OneLineIsKeptUpToDateAndTakenAwayAtTheEnd) {
  {
    Progress progress("reading", 4 << 20, clock_, screen_);
    clock_.advance(std::chrono::seconds(1));
    progress.at(1 << 20);
    EXPECT_EQ(shown(), "\r\033[Kreading:  25% of 4 MiB, 1 MiB, 1.0 MiB/s");
    progress.at(2 << 20);
    EXPECT_EQ(shown(), "") << "not for each piece";
    clock_.advance(std::chrono::seconds(1));
    progress.at(3 << 20);
    EXPECT_EQ(shown(), "\r\033[Kreading:  75% of 4 MiB, 3 MiB, 1.5 MiB/s");
  }
  EXPECT_EQ(shown(), "\r\033[K");
}

TEST(Progress, IsNotShownWhereThereIsNoTerminal) {
  outboard::testing::FakeClock clock;
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  {
    Progress progress("reading", 0, clock, file);
    clock.advance(std::chrono::seconds(5));
    progress.at(1 << 20);
  }
  EXPECT_EQ(std::ftell(file), 0);
  std::fclose(file);
}

}  // namespace
}  // namespace outboard::command
