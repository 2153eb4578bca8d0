#include <outboard/pci/internal/function_host.hpp>

#include <gtest/gtest.h>

#include <outboard/testing/manual_loop.hpp>
#include <tests/support/plain_function.hpp>

namespace outboard::pci {
namespace {

using testing::PlainFunction;

int reset(FunctionHost& host) {
  const Status done =
      host.await([](Function& function, Function::Completion ended) { function.reset(std::move(ended)); });
  return done ? 0 : done.error().code();
}

TEST(FunctionHost, AResetThatIsLateHasNotEndedAndNothingElseIsStarted) {
  testing::ManualLoop loop;
  auto made = PlainFunction::create(loop, Log(), {.slow_reset = true}).value();
  PlainFunction& function = *made;
  const auto host = host_pumped(std::move(made), [&loop] { loop.run_until_idle(); }, Duration(0));
  EXPECT_EQ(reset(*host), ETIMEDOUT);
  EXPECT_EQ(reset(*host), EBUSY);
  EXPECT_EQ(function.resets(), 1U);
  function.finish_reset();
  EXPECT_EQ(reset(*host), ETIMEDOUT) << "the next one";
  EXPECT_EQ(function.resets(), 2U);
}

TEST(FunctionHost, OnAThreadLikewise) {
  PlainFunction* function = nullptr;
  const auto host =
      host_on_thread(PlainFunction::factory({.slow_reset = true}, &function), Log(), Duration(0), Duration(0)).value();
  EXPECT_EQ(reset(*host), ETIMEDOUT);
  EXPECT_EQ(reset(*host), EBUSY);
  ASSERT_TRUE(host->run([&](Function&) { function->finish_reset(); }));
  EXPECT_EQ(reset(*host), ETIMEDOUT);
}

}  // namespace
}  // namespace outboard::pci
