#pragma once

#include <outboard/pci/registers.hpp>

/// Registers that read as all-ones when no device answers. Under VFIO some bits are virtual and do not: the whole Vendor ID,
/// and in Command Interrupt Disable (and Memory Space of a virtual function).
namespace outboard::pci {

inline bool silent(Command command) {
  return (command.value() | Command::interrupt_disable.mask | Command::memory_space.mask) == 0xFFFF;
}

/// The hardware's own under VFIO too.
inline bool silent(ClassAndRevision kind) { return kind.value() == 0xFFFFFFFF; }

}  // namespace outboard::pci
