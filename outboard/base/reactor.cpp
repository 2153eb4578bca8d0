#include <outboard/base/reactor.hpp>

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <map>
#include <mutex>
#include <thread>
#include <variant>
#include <vector>

#include <outboard/base/fd.hpp>
#include <outboard/base/internal/registry.hpp>

namespace outboard {
namespace {

constexpr Duration for_ever = Duration::max();
/// While pollers keep the loop awake, descriptors are looked at this often: a system call a pass would be most of the
/// pass.
constexpr Duration busy_look_interval = std::chrono::microseconds(20);
constexpr unsigned busy_passes_per_clock_read = 16;

constexpr std::uint64_t wake_event = 1;
constexpr std::uint64_t timer_event = 2;

std::uint32_t epoll_bits(Ready interest) {
  return (has(interest, Ready::readable) ? std::uint32_t{EPOLLIN} : 0U) |
         (has(interest, Ready::writable) ? std::uint32_t{EPOLLOUT} : 0U);
}

Ready ready_bits(std::uint32_t events) {
  Ready ready = Ready::none;
  if ((events & EPOLLIN) != 0) ready = ready | Ready::readable;
  if ((events & EPOLLOUT) != 0) ready = ready | Ready::writable;
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) ready = ready | Ready::hangup;
  return ready;
}

timespec to_timespec(Duration duration) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(duration);
  return {.tv_sec = static_cast<std::time_t>(seconds.count()),
          .tv_nsec = static_cast<long>((duration - seconds).count())};
}

/// For epoll_wait, which takes whole milliseconds: never shorter than was asked for, and the caller looks at the clock.
int to_milliseconds(Duration duration) {
  constexpr std::int64_t max_wait = std::int64_t{3600} * 1000;
  return static_cast<int>(std::min(std::chrono::ceil<std::chrono::milliseconds>(duration).count(), max_wait));
}

/// A moment `delay` after `now`, or the last one there is.
TimePoint later(TimePoint now, Duration delay) {
  delay = std::max(delay, Duration::zero());
  return delay > TimePoint::max() - now ? TimePoint::max() : now + delay;
}

struct TimerKey {
  TimePoint deadline;
  std::uint64_t sequence;
  auto operator<=>(const TimerKey&) const = default;
};

struct Watch {
  int fd;
  Ready interest;
  std::uint32_t mode;  ///< EPOLLET, or 0
  Loop::Watcher call;
};
struct Timer {
  TimerKey key;
  Loop::Task call;
};
struct PollerEntry {
  Loop::Poller call;
};
using Entry = std::variant<Watch, Timer, PollerEntry>;

}  // namespace

struct Reactor::State {
  const Clock& clock;
  Duration spin;
  UniqueFd epoll;
  UniqueFd timer;
  EventFd wake;

  std::atomic<std::thread::id> owner = std::this_thread::get_id();
  const std::thread::id creator = std::this_thread::get_id();
  std::atomic<bool> running{false};
  std::atomic<bool> stopped{false};

  Registry<Entry> entries;
  std::map<TimerKey, std::uint64_t> timers;
  std::uint64_t next_timer = 0;
  TimePoint armed_deadline = TimePoint::max();  ///< what the timerfd is set to
  std::vector<std::uint64_t> pollers;  ///< 0: ended, to be swept
  unsigned busy_passes = 0;
  TimePoint last_look{};
  std::array<epoll_event, 64> events{};
  bool fine_timeouts = true;  ///< the kernel lets us call epoll_pwait2
  int failed = 0;  ///< errno of an epoll that cannot be waited for any more

  std::mutex mutex;
  std::vector<Task> posted;  ///< guarded by mutex
  std::vector<Task> taken;  ///< being run; swapped with `posted`, so that neither allocates in the steady state
  std::atomic<bool> has_posted{false};
  /// Nobody is going to look at `posted` before something makes fd() readable. True while the loop sleeps and while
  /// nobody runs it; the poster who finds it so takes it back and writes the eventfd.
  std::atomic<bool> asleep{true};

  State(const Clock& injected, Duration how_long) : clock(injected), spin(how_long) {}

