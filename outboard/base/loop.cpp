#include <outboard/base/loop.hpp>

#include <unistd.h>

namespace outboard {

Result<Registration> Loop::watch_eventfd(const EventFd& eventfd, Task signalled) {
  return watch(eventfd.get(), Ready::readable, [fd = eventfd.get(), signalled = std::move(signalled)](Ready) mutable {
    std::uint64_t count = 0;
    [[maybe_unused]] const auto got = ::read(fd, &count, sizeof count);
    signalled();
  });
}

}  // namespace outboard
