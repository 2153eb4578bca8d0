#include <outboard/testing/manual_loop.hpp>

#include <stdexcept>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/base/fd.hpp>

namespace outboard::testing {
namespace {

using namespace std::chrono_literals;

TEST(ManualLoop, NothingHappensUntilItIsPumped) {
  ManualLoop loop;
  int calls = 0;
  loop.post([&] { ++calls; });
  const auto timer = loop.after(0ns, [&] { ++calls; });
  EXPECT_EQ(calls, 0);
  EXPECT_TRUE(loop.run_until_idle());
  EXPECT_EQ(calls, 2);
  EXPECT_FALSE(loop.run_until_idle());
}

TEST(ManualLoop, AdvanceStopsAtEachDeadline) {
  ManualLoop loop;
  const TimePoint start = loop.clock().now();
  std::vector<Duration> at;
  Registration second;
  const auto first = loop.after(1s, [&] {
    at.push_back(loop.clock().now() - start);
    second = loop.after(1s, [&] { at.push_back(loop.clock().now() - start); });
  });
  loop.advance(5s);
  EXPECT_EQ(at, (std::vector<Duration>{1s, 2s}));
  EXPECT_EQ(loop.clock().now() - start, 5s);
}

TEST(ManualLoop, EventfdIsToldForEachWrite) {
  ManualLoop loop;
  const auto event = EventFd::create().value();
  int calls = 0;
  const auto watch = loop.watch_eventfd(event, [&] { ++calls; });
  ASSERT_TRUE(watch.has_value());
  for (int i = 1; i < 4; ++i) {
    event.signal();
    EXPECT_TRUE(loop.run_until_idle());
    EXPECT_EQ(calls, i);
  }
  EXPECT_FALSE(loop.run_until_idle());
}

TEST(ManualLoop, WatchSeesADescriptorAndMayEndItself) {
  ManualLoop loop;
  const auto event = *EventFd::create();
  Registration watch;
  int calls = 0;
  watch = *loop.watch(event.get(), Ready::readable, [&](Ready) {
    ++calls;
    watch.reset();
  });
  EXPECT_FALSE(loop.run_until_idle());
  event.signal();
  EXPECT_TRUE(loop.run_until_idle());
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(loop.registrations(), 0U);
}

TEST(ManualLoop, DescriptorThatNobodyDrainsDoesNotHangTheTest) {
  ManualLoop loop;
  const auto event = *EventFd::create();
  const auto watch = *loop.watch(event.get(), Ready::readable, [](Ready) {});
  event.signal();
  EXPECT_THROW(loop.run_until_idle(), std::runtime_error);
}

TEST(ManualLoop, RunUntilWaitsForAnotherThread) {
  ManualLoop loop;
  bool done = false;
  std::thread other([&] { loop.post([&] { done = true; }); });
  EXPECT_TRUE(loop.run_until([&] { return done; }));
  other.join();
}

}  // namespace
}  // namespace outboard::testing