  bool run_posted();
  bool run_timers();
  bool run_pollers();
  bool due_work() const;
  bool look_now();
  int wait_for_events(Duration timeout);
  int collect(Duration timeout);
  Status failure() const;
  int collect_sleeping(Duration timeout);
  bool dispatch(int count, bool& woken);
  bool turn(Duration timeout, bool& woken);
  void fall_asleep();
  void arm_timer();
  Status change(int operation, int fd, std::uint32_t epoll_events, std::uint64_t id) const;
  Result<std::uint64_t> add(Watch watch);
};

/// Marks the loop as run by this thread, for one call. Refuses a second one, whether from inside a callback or from
/// another thread.
class RunningScope {
 public:
  RunningScope(std::atomic<bool>& running, std::atomic<std::thread::id>& owner, std::thread::id creator)
      : running_(running),
        owner_(owner),
        creator_(creator),
        entered_(!running.exchange(true, std::memory_order_acquire)) {
    if (entered_) owner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  }
  ~RunningScope() {
    if (!entered_) return;
    owner_.store(creator_, std::memory_order_relaxed);
    running_.store(false, std::memory_order_release);  // row M16
  }
  RunningScope(const RunningScope&) = delete;
  RunningScope& operator=(const RunningScope&) = delete;
  bool entered() const { return entered_; }
  static Error refused() { return Error(EDEADLK, "the event loop is running already; a callback cannot run it"); }

 private:
  std::atomic<bool>& running_;
  std::atomic<std::thread::id>& owner_;
  std::thread::id creator_;
  bool entered_;
};

bool Reactor::State::run_posted() {
  if (!has_posted.load(std::memory_order_relaxed)) return false;
  {
    const std::lock_guard lock(mutex);
    taken.swap(posted);
    has_posted.store(false, std::memory_order_relaxed);
  }
  for (Task& task : taken) {
    task();
    task = nullptr;  // what it holds goes now, not after the tasks behind it
  }
  taken.clear();
  return true;
}

bool Reactor::State::run_timers() {
  if (timers.empty()) return false;
  const TimePoint now = clock.now();
  const std::uint64_t end =
      next_timer;  // one that a callback adds waits for the next pass, so it cannot starve the rest
  bool ran = false;
  while (!timers.empty()) {
    const auto first = timers.begin();
    if (first->first.deadline > now || first->first.sequence >= end) break;
    const std::uint64_t id = first->second;
    timers.erase(first);
    const std::unique_ptr<Entry> entry = entries.remove(id);
    std::get<Timer>(*entry).call();
    ran = true;
  }
  return ran;
}

bool Reactor::State::run_pollers() {
  bool found = false;
  const std::size_t count = pollers.size();  // those that a callback adds wait for the next pass
  for (std::size_t i = 0; i < count; ++i) {
    Entry* entry = entries.find(pollers[i]);
    if (entry == nullptr) continue;
    const Registry<Entry>::Running hold(entries, *entry);
    found |= std::get<PollerEntry>(*entry).call();
  }
  if (count != 0) std::erase(pollers, 0);
  return found;
}

bool Reactor::State::due_work() const {
  return has_posted.load(std::memory_order_relaxed) ||
         (!timers.empty() && timers.begin()->first.deadline <= clock.now());
}

/// Whether a pass of the busy loop should ask the kernel about descriptors.
bool Reactor::State::look_now() {
  if (pollers.empty()) return true;
  if (++busy_passes < busy_passes_per_clock_read) return false;
  busy_passes = 0;
  const TimePoint now = Clock::system().now();
  if (now - last_look < busy_look_interval) return false;
  last_look = now;
  return true;
}

/// epoll_wait, or epoll_pwait2 where the timeout needs more than milliseconds. A kernel before 5.11 does not have the
/// latter, and a seccomp filter older than it denies it.
int Reactor::State::wait_for_events(Duration timeout) {
  const auto room = static_cast<int>(events.size());
  if (timeout == for_ever) return ::epoll_wait(epoll.get(), events.data(), room, -1);
  if (timeout == Duration::zero()) return ::epoll_wait(epoll.get(), events.data(), room, 0);
  if (fine_timeouts) {
    const timespec limit = to_timespec(timeout);
    const int count = ::epoll_pwait2(epoll.get(), events.data(), room, &limit, nullptr);
    const bool denied = count < 0 && (errno == ENOSYS || errno == EPERM || errno == EACCES);
    if (!denied) return count;
    fine_timeouts = false;
  }
  return ::epoll_wait(epoll.get(), events.data(), room, to_milliseconds(timeout));
}

