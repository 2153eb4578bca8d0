#pragma once

#include <vector>

#include <outboard/base/fd.hpp>

namespace outboard {

/// Whether the descriptor is an eventfd. Without /proc: whether it may be one. A peer may send another file, for example on a
/// slow or hostile file system, on which a write could block. Any thread.
bool is_eventfd(int fd);

/// Whether the descriptor may be an eventfd: it is readable and writable, and has no file type, unlike files, devices, pipes
/// and sockets. A timerfd and other anonymous inodes look the same. Does not need /proc. Any thread.
bool may_be_eventfd(int fd);

/// EventFd::duplicate() of each.
Result<std::vector<EventFd>> duplicate(const std::vector<EventFd>& eventfds);

}  // namespace outboard
