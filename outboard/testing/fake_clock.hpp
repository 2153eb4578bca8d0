#pragma once

#include <atomic>

#include <outboard/base/loop.hpp>

namespace outboard::testing {

/// A clock that stands still until the test moves it. now() may come from any thread.
class FakeClock final : public Clock {
 public:
  TimePoint now() const override { return TimePoint(Duration(since_start_.load(std::memory_order_relaxed))); }
  void advance(Duration by) { since_start_.fetch_add(by.count(), std::memory_order_relaxed); }

 private:
  std::atomic<Duration::rep> since_start_{1'000'000'000};  // not 0: "never" and "now" must not look the same
};

}  // namespace outboard::testing
