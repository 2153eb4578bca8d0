#include <tests/support/hostile_eventfd.hpp>

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <future>

namespace outboard::testing {

HostileEventFd::HostileEventFd() : theirs_(::eventfd(0, EFD_CLOEXEC)) {
  const std::uint64_t most = UINT64_MAX - 1;
  [[maybe_unused]] const auto written = ::write(theirs_.get(), &most, sizeof most);
}

void HostileEventFd::make_blocking() const { ::fcntl(theirs_.get(), F_SETFL, 0); }

EventFd HostileEventFd::give() const {
  EventFd given = EventFd::adopt(descriptor()).value();
  make_blocking();
  return given;
}

bool HostileEventFd::does_not_block(const std::function<void()>& call) const {
  static constexpr auto limit = std::chrono::seconds(5);
  const std::future<void> end = std::async(std::launch::async, call);
  const bool in_time = end.wait_for(limit) == std::future_status::ready;
  while (!in_time && end.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready)
    drain_eventfd(theirs_.get());
  end.wait();
  return in_time;
}

}  // namespace outboard::testing
