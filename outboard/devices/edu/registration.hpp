#pragma once

#include <outboard/pci/function_type.hpp>

namespace outboard::edu {

/// `edu`: QEMU's educational device.
extern const pci::FunctionType registration;

}  // namespace outboard::edu
