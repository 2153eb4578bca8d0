#pragma once

#include <functional>
#include <memory>

#include <outboard/base/loop.hpp>
#include <outboard/testing/fake_clock.hpp>

namespace outboard::testing {

/// A Loop that does nothing until the test pumps it, on the test's own thread. Timers go by a clock that stands still
/// until the test moves it; descriptors are looked at with poll(2). post() may come from any thread, all else from the
/// one that pumps. The same rules as Reactor: a callback may end any registration, itself included, and cannot pump.
class ManualLoop final : public Loop {
 public:
  /// With a clock of its own.
  ManualLoop();
  /// With one that it shares with others; the clock must outlive it.
  explicit ManualLoop(FakeClock& clock);
  ~ManualLoop() override;

  /// One pass: each task, timer, poller and descriptor that is ready now, once. Returns whether anything was done.
  bool run_once();
  /// Passes until one finds nothing to do, never sleeping. Returns whether anything was done. Gives up after 100,000
  /// passes (a descriptor that nobody drains), with the test failed by an exception.
  bool run_until_idle();
  /// Moves the clock to each timer's deadline in turn, up to `by` from now, and runs until idle at each.
  void advance(Duration by);
  /// Pumps until `done`, sleeping in between for descriptors and posts: for what other threads or processes have to do
  /// first. False when that takes more than `limit` of real time.
  bool run_until(const std::function<bool()>& done, Duration limit = std::chrono::seconds(30));

  FakeClock& fake_clock();
  /// Registrations that have neither ended nor fired.
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
