#include <outboard/base/internal/peers_eventfd.hpp>

#include <gtest/gtest.h>

#include <outboard/testing/fake_clock.hpp>

namespace outboard {
namespace {

constexpr Duration a_pause = SharedAsyncSignal::pause_between_attempts;

/// Others have what it takes, until they let it go.
struct Machine {
  bool used_up = true;
  unsigned attempts = 0;

  SharedAsyncSignal::Create create() {
    return [this]() -> Result<std::unique_ptr<AsyncSignal>> {
      ++attempts;
      if (used_up) return Error(EAGAIN);
      return AsyncSignal::create();
    };
  }
};

TEST(SharedAsyncSignal, IsHadAsSoonAsOthersLetItGo) {
  testing::FakeClock clock;
  Machine machine;
  SharedAsyncSignal shared(machine.create(), clock);
  EXPECT_EQ(shared.make().error().code(), EAGAIN);
  clock.advance(a_pause);
  EXPECT_EQ(shared.get(), nullptr);
  machine.used_up = false;
  EXPECT_EQ(shared.get(), nullptr) << "asked for at once again";
  clock.advance(a_pause);
  AsyncSignal* const had = shared.get();
  ASSERT_NE(had, nullptr);
  EXPECT_EQ(shared.get(), had);
  EXPECT_TRUE(shared.make());
  EXPECT_EQ(machine.attempts, 3U);
}

TEST(SharedAsyncSignal, IsNotAskedForWithEachSignalWhileItCannotBeHad) {
  testing::FakeClock clock;
  Machine machine;
  SharedAsyncSignal shared(machine.create(), clock);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(shared.get(), nullptr);
  EXPECT_EQ(machine.attempts, 1U);
}

TEST(SharedAsyncSignal, IsMadeBeforeThereIsAPeer) {
  Machine machine{.used_up = false};
  SharedAsyncSignal shared(machine.create());
  ASSERT_TRUE(shared.make());
  machine.used_up = true;  // by a client that connects now
  EXPECT_NE(shared.get(), nullptr);
  EXPECT_EQ(machine.attempts, 1U);
}

}  // namespace
}  // namespace outboard
