#include <tools/outboard/serve/hangup_signal.hpp>

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>

namespace outboard::command {

namespace {

// A signal handler has access to globals only.
std::atomic<int> event_fd{-1};

void on_hangup(int /*signal*/) {
  const int saved = errno;
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = write(event_fd.load(), &one, sizeof one);
  errno = saved;
}

}  // namespace

Result<std::unique_ptr<HangupSignal>> HangupSignal::create() {
  OUTBOARD_TRY(auto event, EventFd::create());
  event_fd = event.get();
  struct sigaction action{};
  action.sa_handler = on_hangup;
  action.sa_flags = SA_RESTART;
  if (sigaction(SIGHUP, &action, nullptr) != 0) return Error::from_errno("sigaction");
  return std::unique_ptr<HangupSignal>(new HangupSignal(std::move(event)));
}

HangupSignal::~HangupSignal() {
  std::signal(SIGHUP, SIG_IGN);
  event_fd = -1;
}

}  // namespace outboard::command
