#include <outboard/testing/manual_loop.hpp>

#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>
#include <variant>
#include <vector>

#include <outboard/base/fd.hpp>

namespace outboard::testing {
namespace {

constexpr int max_passes = 100'000;

struct Watch {
  int fd;
  Ready interest;
  Loop::Watcher call;
};
struct Timer {
  TimePoint deadline;
  Loop::Task call;
};
struct PollerEntry {
  Loop::Poller call;
};
using Entry = std::variant<Watch, Timer, PollerEntry>;

short poll_bits(Ready interest) {
  return static_cast<short>((has(interest, Ready::readable) ? POLLIN : 0) |
                            (has(interest, Ready::writable) ? POLLOUT : 0));
}

Ready ready_bits(short events) {
  Ready ready = Ready::none;
  if ((events & POLLIN) != 0) ready = ready | Ready::readable;
  if ((events & POLLOUT) != 0) ready = ready | Ready::writable;
  if ((events & (POLLHUP | POLLERR)) != 0) ready = ready | Ready::hangup;
  return ready;
}

}  // namespace

// Simpler than Reactor on purpose: ids only grow, entries are shared so that a callback may end itself, and every pass
// works on a copy of the list of ids.
struct ManualLoop::State {
  FakeClock own;
  FakeClock& clock;
  EventFd wake;
  std::atomic<std::thread::id> thread = std::this_thread::get_id();
  bool running = false;
  std::map<std::uint64_t, std::shared_ptr<Entry>> entries;
  std::uint64_t next_id = 1;
  mutable std::mutex mutex;
  std::vector<Task> posted;  ///< guarded by mutex

  State() : clock(own) { make_wake(); }
  explicit State(FakeClock& injected) : clock(injected) { make_wake(); }
  void make_wake() {
    if (auto made = EventFd::create()) wake = std::move(*made);
  }

  template <typename Kind>
  std::vector<std::uint64_t> ids() const {
    std::vector<std::uint64_t> found;
    for (const auto& [id, entry] : entries) {
      if (std::holds_alternative<Kind>(*entry)) found.push_back(id);
    }
    return found;
  }
  template <typename Kind>
  std::pair<std::shared_ptr<Entry>, Kind*> find(std::uint64_t id) const {
    const auto found = entries.find(id);
    if (found == entries.end()) return {nullptr, nullptr};
    return {found->second, std::get_if<Kind>(found->second.get())};
  }
  /// Of an id that ids<Kind>() gave.
  template <typename Kind>
  Kind& at(std::uint64_t id) const {
    return std::get<Kind>(*entries.at(id));
  }
  std::uint64_t add(Entry entry) {
    entries.emplace(next_id, std::make_shared<Entry>(std::move(entry)));
    return next_id++;
  }

  std::vector<Task> take_posted() {
    const std::lock_guard lock(mutex);
    return std::exchange(posted, {});
  }
  std::optional<TimePoint> next_deadline() const {
    std::optional<TimePoint> first;
    for (const auto id : ids<Timer>()) {
      const TimePoint deadline = at<Timer>(id).deadline;
      if (!first || deadline < *first) first = deadline;
    }
    return first;
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
  std::vector<std::pair<TimePoint, std::uint64_t>> due;
  for (const auto id : ids<Timer>()) {
    const TimePoint deadline = at<Timer>(id).deadline;
    if (deadline <= clock.now()) due.emplace_back(deadline, id);
  }
  std::ranges::sort(due);
  bool ran = false;
  for (const auto& [deadline, id] : due) {
    const auto [entry, timer] = find<Timer>(id);
    if (timer == nullptr) continue;  // ended by one before it
    entries.erase(id);
    timer->call();
    ran = true;
  }
  return ran;
}

bool ManualLoop::State::run_pollers() {
  bool found = false;
  for (const auto id : ids<PollerEntry>()) {
    const auto [entry, poller] = find<PollerEntry>(id);
    if (poller != nullptr) found |= poller->call();
  }
  return found;
}

bool ManualLoop::State::run_watches(int milliseconds) {
  std::vector<pollfd> list{{wake.get(), POLLIN, 0}};
  std::vector<std::uint64_t> who{0};
  for (const auto id : ids<Watch>()) {
    const Watch& watch = at<Watch>(id);
    if (watch.interest == Ready::none) continue;
    list.push_back({watch.fd, poll_bits(watch.interest), 0});
    who.push_back(id);
  }
  if (::poll(list.data(), list.size(), milliseconds) <= 0) return false;
  if (list[0].revents != 0) wake.drain();
  bool did = false;
  for (std::size_t i = 1; i < list.size(); ++i) {
    const auto [entry, watch] = find<Watch>(who[i]);
    if (watch == nullptr || watch->interest == Ready::none) continue;
    const short events = static_cast<short>(list[i].revents & (poll_bits(watch->interest) | POLLHUP | POLLERR));
    if (events == 0) continue;
    watch->call(ready_bits(events));
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
  for (auto next = state_->next_deadline(); next && *next <= end; next = state_->next_deadline()) {
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
    state_->pass(state_->ids<PollerEntry>().empty() ? 20 : 0);
  }
  return true;
}

FakeClock& ManualLoop::fake_clock() { return state_->clock; }
std::size_t ManualLoop::registrations() const { return state_->entries.size(); }

Result<Registration> ManualLoop::watch(int fd, Ready interest, Watcher watcher) {
  struct stat info{};
  if (::fstat(fd, &info) < 0) return Error::from_errno("watching file descriptor " + std::to_string(fd));
  // poll(2) takes them and always says ready; epoll refuses them.
  if (S_ISREG(info.st_mode) || S_ISDIR(info.st_mode)) return Error(EPERM, "a file cannot be watched");
  for (const auto id : state_->ids<Watch>()) {
    if (state_->at<Watch>(id).fd == fd) return Error(EEXIST, "the descriptor is being watched already");
  }
  return Registration(*this, state_->add(Watch{fd, interest, std::move(watcher)}));
}

Status ManualLoop::rewatch(const Registration& registration, Ready interest) {
  Watch* watch = state_->find<Watch>(registration.id()).second;
  if (watch == nullptr) return Error(ENOENT, "changing a watch that has ended");
  watch->interest = interest;
  return {};
}

Registration ManualLoop::after(Duration delay, Task task) {
  const TimePoint now = state_->clock.now();
  delay = std::max(delay, Duration::zero());
  const TimePoint deadline = delay > TimePoint::max() - now ? TimePoint::max() : now + delay;
  return Registration(*this, state_->add(Timer{deadline, std::move(task)}));
}

Registration ManualLoop::poll(Poller poller) {
  return Registration(*this, state_->add(PollerEntry{std::move(poller)}));
}

void ManualLoop::post(Task task) {
  const std::lock_guard lock(state_->mutex);
  state_->posted.push_back(std::move(task));
  state_->wake.signal();
}

bool ManualLoop::in_loop_thread() const { return state_->thread == std::this_thread::get_id(); }
const Clock& ManualLoop::clock() const { return state_->clock; }

void ManualLoop::end(std::uint64_t id) {
  const auto found = state_->entries.find(id);
  if (found == state_->entries.end()) return;
  const auto gone = std::move(found->second);
  state_->entries.erase(found);
}

}  // namespace outboard::testing
