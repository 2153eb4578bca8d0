#pragma once

#include <functional>
#include <string>
#include <thread>

#include <outboard/base/result.hpp>

namespace outboard {

/// A thread that runs `body`; `purpose` is what it is for, as the message names it ("disk I/O"). EAGAIN: the limit on threads, or
/// memory; EPERM and the like: a seccomp profile forbids it; ENOMEM. Any thread.
Result<std::thread> start_thread(const std::string& purpose, std::move_only_function<void()> body);

}  // namespace outboard
