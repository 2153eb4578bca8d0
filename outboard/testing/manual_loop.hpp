#pragma once

#include <functional>
#include <memory>

#include <outboard/base/loop.hpp>
#include <outboard/testing/fake_clock.hpp>

namespace outboard::testing {

/// A Loop that runs only when the test calls it, on the test's own thread. Timers use a clock that stands still until the test
/// moves it; descriptors are checked with poll(2). post() may be called on any thread, all other calls on the thread that runs
/// the loop. As with Reactor, a callback may end any registration, its own included, and must not run the loop.
class ManualLoop final : public Loop {
 public:
  /// Makes a clock of its own.
  ManualLoop();
  /// Uses a clock that may be shared; the clock must outlive the loop.
  explicit ManualLoop(FakeClock& clock);
  ~ManualLoop() override;

  /// One pass: each task, timer, poller and descriptor that is ready now, once. Returns whether anything was done.
  bool run_once();
  /// Runs passes until one finds nothing to do, without sleeping. Returns whether anything was done. Throws after 100,000
  /// passes (a descriptor that is not drained), so that the test fails.
  bool run_until_idle();
  /// Moves the clock to each timer's deadline in turn, up to `by` from now, and runs until idle at each.
  void advance(Duration by);
  /// Runs the loop until `done` returns true, and sleeps for descriptors and posts in between: for what depends on other
  /// threads or processes. False: that takes longer than `limit` of real time.
  bool run_until(const std::function<bool()>& done, Duration limit = std::chrono::seconds(30));

  FakeClock& fake_clock();
  /// The number of registrations that have neither ended nor fired.
  std::size_t registrations() const;

  Result<Registration> watch(int fd, Ready interest, Watcher watcher) override;
  Status rewatch(const Registration& watch, Ready interest) override;
  Registration after(Duration delay, Task task) override;
  Registration poll(Poller poller) override;
  void post(Task task) override;
  bool in_loop_thread() const override;
  const Clock& clock() const override;

 protected:
  void end(std::uint64_t id) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace outboard::testing
