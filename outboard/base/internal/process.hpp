#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace outboard {

/// Parses a PID as in /proc and lock files: decimal digits only, more than 0.
std::optional<int> parse_pid(std::string_view text);

/// The name of a process (/proc/PID/comm), made printable(), since the process chooses it. Empty: there is no such process, or
/// /proc does not show it. `proc` is the path of /proc. Any thread.
std::string process_name(int pid, const std::string& proc = "/proc");

/// The start time of a process, in ticks since the boot (field 22 of /proc/PID/stat). With the PID it identifies the process:
/// no later process has both. 0: there is no such process, or /proc does not show it. Any thread.
std::uint64_t start_time_of(int pid);

/// Whether the process with this PID and start time has ended, by the same file: there is no such process, another one has its
/// PID, or it is a zombie. For where pidfd_open() cannot be used.
bool process_has_ended(int pid, std::uint64_t start_time);

enum class ProcessState : std::uint8_t {
  running,
  ending,  ///< killed, crashed or exiting: it does nothing any more, but the kernel has not ended all of its threads
  unseen,  ///< it does not exist, or /proc does not show it to this user (hidepid) or in this PID namespace
};
/// The state of a process. It may be `ending` for as long as its storage requests take. `proc` is the path of /proc. Any
/// thread.
ProcessState process_state(int pid, const std::string& proc = "/proc");

/// Whether that is ProcessState::ending.
bool process_is_ending(int pid, const std::string& proc = "/proc");

/// Translates a PID of another PID namespace (given by its inode number, /proc/PID/ns/pid) to the PID in this one. nullopt:
/// there is no such process, or it is not visible here. `proc` is the path of /proc. Any thread.
std::optional<int> process_in_container(int number, const std::function<bool(std::uint64_t)>& is_its_namespace,
                                        const std::string& proc = "/proc");

}  // namespace outboard
