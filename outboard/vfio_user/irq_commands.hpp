#pragma once

#include <vector>

#include <outboard/pci/function.hpp>
#include <outboard/vfio_user/protocol.hpp>

namespace outboard::vfio_user {

/// What a client has bound, where that is for the server to know.
struct IrqBindings {
  bool request = false;  ///< an eventfd for REQ: the client can be asked to let the function go
};

/// DEVICE_SET_IRQS on the server's side: every combination of data and action, checked whole before anything changes.
/// Takes the descriptors over. EINVAL: malformed, out of range, or descriptors that do not fit. ENOTTY: masking what
/// cannot be masked. `bindings` follows what succeeds.
Status set_irqs(pci::Function& function, Bytes request, std::vector<UniqueFd> fds, IrqBindings& bindings);

}  // namespace outboard::vfio_user
