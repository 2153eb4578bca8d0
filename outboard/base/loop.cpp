#include <outboard/base/loop.hpp>

namespace outboard {

Result<Registration> Loop::watch_eventfd(const EventFd& eventfd, Task signalled) {
  return watch(eventfd.get(), Ready::readable, [fd = eventfd.get(), signalled = std::move(signalled)](Ready) mutable {
    drain_eventfd(fd);
    signalled();
  });
}

}  // namespace outboard
