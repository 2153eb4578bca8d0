#pragma once

#include <string>

#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>

/// Makes sure that a device has only one server at a time.
namespace outboard::vduse {

/// The default path of a server's journal. `run`: /run/outboard.
std::string journal_path(const std::string& run, const std::string& name);
/// The path of the file that the server of a device locks.
std::string lock_path(const std::string& run, const std::string& name);
/// Creates the folder of both, unless it exists; only its owner may write to it, whatever the umask. Returns its path.
Result<std::string> make_run_folder(const std::string& run);

/// The timeout of a wait for a process that is ending (process_is_ending()), which takes as long as its storage requests.
inline constexpr Duration ending_timeout = std::chrono::seconds(60);

/// Locks the name of a device, until the descriptor is closed, also by SIGKILL. EBUSY: another process, which the error names,
/// still holds the lock after `timeout`; if that process is ending, after ending_timeout, with a line in `log`. ECANCELED: see
/// pause_thread().
Result<UniqueFd> lock_name(const std::string& path, Duration timeout, const Log& log = Log());

/// Waits until a process has ended completely, and with it its I/O on a driver's memory. `start_time` (field 22 of
/// /proc/PID/stat) distinguishes it from a later process with the same PID. ETIMEDOUT: it still exists after `timeout`; if it
/// is ending, after ending_timeout, with a line in `log`. ECANCELED: see pause_thread().
Status wait_for_end_of(int pid, std::uint64_t start_time, Duration timeout, const Log& log = Log());

}  // namespace outboard::vduse
