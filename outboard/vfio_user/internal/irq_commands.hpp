#pragma once

#include <array>
#include <vector>

#include <outboard/pci/function.hpp>
#include <outboard/vfio_user/protocol.hpp>

namespace outboard::vfio_user {

/// The vectors that a client has bound to eventfds.
class IrqBindings {
 public:
  /// Whether any vector of the kind is bound. With REQ bound, the client can be asked to release the function.
  bool any(pci::InterruptKind kind) const;

  void set(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count, bool bound);
  void clear(pci::InterruptKind kind);

 private:
  std::array<std::vector<bool>, pci::interrupt_kind_count> vectors_;
};

/// DEVICE_SET_IRQS on the server's side: every combination of data and action, checked whole before anything changes.
/// Takes the descriptors over. EINVAL: malformed, out of range, or descriptors that do not fit. ENOTTY: masking what
/// cannot be masked. `bindings` follows what succeeds.
Status set_irqs(pci::Function& function, Bytes request, std::vector<UniqueFd> fds, IrqBindings& bindings);

}  // namespace outboard::vfio_user
