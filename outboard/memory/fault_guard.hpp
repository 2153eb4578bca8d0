#pragma once

#include <outboard/base/result.hpp>

namespace outboard::memory {

/// Installs, once for the process, a SIGBUS handler that turns an access to a truncated file into an error of that
/// mapping: the handler replaces the pages of the HostMemory by zeroed memory and poisons the object. It passes a fault outside
/// of any HostMemory to the handler that was there before. No constructor installs it; the command does, and an application may.
/// Any thread; later calls do nothing. The handler cannot be removed. It reserves some mappings, so that it also works in a
/// process at the limit of mappings (vm.max_map_count).
Status install_fault_guard();

/// Reserves again the mappings that the guard had to use. False: the process has no room for them. True if no guard is
/// installed. HostMemory calls it before mapping and after unmapping. Any thread, but not in a signal handler.
bool fault_guard_has_its_spares();

/// Whether install_fault_guard() has succeeded in this process.
bool fault_guard_installed();

}  // namespace outboard::memory
