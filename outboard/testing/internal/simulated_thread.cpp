#include <outboard/testing/internal/simulated_thread.hpp>

#include <algorithm>
#include <exception>
#include <utility>

#include <outboard/testing/internal/simulator.hpp>

namespace outboard::testing {

bool SimulatedProcess::ended() const {
  return std::ranges::all_of(threads, [](const auto& thread) { return thread->ended(); });
}

// The loop.

void SimulatedLoop::drop_posted() {
  while (!posted_.empty()) {
    const Task gone = std::move(posted_.front());
    posted_.pop_front();
  }
}

Result<Registration> SimulatedLoop::watch(int fd, Ready interest, Watcher watcher) {
  OUTBOARD_TRY(const std::uint64_t id, entries_.add_watch(fd, interest, std::move(watcher)));
  return Registration(*this, id);
}

Registration SimulatedLoop::after(Duration delay, Task task) {
  return Registration(*this, entries_.add_timer(clock().now(), delay, std::move(task)));
}

bool SimulatedLoop::in_loop_thread() const { return thread_.simulator().current() == &thread_; }
const Clock& SimulatedLoop::clock() const { return thread_.simulator().clock(); }

bool SimulatedLoop::has_work(TimePoint now) const {
  if (!posted_.empty() || !entries_.ids<LoopEntries::Poller>().empty()) return true;
  const auto next = entries_.next_deadline();
  return next && *next <= now;
}

void SimulatedLoop::run_posted() {
  Task task = std::move(posted_.front());
  posted_.pop_front();
  task();
}

void SimulatedLoop::run_one() {
  // In the order in which a quiet machine has them: tasks and timers keep theirs among each other.
  std::vector<Task> candidates;
  if (!posted_.empty()) candidates.emplace_back([this] { run_posted(); });
  if (const auto due = entries_.due(clock().now()); !due.empty()) {
    candidates.emplace_back([this, id = due.front()] {
      const auto timer = entries_.find<LoopEntries::Timer>(id);
      entries_.end(id);
      timer->call();
    });
  }
  LoopEntries::Asked asked = entries_.to_poll();
  if (!asked.list.empty()) ::poll(asked.list.data(), asked.list.size(), 0);
  for (std::size_t i = 0; i < asked.ids.size(); ++i) {
    const auto watch = entries_.find<LoopEntries::Watch>(asked.ids[i]);
    const Ready ready = LoopEntries::ready_of(*watch, asked.list[i].revents);
    if (ready != Ready::none) candidates.emplace_back([watch, ready] { watch->call(ready); });
  }
  for (const auto id : entries_.ids<LoopEntries::Poller>()) {
    candidates.emplace_back([poller = entries_.find<LoopEntries::Poller>(id)] { poller->call(); });
  }
  if (candidates.empty()) return;
  const auto count = static_cast<std::uint32_t>(candidates.size());
  if (thread_.simulator().keeps_transcript())
    thread_.simulator().note(std::to_string(posted_.size()) + " posted, " + std::to_string(asked.ids.size()) +
                             " watches, " + std::to_string(count) + " candidates");
  const std::uint32_t chosen = thread_.simulator().choose(Choice::run, count);
  candidates[chosen]();
}

// The thread.

SimulatedThread::SimulatedThread(Simulator& simulator, SimulatedProcess& process, std::uint32_t number,
                                 std::function<void(Process&)> body)
    : simulator_(simulator), process_(process), number_(number), loop_(*this), fiber_([this, body = std::move(body)] {
        run_body(body);
      }) {}

Simulation& SimulatedThread::simulation() { return simulator_.simulation(); }

void SimulatedThread::run_body(const std::function<void(Process&)>& body) {
  begun_ = true;
  try {
    body(*this);
  } catch (const Killed&) {
    simulator_.note("its code has unwound");
  } catch (const std::exception& error) {
    simulator_.fail(process_.name + " ended with an exception: " + error.what());
  } catch (...) {
    simulator_.fail(process_.name + " ended with an exception of an unknown type");
  }
  loop_.drop_posted();
}

void SimulatedThread::wait(Waiting waiting) {
  if (process_.killed) return;
  waiting_ = std::move(waiting);
  fiber_.suspend();
}

bool SimulatedThread::run_loop(TimePoint until, const std::function<bool()>& done) {
  // So that a caller's loop around this one cannot go round without a step.
  if (done()) {
    yield();
    if (process_.killed) throw Killed();
    return false;
  }
  while (true) {
    if (process_.killed) throw Killed();
    if (done()) return false;
    if (simulator_.now() >= until) return true;
    wait({.for_loop = true, .descriptors = {}, .until = until});
    if (process_.killed) throw Killed();
    loop_.run_one();
  }
}

void SimulatedThread::run_until(const std::function<bool()>& done) { run_loop(TimePoint::max(), done); }

bool SimulatedThread::run_for(Duration time, const std::function<bool()>& done) {
  return run_loop(after(simulator_.now(), time), done);
}

void SimulatedThread::pause(Duration time) {
  try {
    if (!process_.killed) run_for(time, [] { return false; });
  } catch (const Killed&) {
    // The caller may be a destructor.
    simulator_.note("killed while it waits");
  }
}

void SimulatedThread::run() {
  run_loop(TimePoint::max(), [] { return false; });
  throw Killed();
}

void SimulatedThread::start_thread(std::function<void(Process&)> body) {
  simulator_.add_thread(process_, std::move(body));
}

void SimulatedThread::require(bool condition, const std::string& what) {
  if (!condition && !process_.killed) simulator_.fail(process_.name + ": " + what);
}

}  // namespace outboard::testing
