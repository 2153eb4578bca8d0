#include <future>
#include <set>
#include <thread>

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace outboard
