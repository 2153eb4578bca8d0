#include <outboard/vfio_user/internal/received_eventfd.hpp>

#include <outboard/base/internal/eventfds.hpp>

namespace outboard::vfio_user {

Result<EventFd> adopt_eventfd(UniqueFd fd) {
  if (!is_eventfd(fd.get())) return Error(EINVAL, "a file descriptor that came is not an eventfd");
  return EventFd::adopt(std::move(fd));
}

}  // namespace outboard::vfio_user
