#pragma once

#include <cstdint>

namespace outboard {

/// When a process was started, in the kernel's ticks since the machine was (field 22 of /proc/PID/stat): together with its
/// number a name that no later process has. 0: there is no such process, or /proc does not show it. Any thread.
std::uint64_t start_time_of(int pid);

}  // namespace outboard
