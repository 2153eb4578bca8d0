#pragma once

#include <string>

#include <outboard/base/fd.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>

/// Servers of one device follow one another; these keep two of them from being there at once.
namespace outboard::vduse {

/// Where a server keeps its journal unless it was told another place. `run`: /run/outboard.
std::string journal_path(const std::string& run, const std::string& name);
/// The file whose lock is the right to a device's name.
std::string lock_path(const std::string& run, const std::string& name);
/// Makes the folder that both are in, where there is none: only its owner may write to it, whatever the umask is. Returns its
/// path.
Result<std::string> make_run_folder(const std::string& run);

/// How long a process that is ending is waited for (process_is_ending()): it is as long as the storage takes.
inline constexpr Duration patience_with_ending = std::chrono::seconds(60);

/// Takes the lock of a device's name; it is let go with the descriptor, also by SIGKILL. EBUSY: another process has it
/// after `patience`, or after patience_with_ending, with a line in `log`; the error says which. ECANCELED: see pause_thread().
Result<UniqueFd> lock_name(const std::string& path, Duration patience, const Log& log = Log());

/// Waits until a process is gone for good: what it had begun to read into, or write from, a driver's memory has ended by
/// then. `start_time` tells it from a later process of the same number (field 22 of /proc/PID/stat). ETIMEDOUT: it is still
/// there after `patience`, or after patience_with_ending, with a line in `log`. ECANCELED: see pause_thread().
Status wait_for_end_of(int pid, std::uint64_t start_time, Duration patience, const Log& log = Log());

}  // namespace outboard::vduse