/// Sleeps at most `timeout` for events; returns how many are in `events`.
int Reactor::State::collect(Duration timeout) {
  const int count = wait_for_events(timeout);
  if (count < 0 && errno != EINTR) failed = errno;
  return std::max(count, 0);  // EINTR: nothing yet
}

Status Reactor::State::failure() const {
  if (failed == 0) return {};
  return Error(failed, "the event loop cannot wait for its descriptors: " + Error(failed).what());
}

/// collect(), after looking for a while without sleeping. Real time: an injected clock may stand still. Without a spin
/// no clock is read: reading it costs a good part of what else there is to do for a wake-up.
int Reactor::State::collect_sleeping(Duration timeout) {
  if (spin > Duration::zero()) {
    const TimePoint start = Clock::system().now();
    const TimePoint end = later(start, std::min(spin, timeout));
    for (TimePoint now = start; now < end; now = Clock::system().now()) {
      if (due_work()) return 0;
      if (const int count = collect(Duration::zero()); count != 0) return count;
    }
    if (timeout != for_ever) timeout = std::max(timeout - (Clock::system().now() - start), Duration::zero());
  }
  fall_asleep();  // what is due, or is posted from here on, makes collect() return
  const int count = collect(timeout);
  asleep.store(false, std::memory_order_relaxed);
  return count;
}

bool Reactor::State::dispatch(int count, bool& woken) {
  bool did = false;
  for (int i = 0; i < count; ++i) {
    const epoll_event event = events[static_cast<std::size_t>(i)];
    if (event.data.u64 == wake_event) woken = true;
    if (event.data.u64 == timer_event) armed_deadline = TimePoint::max();
    Entry* entry = entries.find(event.data.u64);
    Watch* watch = entry != nullptr ? std::get_if<Watch>(entry) : nullptr;
    if (watch == nullptr) continue;
    // Collected before a callback of this batch changed its interest: what it no longer waits for is not its business.
    const auto wanted = epoll_bits(watch->interest) | EPOLLHUP | EPOLLERR;
    if (watch->interest == Ready::none || (event.events & wanted) == 0) continue;
    const Registry<Entry>::Running hold(entries, *entry);
    watch->call(ready_bits(event.events & wanted));
    did = true;
  }
  return did;
}

/// One pass: does what is due, and sleeps at most `timeout` when nothing is. `woken`: the eventfd was written.
bool Reactor::State::turn(Duration timeout, bool& woken) {
  bool did = run_posted();
  did |= run_timers();
  did |= run_pollers();
  if (did || !pollers.empty()) timeout = Duration::zero();
  if (!look_now() && timeout == Duration::zero()) return did;
  const int count = timeout == Duration::zero() ? collect(timeout) : collect_sleeping(timeout);
  did |= dispatch(count, woken);
  if (!did) did = run_posted() || run_timers();
  return did;
}

/// From here on whatever there is to do makes the epoll descriptor readable.
void Reactor::State::fall_asleep() {
  arm_timer();
  const std::lock_guard lock(mutex);
  // Under the mutex: a poster either put its task in before (seen here) or finds `asleep` and writes the eventfd.
  if (posted.empty() && pollers.empty()) {
    asleep.store(true, std::memory_order_relaxed);
  } else {
    wake.signal();
  }
}

/// Sets the timerfd for the earliest timer, unless it goes off earlier anyway: timers that are set and ended again and
/// again (one for each request) then cost no system calls.
void Reactor::State::arm_timer() {
  if (timers.empty() || timers.begin()->first.deadline >= armed_deadline) return;
  armed_deadline = timers.begin()->first.deadline;
  const Duration delay = std::max(armed_deadline - clock.now(), Duration(1));  // 0 would disarm it
  const itimerspec setting{.it_interval = {}, .it_value = to_timespec(delay)};
  ::timerfd_settime(timer.get(), 0, &setting, nullptr);
}

