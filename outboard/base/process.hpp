#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace outboard {

/// The number of a process as /proc and lock files have it: decimal digits and nothing else, more than 0.
std::optional<int> parse_pid(std::string_view text);

/// What a process calls itself (/proc/PID/comm), printable(): it is the process's own choice. Empty: there is no such process,
/// or it is not shown. `proc` stands for /proc. Any thread.
std::string process_name(int pid, const std::string& proc = "/proc");

/// When a process was started, in the kernel's ticks since the machine was (field 22 of /proc/PID/stat): together with its
/// number a name that no later process has. 0: there is no such process, or /proc does not show it. Any thread.
std::uint64_t start_time_of(int pid);

/// Whether the process that was started then has ended, by the same file: it is gone, another one has its number, or it only
/// waits for its parent. Where a descriptor of the process (pidfd_open) cannot be had.
bool process_has_ended(int pid, std::uint64_t start_time);

enum class ProcessState : std::uint8_t {
  running,
  ending,  ///< it answers nobody any more: killed, crashed or exiting, while the kernel is busy with its threads
  unseen,  ///< gone; or /proc does not show it to this user (hidepid), or in this PID namespace
};
/// What a process does. It may be ending for as long as the storage takes. `proc` stands for /proc. Any thread.
ProcessState process_state(int pid, const std::string& proc = "/proc");

/// Whether that is ProcessState::ending.
bool process_is_ending(int pid, const std::string& proc = "/proc");

/// The process that has this number in a PID namespace (of this inode number, /proc/PID/ns/pid); its number here. Nothing:
/// there is none, or it cannot be seen from here. `proc` stands for /proc. Any thread.
std::optional<int> process_in_container(int number, const std::function<bool(std::uint64_t)>& is_its_namespace,
                                        const std::string& proc = "/proc");

}  // namespace outboard
