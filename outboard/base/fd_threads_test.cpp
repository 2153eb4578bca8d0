#include <outboard/base/fd.hpp>

#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace outboard {
namespace {

TEST(PeersEventFd, SignalsOfManyThreadsAreAllCounted) {
  constexpr std::uint64_t threads = 4, signals = 5000;
  const auto event = EventFd::adopt(EventFd::create().value().fd().duplicate().value()).value();
  std::vector<std::thread> running;
  for (std::uint64_t i = 0; i < threads; ++i)
    running.emplace_back([&event] {
      for (std::uint64_t n = 0; n < signals; ++n) event.signal();
    });
  for (std::thread& thread : running) thread.join();
  EXPECT_EQ(event.drain(), threads * signals);
}

}  // namespace
}  // namespace outboard
