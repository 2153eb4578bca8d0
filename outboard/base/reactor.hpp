#pragma once

#include <atomic>
#include <memory>

#include <outboard/base/loop.hpp>

namespace outboard {

/// The library's own Loop, on epoll. Create it and register things. Then either run() it on one thread until stop(), or
/// watch fd() in another event loop and call process() when it is readable.
class Reactor final : public Loop {
 public:
  struct Options {
    const Clock* clock = nullptr;  ///< nullptr: the machine's monotonic clock
    /// How long the loop polls for work before it sleeps. 0: sleeps at once.
    Duration spin{0};
  };

  static Result<std::unique_ptr<Reactor>> create(Options options);
  static Result<std::unique_ptr<Reactor>> create() { return create(Options{}); }
  ~Reactor() override;

  /// Serves events until stop(); returns at once if stop() was called before. EDEADLK: called from a callback. Any other error
  /// is the kernel's and means that fd() cannot be waited for any more: the loop is unusable, and run_once() and process()
  /// return the same error.
  Status run();
  /// Ends run() after the pass in progress, for good. Any thread, and from a signal handler. run_once() and process()
  /// still work, so that what is in flight can be finished; a run_once() that sleeps returns.
  void stop();
  bool stopped() const;
  /// Waits at most `timeout` (real time; negative: for ever) for something to do, and does it. Returns whether
  /// anything was done; may return false early.
  /// EDEADLK: called from a callback.
  Result<bool> run_once(Duration timeout);
  /// Does what can be done without waiting.
  Status process();
  /// Readable when process() has something to do, timers included. With a clock of the caller's, process() checks
  /// the timers against that clock, but the descriptor becomes readable by real time.
  int fd() const;

  Result<Registration> watch(int fd, Ready interest, Watcher watcher) override;
  Result<Registration> watch_eventfd(const EventFd& eventfd, Task signalled) override;
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
  explicit Reactor(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace outboard
