#include <atomic>
#include <functional>
#include <future>
#include <set>
#include <thread>

#include <gtest/gtest.h>

#include <outboard/base/internal/run_on.hpp>
#include <outboard/base/reactor_pool.hpp>

namespace outboard {
namespace {

TEST(ReactorPool, GivesEachLoopAThreadOfItsOwnAndDealsThemOut) {
  const auto pool = ReactorPool::create(2, "test", {}).value();
  const auto loops = pool->loops(3);
  ASSERT_EQ(loops.size(), 3U);
  EXPECT_EQ(loops[0], loops[2]);
  EXPECT_NE(loops[0], loops[1]);
  std::set<std::thread::id> seen{std::this_thread::get_id()};
  for (Loop* const loop : {loops[0], loops[1]}) {
    EXPECT_FALSE(loop->in_loop_thread());
    std::promise<std::thread::id> id;
    loop->post([&] { id.set_value(std::this_thread::get_id()); });
    EXPECT_TRUE(seen.insert(id.get_future().get()).second);
  }
}

TEST(ReactorPool, WithoutThreadsHasNoLoops) {
  EXPECT_TRUE(ReactorPool::create(0, "test", {}).value()->loops(4).empty());
}

TEST(ReactorPool, StoppedItsLoopsAreOfTheThreadThatMadeIt) {
  const auto pool = ReactorPool::create(1, "test", {}).value();
  Loop* const loop = pool->loops(1)[0];
  std::atomic<unsigned> passes{0};  // of a task that goes on and on
  std::function<void()> work = [&] {
    ++passes;
    loop->post(work);
  };
  loop->post(work);
  pool->stop();
  const unsigned seen = passes;
  EXPECT_TRUE(loop->in_loop_thread());
  run_on(*loop, [] {});  // and waits for nobody
  pool->stop();
  EXPECT_EQ(passes, seen);
}

}  // namespace
}  // namespace outboard
