#pragma once

#include <functional>
#include <string>
#include <thread>

#include <outboard/base/result.hpp>

namespace outboard {

/// Starts a thread that runs `body`. `purpose` names it in the error message ("disk I/O"). EAGAIN: the limit of threads, or no
/// memory; EPERM: a seccomp profile forbids it; ENOMEM. Any thread.
Result<std::thread> start_thread(const std::string& purpose, std::move_only_function<void()> body);

}  // namespace outboard
