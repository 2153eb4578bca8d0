#pragma once

#include <cstdint>

namespace outboard {

/// When a process was started, in the kernel's ticks since the machine was (field 22 of /proc/PID/stat): together with its
/// number a name that no later process has. 0: there is no such process, or /proc does not show it. Any thread.
std::uint64_t start_time_of(int pid);

/// Whether the process that was started then has ended, by the same file: it is gone, another one has its number, or it only
/// waits for its parent. Where a descriptor of the process (pidfd_open) cannot be had.
bool process_has_ended(int pid, std::uint64_t start_time);

}  // namespace outboard
