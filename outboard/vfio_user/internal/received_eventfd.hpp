#pragma once

#include <outboard/base/fd.hpp>

namespace outboard::vfio_user {

/// Takes over an eventfd that the other side sent. EINVAL when it is something else: writing to that could block
/// whoever signals it (a file on a slow or hostile file system, say).
Result<EventFd> adopt_eventfd(UniqueFd fd);

}  // namespace outboard::vfio_user
