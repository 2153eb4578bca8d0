#include <tools/outboard/stop_signal.hpp>

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>

#include <outboard/base/thread.hpp>

namespace outboard::command {

namespace {

sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

}  // namespace

Result<std::unique_ptr<StopSignal>> StopSignal::create() {
  const sigset_t set = stop_signals();
  UniqueFd signals(signalfd(-1, &set, SFD_CLOEXEC));
  if (!signals) return Error::from_errno("signalfd");
  OUTBOARD_TRY(auto wake, EventFd::create());
  OUTBOARD_TRY(auto end, EventFd::create());
  OUTBOARD_TRY(auto deadline_set, EventFd::create());
  if (pthread_sigmask(SIG_BLOCK, &set, nullptr) != 0) return Error(EINVAL, "signals cannot be blocked");
  std::unique_ptr<StopSignal> stop(
      new StopSignal(std::move(signals), std::move(wake), std::move(end), std::move(deadline_set)));
  OUTBOARD_TRY(stop->thread_, start_thread("signals", [&one = *stop] { one.watch(); }));
  return stop;
}

StopSignal::StopSignal(UniqueFd signals, EventFd wake, EventFd end, EventFd deadline_set)
    : signals_(std::move(signals)),
      wake_(std::move(wake)),
      end_(std::move(end)),
      deadline_set_(std::move(deadline_set)),
      interruption_(wake_.get()) {}

StopSignal::~StopSignal() {
  end_.signal();
  if (thread_.joinable()) thread_.join();
}

// A thread of its own, so that the second signal and the deadline work however the others are stuck.
void StopSignal::watch() {
  std::array<pollfd, 3> fds{{{signals_.get(), POLLIN, 0}, {end_.get(), POLLIN, 0}, {deadline_set_.get(), POLLIN, 0}}};
  while (true) {
    if (poll(fds.data(), fds.size(), milliseconds_left()) < 0) continue;
    if ((fds[1].revents & POLLIN) != 0) return;
    if ((fds[2].revents & POLLIN) != 0) deadline_set_.drain();
    if ((fds[0].revents & POLLIN) != 0 && take_signal()) request();
    if (deadline_is_over()) end_now(1);
  }
}

void StopSignal::request() {
  requested_.store(true, std::memory_order_relaxed);
  wake_.signal();
}

/// Whether there was one; the second one ends the process.
bool StopSignal::take_signal() {
  signalfd_siginfo info;
  if (read(signals_.get(), &info, sizeof info) != sizeof info) return false;
  if (requested()) end_now(128 + static_cast<int>(info.ssi_signo));
  return true;
}

int StopSignal::milliseconds_left() const {
  constexpr std::int64_t longest = 3'600'000;
  const std::lock_guard lock(mutex_);
  if (!deadline_) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline_ - Clock::system().now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, longest));
}

bool StopSignal::deadline_is_over() const {
  const std::lock_guard lock(mutex_);
  return deadline_ && Clock::system().now() >= *deadline_;
}

/// Without destructors: these are what is stuck.
void StopSignal::end_now(int status) const {
  const std::lock_guard lock(mutex_);
  if (say_) say_();
  _exit(status);
}

void StopSignal::end_within(Duration time, std::function<void()> say) {
  {
    const std::lock_guard lock(mutex_);
    deadline_ = Clock::system().now() + time;
    say_ = std::move(say);
  }
  deadline_set_.signal();
}

bool StopSignal::pause(Duration time) const {
  static constexpr Duration longest = std::chrono::hours(1);
  wait_readable(wake_.get(), Clock::system().now() + std::min(time, longest));
  return !requested();
}

Error StopSignal::interrupted() { return Error(ECANCELED, "interrupted"); }

}  // namespace outboard::command
