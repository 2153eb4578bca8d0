#include <outboard/base/wait.hpp>

#include <fcntl.h>

#include <gtest/gtest.h>

#include <outboard/base/fd.hpp>
#include <outboard/testing/temp_dir.hpp>

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

}  // namespace
}  // namespace outboard
