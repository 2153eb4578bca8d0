#include <tools/outboard/stop_signal.hpp>

#include <poll.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <utility>

#include <outboard/base/internal/line_writer.hpp>
#include <outboard/base/internal/thread.hpp>

namespace outboard::command {

namespace {

sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

constexpr Duration pause_of_the_end = std::chrono::seconds(1);

Duration last_stretch(Duration timeout) { return std::max(timeout / 5, Duration(1)); }

}  // namespace

Result<std::unique_ptr<StopSignal>> StopSignal::create() {
  const sigset_t set = stop_signals();
  UniqueFd signals(signalfd(-1, &set, SFD_CLOEXEC));
  if (!signals) return Error::from_errno("creating a signalfd");
  UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  if (!timer) return Error::from_errno("creating a timerfd");
  OUTBOARD_TRY(auto wake, EventFd::create());
  OUTBOARD_TRY(auto end, EventFd::create());
  if (pthread_sigmask(SIG_BLOCK, &set, nullptr) != 0) return Error(EINVAL, "signals cannot be blocked");
  std::unique_ptr<StopSignal> stop(
      new StopSignal(std::move(signals), std::move(timer), std::move(wake), std::move(end)));
  OUTBOARD_TRY(stop->thread_, start_thread("signals", [&one = *stop] { one.watch(); }));
  return stop;
}

StopSignal::StopSignal(UniqueFd signals, UniqueFd timer, EventFd wake, EventFd end)
    : signals_(std::move(signals)),
      timer_(std::move(timer)),
      wake_(std::move(wake)),
      end_(std::move(end)),
      interruption_(wake_.get()) {}

StopSignal::~StopSignal() {
  end_.signal();
  if (thread_.joinable()) thread_.join();
  // Nobody takes them any more: from here on they end the process.
  const sigset_t set = stop_signals();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

// A thread of its own, so that the second signal and the bound work however the others are stuck.
void StopSignal::watch() {
  std::array<pollfd, 3> fds{{{signals_.get(), POLLIN, 0}, {end_.get(), POLLIN, 0}, {timer_.get(), POLLIN, 0}}};
  while (true) {
    if (poll(fds.data(), fds.size(), -1) < 0) continue;
    if ((fds[1].revents & POLLIN) != 0) return;
    if ((fds[0].revents & POLLIN) != 0 && !take_signal()) fds[0].fd = -1;
    if ((fds[2].revents & POLLIN) != 0) time_is_over();
  }
}

void StopSignal::request() {
  requested_.store(true, std::memory_order_relaxed);
  wake_.signal();
  show_life();
}

/// The first is a wish; the second ends the process: without destructors, which may be what is stuck, and without a line, which
/// nobody may read. Not by read(), which a filter of system calls may deny. False where no signal can be taken: the descriptor
/// stays readable then, and the first signal is all that is heard.
bool StopSignal::take_signal() {
  const sigset_t set = stop_signals();
  constexpr timespec at_once{};
  const int number = sigtimedwait(&set, nullptr, &at_once);
  if (number > 0 && requested()) _exit(128 + number);
  const bool can_be_taken = number > 0 || errno == EAGAIN || errno == EINTR;
  if (number > 0 || !can_be_taken) request();
  return can_be_taken;
}

/// 0: it stands still.
void StopSignal::set_timer(Duration time) const {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
  const itimerspec once{.it_interval = {},
                        .it_value = {.tv_sec = seconds.count(), .tv_nsec = (time - seconds).count()}};
  timerfd_settime(timer_.get(), 0, &once, nullptr);
}

/// Under the mutex.
void StopSignal::start_timer() {
  if (!bound_) return;
  in_last_stretch_ = false;
  const bool runs = bound_->start == Start::now || requested();
  const Duration timeout = bound_->timeout;
  set_timer(runs ? std::max(timeout - last_stretch(timeout), Duration(1)) : Duration::zero());
}

void StopSignal::bound_end(Bound bound) {
  const std::lock_guard lock(mutex_);
  bound_ = std::make_shared<const Bound>(std::move(bound));
  start_timer();
}

void StopSignal::unbound() {
  const std::lock_guard lock(mutex_);
  bound_.reset();
  set_timer(Duration::zero());
}

void StopSignal::show_life() {
  const std::lock_guard lock(mutex_);
  start_timer();
}

/// Says it on a thread of its own: whoever does not read keeps that one.
void StopSignal::say_and_end(const std::shared_ptr<const Bound>& bound) {
  static const EventFd said = EventFd::create().value_or(EventFd());
  auto words = start_thread("the last words", [bound] {
    bound->say();
    LineWriter::flush_stderr();
    said.signal();
  });
  if (words) {
    wait_readable(said.get(), Clock::system().now() + pause_of_the_end);
    words->detach();
  }
  _exit(1);
}

/// In two parts, so that a process that was stopped does not find on waking that its time is over, before it could show that it
/// lives. Nothing is called under the mutex, which others would wait for.
void StopSignal::time_is_over() {
  std::shared_ptr<const Bound> bound;
  {
    const std::lock_guard lock(mutex_);
    itimerspec left{};
    timerfd_gettime(timer_.get(), &left);
    const bool runs = left.it_value.tv_sec != 0 || left.it_value.tv_nsec != 0;
    if (runs || !bound_) return;  // set anew meanwhile, or no longer wanted
    bound = bound_;
    set_timer(pause_of_the_end);
  }
  const Verdict verdict = bound->verdict();
  if (verdict == Verdict::wait) return;
  {
    const std::lock_guard lock(mutex_);
    if (bound_ != bound) return;
    if (verdict == Verdict::anew) return start_timer();
    if (!std::exchange(in_last_stretch_, true)) return set_timer(last_stretch(bound->timeout));
  }
  say_and_end(bound);
}

bool StopSignal::pause(Duration time) const {
  static constexpr Duration longest = std::chrono::hours(1);
  wait_readable(wake_.get(), Clock::system().now() + std::min(time, longest));
  return !requested();
}

Error StopSignal::interrupted() { return Error(ECANCELED, "interrupted"); }

}  // namespace outboard::command
