#pragma once

#include <outboard/base/result.hpp>

namespace outboard::memory {

/// Installs, once for the process, a SIGBUS handler that turns a touch of a truncated file into an error of that
/// mapping: the page range of the HostMemory that was hit is replaced by zeroed memory and the object is poisoned. A
/// fault that is not in a HostMemory goes on to the handler that was there before. Not installed by any constructor: it
/// is for the command, and for an application that wants it. Any thread; later calls do nothing. The handler cannot be
/// taken out. It keeps some mappings in hand, so that it works in a process that has no further one left (vm.max_map_count).
Status install_fault_guard();

/// Takes back, of the mappings that the guard keeps in hand, those that it had to give up. False: the process has no room for
/// them. True where no guard is installed. For HostMemory, whenever one is about to be mapped or has been unmapped. Any
/// thread, but not in a signal handler.
bool fault_guard_has_its_spares();

/// Whether install_fault_guard() has succeeded in this process.
bool fault_guard_installed();

}  // namespace outboard::memory