Status Reactor::State::change(int operation, int fd, std::uint32_t epoll_events, std::uint64_t id) const {
  epoll_event event{.events = epoll_events, .data = {.u64 = id}};
  if (::epoll_ctl(epoll.get(), operation, fd, &event) == 0) return {};
  return Error::from_errno("watching file descriptor " + std::to_string(fd));
}

Result<std::uint64_t> Reactor::State::add(Watch watch) {
  const int fd = watch.fd;
  const Ready interest = watch.interest;
  const std::uint32_t wanted = epoll_bits(interest) | watch.mode;
  const std::uint64_t id = entries.add(std::make_unique<Entry>(std::move(watch)));
  auto added = change(EPOLL_CTL_ADD, fd, wanted, id);
  // epoll reports a hangup to whoever is registered: silence is not being registered. Added first to learn what is
  // wrong.
  if (added && interest == Ready::none) added = change(EPOLL_CTL_DEL, fd, wanted, id);
  if (added) return id;
  entries.remove(id);
  return added.error();
}

Reactor::Reactor(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<Reactor>> Reactor::create(Options options) {
  auto state = std::make_unique<State>(options.clock != nullptr ? *options.clock : Clock::system(), options.spin);
  state->epoll.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!state->epoll) return Error::from_errno("creating an epoll instance");
  state->timer.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!state->timer) return Error::from_errno("creating a timerfd");
  OUTBOARD_TRY(state->wake, EventFd::create());

  // Edge-triggered, so that neither has to be read: a write, or the timer going off, is one event.
  epoll_event event{.events = EPOLLIN | EPOLLET, .data = {.u64 = wake_event}};
  if (::epoll_ctl(state->epoll.get(), EPOLL_CTL_ADD, state->wake.get(), &event) < 0) {
    return Error::from_errno("watching the loop's eventfd");
  }
  event.data.u64 = timer_event;
  if (::epoll_ctl(state->epoll.get(), EPOLL_CTL_ADD, state->timer.get(), &event) < 0) {
    return Error::from_errno("watching the loop's timerfd");
  }
  return std::unique_ptr<Reactor>(new Reactor(std::move(state)));
}

Reactor::~Reactor() {
  // What tasks and callbacks own may post, or end other registrations, when it goes: so all goes while the loop is
  // whole.
  while (state_->has_posted.load(std::memory_order_relaxed) || state_->entries.any() != 0) {
    std::vector<Task> dropped;
    {
      const std::lock_guard lock(state_->mutex);
      dropped.swap(state_->posted);
      state_->has_posted.store(false, std::memory_order_relaxed);
    }
    dropped.clear();
    if (const std::uint64_t id = state_->entries.any(); id != 0) end(id);
  }
}

Status Reactor::run() {
  const RunningScope scope(state_->running, state_->owner, state_->creator);
  if (!scope.entered()) return RunningScope::refused();
  state_->asleep.store(false, std::memory_order_relaxed);
  while (!stopped()) {
    bool woken = false;
    state_->turn(for_ever, woken);
    OUTBOARD_CHECK(state_->failure());
  }
  state_->fall_asleep();
  return {};
}

void Reactor::stop() {
  const int saved = errno;  // a signal handler may call this between a system call and the look at its errno
  state_->stopped.store(true, std::memory_order_release);  // row M14
  state_->wake.signal();
  errno = saved;
}

bool Reactor::stopped() const { return state_->stopped.load(std::memory_order_acquire); }  // row M15

Result<bool> Reactor::run_once(Duration timeout) {
  const RunningScope scope(state_->running, state_->owner, state_->creator);
  if (!scope.entered()) return RunningScope::refused();
  state_->asleep.store(false, std::memory_order_relaxed);
  const TimePoint end = timeout < Duration::zero() ? TimePoint::max() : later(Clock::system().now(), timeout);
  bool did = false;
  bool woken = false;
  Duration left = timeout < Duration::zero() ? for_ever : timeout;
  while (true) {
    did = state_->turn(left, woken);
    OUTBOARD_CHECK(state_->failure());
    if (did || woken || left == Duration::zero()) break;
    if (left != for_ever) left = std::max(end - Clock::system().now(), Duration::zero());
    if (left == Duration::zero()) break;
  }
  state_->fall_asleep();
  return did;
}

