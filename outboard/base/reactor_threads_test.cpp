#include <outboard/base/reactor.hpp>

#include <poll.h>

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/base/fd.hpp>

namespace outboard {
namespace {

using namespace std::chrono_literals;

class ReactorThreads : public ::testing::TestWithParam<Duration> {
 protected:
  std::unique_ptr<Reactor> loop_ = *Reactor::create({.spin = GetParam()});
};

INSTANTIATE_TEST_SUITE_P(SleepingAndSpinning, ReactorThreads, ::testing::Values(0ns, 20us),
                         [](const auto& value) { return value.param == 0ns ? "Sleeping" : "Spinning"; });

TEST_P(ReactorThreads, NoTaskOfAnyThreadIsLostAndEachThreadsOrderIsKept) {
  constexpr int posters = 3;
  constexpr int each = 5000;
  std::vector<int> last(posters, -1);  // touched by tasks only: the loop's thread
  int total = 0;
  std::vector<std::thread> threads;
  for (int who = 0; who < posters; ++who) {
    threads.emplace_back([&, who] {
      for (int i = 0; i < each; ++i) {
        loop_->post([&, who, i] {
          EXPECT_EQ(std::exchange(last[static_cast<std::size_t>(who)], i), i - 1);
          if (++total == posters * each) loop_->stop();
        });
      }
    });
  }
  EXPECT_TRUE(loop_->run().has_value());
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(total, posters * each);
}

TEST_P(ReactorThreads, LoopThatSleepsIsWokenForEveryTask) {
  // Ping-pong: each task is posted to a loop that has nothing else to do and goes to sleep, or is just about to.
  auto other = *Reactor::create({.spin = GetParam()});
  int left = 5000;
  std::function<void()> ping = [&] {
    other->post([&] {
      loop_->post([&] {
        if (--left != 0) return ping();
        other->stop();
        loop_->stop();
      });
    });
  };
  std::thread thread([&] { EXPECT_TRUE(other->run().has_value()); });
  ping();
  EXPECT_TRUE(loop_->run().has_value());
  thread.join();
  EXPECT_EQ(left, 0);
}

TEST_P(ReactorThreads, ForeignEventLoopIsWokenForEveryTask) {
  int left = 5000;
  std::atomic<int> done{0};
  std::thread poster([&] {
    for (int i = 0; i < 5000; ++i) {
      loop_->post([&] { --left; });
      while (i % 8 == 0 && done.load() < i) std::this_thread::yield();  // lets the loop fall asleep now and then
    }
  });
  pollfd entry{loop_->fd(), POLLIN, 0};
  while (left != 0) {
    ASSERT_EQ(::poll(&entry, 1, 30'000), 1) << "a task was posted and nobody was told";
    ASSERT_TRUE(loop_->process().has_value());
    done.store(5000 - left);
  }
  poster.join();
}

TEST_P(ReactorThreads, StopFromAnotherThreadEndsASleepingLoop) {
  std::thread stopper([&] { loop_->stop(); });
  EXPECT_TRUE(loop_->run().has_value());
  stopper.join();
}

TEST_P(ReactorThreads, OnlyTheThreadThatRunsTheLoopIsItsThread) {
  std::atomic<bool> inside{false};
  std::thread runner([&] {
    loop_->post([&] {
      EXPECT_TRUE(loop_->in_loop_thread());
      inside.store(true);
      loop_->stop();
    });
    EXPECT_TRUE(loop_->run().has_value());
    EXPECT_FALSE(loop_->in_loop_thread()) << "while nobody runs it, it belongs to who made it";
  });
  runner.join();
  EXPECT_TRUE(inside.load());
  EXPECT_TRUE(loop_->in_loop_thread());
}

TEST_P(ReactorThreads, BusyLoopTakesTasksOfOtherThreads) {
  const Registration busy = loop_->poll([] { return false; });
  std::thread poster([&] { loop_->post([&] { loop_->stop(); }); });
  EXPECT_TRUE(loop_->run().has_value());
  poster.join();
}

}  // namespace
}  // namespace outboard
