#include <outboard/testing/manual_loop.hpp>

#include <poll.h>

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include <outboard/base/fd.hpp>
#include <outboard/testing/internal/loop_entries.hpp>

namespace outboard::testing {
namespace {

constexpr int max_passes = 100'000;

}  // namespace

// Every pass works on a copy of the list of ids.
struct ManualLoop::State {
  FakeClock own;
  FakeClock& clock;
  EventFd wake;
  std::atomic<std::thread::id> thread = std::this_thread::get_id();
  bool running = false;
  LoopEntries entries;
  mutable std::mutex mutex;
  std::vector<Task> posted;  ///< guarded by mutex

  State() : clock(own) { make_wake(); }
  explicit State(FakeClock& injected) : clock(injected) { make_wake(); }
  void make_wake() {
    if (auto made = EventFd::create()) wake = std::move(*made);
  }

  std::vector<Task> take_posted() {
    const std::lock_guard lock(mutex);
    return std::exchange(posted, {});
  }
  bool run_posted();
  bool run_timers();
  bool run_pollers();
  bool run_watches(int milliseconds);
  bool pass(int milliseconds);
};

bool ManualLoop::State::run_posted() {
  std::vector<Task> tasks = take_posted();
  for (Task& task : tasks) {
    task();
    task = nullptr;
  }
  return !tasks.empty();
}

bool ManualLoop::State::run_timers() {
  bool ran = false;
  for (const auto id : entries.due(clock.now())) {
    const auto timer = entries.find<LoopEntries::Timer>(id);
    if (timer == nullptr) continue;  // ended by one before it
    entries.end(id);
    timer->call();
    ran = true;
  }
  return ran;
}

bool ManualLoop::State::run_pollers() {
  bool found = false;
  for (const auto id : entries.ids<LoopEntries::Poller>()) {
    const auto poller = entries.find<LoopEntries::Poller>(id);
    if (poller != nullptr) found |= poller->call();
  }
  return found;
}

bool ManualLoop::State::run_watches(int milliseconds) {
  LoopEntries::Asked asked = entries.to_poll();
  asked.list.push_back({wake.get(), POLLIN, 0});
  if (::poll(asked.list.data(), asked.list.size(), milliseconds) <= 0) return false;
  if (asked.list.back().revents != 0) wake.drain();
  bool did = false;
  for (std::size_t i = 0; i < asked.ids.size(); ++i) {
    const auto watch = entries.find<LoopEntries::Watch>(asked.ids[i]);
    const Ready ready = watch == nullptr ? Ready::none : LoopEntries::ready_of(*watch, asked.list[i].revents);
    if (ready == Ready::none) continue;
    watch->call(ready);
    did = true;
  }
  return did;
}

bool ManualLoop::State::pass(int milliseconds) {
  if (running) return false;
  running = true;
  thread = std::this_thread::get_id();
  bool did = run_posted();
  did |= run_timers();
  did |= run_pollers();
  did |= run_watches(did ? 0 : milliseconds);
  running = false;
  return did;
}

ManualLoop::ManualLoop() : state_(std::make_unique<State>()) {}
ManualLoop::ManualLoop(FakeClock& clock) : state_(std::make_unique<State>(clock)) {}

ManualLoop::~ManualLoop() {
  for (std::vector<Task> tasks = state_->take_posted(); !tasks.empty(); tasks = state_->take_posted()) tasks.clear();
}

bool ManualLoop::run_once() { return state_->pass(0); }

bool ManualLoop::run_until_idle() {
  int passes = 0;
  while (state_->pass(0)) {
    if (++passes == max_passes) throw std::runtime_error("ManualLoop never becomes idle: is a descriptor not drained?");
  }
  return passes != 0;
}

void ManualLoop::advance(Duration by) {
  const TimePoint end = state_->clock.now() + by;
  run_until_idle();
  for (auto next = state_->entries.next_deadline(); next && *next <= end; next = state_->entries.next_deadline()) {
    if (*next > state_->clock.now()) state_->clock.advance(*next - state_->clock.now());
    run_until_idle();
  }
  if (end > state_->clock.now()) state_->clock.advance(end - state_->clock.now());
  run_until_idle();
}

bool ManualLoop::run_until(const std::function<bool()>& done, Duration limit) {
  const TimePoint end = Clock::system().now() + limit;
  while (!done()) {
    if (Clock::system().now() >= end) return false;
    state_->pass(state_->entries.ids<LoopEntries::Poller>().empty() ? 20 : 0);
  }
  return true;
}

FakeClock& ManualLoop::fake_clock() { return state_->clock; }
std::size_t ManualLoop::registrations() const { return state_->entries.size(); }

Result<Registration> ManualLoop::watch(int fd, Ready interest, Watcher watcher) {
  OUTBOARD_TRY(const std::uint64_t id, state_->entries.add_watch(fd, interest, std::move(watcher)));
  return Registration(*this, id);
}

Status ManualLoop::rewatch(const Registration& watch, Ready interest) {
  return state_->entries.rewatch(watch.id(), interest);
}

Registration ManualLoop::after(Duration delay, Task task) {
  return Registration(*this, state_->entries.add_timer(state_->clock.now(), delay, std::move(task)));
}

Registration ManualLoop::poll(Poller poller) {
  return Registration(*this, state_->entries.add_poller(std::move(poller)));
}

void ManualLoop::post(Task task) {
  const std::lock_guard lock(state_->mutex);
  state_->posted.push_back(std::move(task));
  state_->wake.signal();
}

bool ManualLoop::in_loop_thread() const { return state_->thread == std::this_thread::get_id(); }
const Clock& ManualLoop::clock() const { return state_->clock; }

void ManualLoop::end(std::uint64_t id) { state_->entries.end(id); }

}  // namespace outboard::testing
