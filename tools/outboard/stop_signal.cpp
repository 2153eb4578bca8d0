#include <tools/outboard/stop_signal.hpp>

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>

#include <outboard/base/wait.hpp>

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
  if (pthread_sigmask(SIG_BLOCK, &set, nullptr) != 0) return Error(EINVAL, "signals cannot be blocked");
  return std::unique_ptr<StopSignal>(new StopSignal(std::move(signals), std::move(wake), std::move(end)));
}

StopSignal::StopSignal(UniqueFd signals, EventFd wake, EventFd end)
    : signals_(std::move(signals)), wake_(std::move(wake)), end_(std::move(end)), thread_([this] { watch(); }) {}

StopSignal::~StopSignal() {
  end_.signal();
  thread_.join();
}

// A thread of its own, so that the second signal works however the others are stuck.
void StopSignal::watch() {
  std::array<pollfd, 2> fds{{{signals_.get(), POLLIN, 0}, {end_.get(), POLLIN, 0}}};
  while (true) {
    if (poll(fds.data(), fds.size(), -1) < 0) continue;
    if ((fds[1].revents & POLLIN) != 0) return;
    signalfd_siginfo info;
    if ((fds[0].revents & POLLIN) == 0 || read(signals_.get(), &info, sizeof info) != sizeof info) continue;
    if (requested()) _exit(128 + static_cast<int>(info.ssi_signo));
    requested_.store(true, std::memory_order_relaxed);
    wake_.signal();
  }
}

bool StopSignal::pause(Duration time) const {
  static constexpr Duration longest = std::chrono::hours(1);
  wait_readable(wake_.get(), Clock::system().now() + std::min(time, longest));
  return !requested();
}

Error StopSignal::interrupted() { return Error(ECANCELED, "interrupted"); }

}  // namespace outboard::command
