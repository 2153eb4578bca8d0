#include <outboard/pci/internal/function_host.hpp>

#include <chrono>
#include <condition_variable>
#include <future>
#include <mutex>
#include <optional>
#include <thread>

#include <outboard/base/internal/thread.hpp>
#include <outboard/base/reactor.hpp>

namespace outboard::pci {

namespace {

Error would_wait_for_itself() { return Error(EDEADLK, "the call comes from inside the function that it waits for"); }
Error ended() { return Error(ENODEV, "the function has ended"); }
Error too_late() { return Error(ETIMEDOUT, "the function did not complete the call in time"); }
Error still_at_it() { return Error(EBUSY, "an earlier unmap or reset of the function is still in progress"); }

/// The outcome of something that ends on another thread. Shared with it, since the waiter may have given up.
class Outcome {
 public:
  void set(Status status) {
    const std::scoped_lock lock(mutex_);
    status_ = std::move(status);
    set_.notify_all();
  }
  std::optional<Status> wait_for(Duration limit) {
    std::unique_lock lock(mutex_);
    set_.wait_for(lock, limit, [this] { return status_.has_value(); });
    return status_;
  }
  void wait() {
    std::unique_lock lock(mutex_);
    set_.wait(lock, [this] { return status_.has_value(); });
  }
  std::optional<Status> peek() {
    const std::scoped_lock lock(mutex_);
    return status_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable set_;
  std::optional<Status> status_;
};

/// The call that await() has started last. Who has given up waiting for it must not start another one.
class Awaited {
 public:
  /// EBUSY: it has not ended.
  Result<std::shared_ptr<Outcome>> begin() {
    if (last_ && !last_->peek()) return still_at_it();
    return last_ = std::make_shared<Outcome>();
  }

 private:
  std::shared_ptr<Outcome> last_;
};

class ThreadHost final : public FunctionHost {
 public:
  explicit ThreadHost(Duration limit) : limit_(limit) {}
  ~ThreadHost() override { ThreadHost::end(); }

  Status begin(FunctionFactory factory, Log log, Duration spin) {
    std::promise<Result<std::unique_ptr<Reactor>>> made;
    auto reactor = made.get_future();
    OUTBOARD_TRY(thread_, start_thread("the function", [&made, spin] { serve(made, spin); }));
    auto served = reactor.get();
    if (!served) {
      thread_.join();
      return served.error();
    }
    reactor_ = std::move(*served);
    Status status;
    carry([&] {
      auto function = factory(*reactor_, std::move(log));
      if (function) function_ = std::move(*function);
      if (!function) status = function.error();
    });
    return status;
  }

  Status run(Call call) override {
    if (!function_) return ended();
    if (reactor_->in_loop_thread()) return would_wait_for_itself();
    carry([&] { call(*function_); });
    return {};
  }

  Status await(Start start) override {
    OUTBOARD_TRY(const auto outcome, awaited_.begin());
    const Status started = run(
        [&](Function& function) { start(function, [outcome](Status status) { outcome->set(std::move(status)); }); });
    if (!started) {
      outcome->set(started);
      return started;
    }
    const auto status = outcome->wait_for(limit_);
    return status ? *status : Status(too_late());
  }

  void end() override {
    if (!reactor_) return;
    carry([this] { function_.reset(); });
    reactor_->stop();
    thread_.join();
    reactor_.reset();
  }

 private:
  /// The reactor is made on its thread, so that nobody else is ever taken to be in it, and given to the host, which
  /// destroys it when the thread has ended: a thread that destroyed it by itself would do so under a post() or stop()
  /// that has woken it and has not returned yet.
  static void serve(std::promise<Result<std::unique_ptr<Reactor>>>& made, Duration spin) {
    auto reactor = Reactor::create({.clock = nullptr, .spin = spin});
    Reactor* const running = reactor ? reactor->get() : nullptr;
    made.set_value(std::move(reactor));  // begin() keeps `made` until this thread has done more
    if (running == nullptr) return;
    [[maybe_unused]] const Status ran = running->run();
  }

  /// Runs `task` on the function's thread and waits until it has run.
  template <typename Task>
  void carry(Task task) {
    Outcome done;
    reactor_->post([&task, &done] {
      task();
      done.set({});
    });
    done.wait();
  }

  Duration limit_;
  Awaited awaited_;
  std::thread thread_;
  std::unique_ptr<Reactor> reactor_;  ///< outlives the thread
  std::unique_ptr<Function> function_;  ///< touched on the thread only, but for whether it is there
};

class PumpedHost final : public FunctionHost {
 public:
  PumpedHost(std::unique_ptr<Function> function, Loop::Task pump, Duration limit)
      : limit_(limit), function_(std::move(function)), pump_(std::move(pump)) {}
  ~PumpedHost() override { PumpedHost::end(); }

  Status run(Call call) override {
    if (!function_) return ended();
    call(*function_);
    return {};
  }

  Status await(Start start) override {
    if (!function_) return ended();
    if (pumping_) return would_wait_for_itself();
    OUTBOARD_TRY(const auto outcome, awaited_.begin());
    start(*function_, [outcome](Status status) { outcome->set(std::move(status)); });
    const auto give_up = std::chrono::steady_clock::now() + limit_;
    while (true) {
      if (auto status = outcome->peek()) return *status;
      if (std::chrono::steady_clock::now() > give_up) return too_late();
      pumping_ = true;
      if (pump_) pump_();
      pumping_ = false;
      // Idle, and not complete: it is another thread's turn (back-end I/O), which ends in a post to the pumped loop.
      if (!outcome->peek()) std::this_thread::yield();
    }
  }

  void end() override { function_.reset(); }

 private:
  Duration limit_;
  Awaited awaited_;
  std::unique_ptr<Function> function_;
  Loop::Task pump_;
  bool pumping_ = false;
};

}  // namespace

Result<std::unique_ptr<FunctionHost>> host_on_thread(FunctionFactory factory, Log log, Duration spin, Duration limit) {
  auto host = std::make_unique<ThreadHost>(limit);
  OUTBOARD_CHECK(host->begin(std::move(factory), std::move(log), spin));
  return host;
}

std::unique_ptr<FunctionHost> host_pumped(std::unique_ptr<Function> function, Loop::Task pump, Duration limit) {
  return std::make_unique<PumpedHost>(std::move(function), std::move(pump), limit);
}

}  // namespace outboard::pci