Status Reactor::process() {
  state_->last_look = TimePoint{};  // the caller saw fd() readable: look at descriptors in this pass
  state_->busy_passes = busy_passes_per_clock_read;
  if (auto done = run_once(Duration::zero()); !done) return done.error();
  return {};
}

int Reactor::fd() const { return state_->epoll.get(); }

Result<Registration> Reactor::watch(int fd, Ready interest, Watcher watcher) {
  OUTBOARD_TRY(const std::uint64_t id, state_->add({fd, interest, 0, std::move(watcher)}));
  return Registration(*this, id);
}

/// Edge-triggered: each write is an event, so it need not be read.
Result<Registration> Reactor::watch_eventfd(const EventFd& eventfd, Task signalled) {
  auto call = [signalled = std::move(signalled)](Ready) mutable { signalled(); };
  OUTBOARD_TRY(const std::uint64_t id, state_->add({eventfd.get(), Ready::readable, EPOLLET, std::move(call)}));
  return Registration(*this, id);
}

Status Reactor::rewatch(const Registration& registration, Ready interest) {
  Entry* entry = state_->entries.find(registration.id());
  Watch* watch = entry != nullptr ? std::get_if<Watch>(entry) : nullptr;
  if (watch == nullptr) return Error(ENOENT, "changing a watch that has ended");
  if (watch->interest == interest) return {};
  const int operation = interest == Ready::none          ? EPOLL_CTL_DEL
                        : watch->interest == Ready::none ? EPOLL_CTL_ADD
                                                         : EPOLL_CTL_MOD;
  OUTBOARD_CHECK(state_->change(operation, watch->fd, epoll_bits(interest) | watch->mode, registration.id()));
  watch->interest = interest;
  return {};
}

Registration Reactor::after(Duration delay, Task task) {
  const TimerKey key{later(state_->clock.now(), delay), state_->next_timer++};
  const std::uint64_t id = state_->entries.add(std::make_unique<Entry>(Timer{key, std::move(task)}));
  state_->timers.emplace(key, id);
  if (!state_->running.load(std::memory_order_relaxed)) state_->arm_timer();
  return Registration(*this, id);
}

Registration Reactor::poll(Poller poller) {
  const std::uint64_t id = state_->entries.add(std::make_unique<Entry>(PollerEntry{std::move(poller)}));
  state_->pollers.push_back(id);
  if (!state_->running.load(std::memory_order_relaxed)) state_->wake.signal();
  return Registration(*this, id);
}

void Reactor::post(Task task) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->posted.push_back(std::move(task));
    state_->has_posted.store(true, std::memory_order_relaxed);
    // Signalled under the mutex: once the task can run, the loop may be gone.
    if (state_->asleep.exchange(false, std::memory_order_relaxed)) state_->wake.signal();
  }
}

bool Reactor::in_loop_thread() const {
  return state_->owner.load(std::memory_order_relaxed) == std::this_thread::get_id();
}

const Clock& Reactor::clock() const { return state_->clock; }

void Reactor::end(std::uint64_t id) {
  Entry* entry = state_->entries.find(id);
  if (entry == nullptr) return;
  if (const auto* watch = std::get_if<Watch>(entry); watch != nullptr && watch->interest != Ready::none) {
    ::epoll_ctl(state_->epoll.get(), EPOLL_CTL_DEL, watch->fd, nullptr);
  } else if (const auto* timer = std::get_if<Timer>(entry)) {
    state_->timers.erase(timer->key);
  } else if (std::holds_alternative<PollerEntry>(*entry)) {
    // Not erased: run_pollers() may be on its way through the list.
    std::ranges::replace(state_->pollers, id, std::uint64_t{0});
    if (!state_->running.load(std::memory_order_relaxed)) std::erase(state_->pollers, 0);
  }
  const auto gone = state_->entries.remove(id);
}

}  // namespace outboard
