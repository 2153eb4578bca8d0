#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include <outboard/vfio_user/internal/server_connection.hpp>

namespace outboard::vfio_user {

/// The function's interrupts as its client uses them: DEVICE_SET_IRQS. One thread. Errors as pci::Handle.
class ClientInterrupts {
 public:
  explicit ClientInterrupts(ServerConnection& connection) : connection_(connection) {}

  Result<pci::InterruptInfo> info(pci::InterruptKind kind) const;
  Status bind(pci::InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds);
  Status bind_unmask(const EventFd& eventfd);
  Status disable(pci::InterruptKind kind);
  Status mask(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count);
  Status unmask(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count);
  Status trigger(pci::InterruptKind kind, std::uint32_t start, std::uint32_t count);

  /// Binds at another server what is bound at this one.
  Status bind_at(ServerConnection& server) const;

 private:
  Status act(std::uint32_t action, pci::InterruptKind kind, std::uint32_t start, std::uint32_t count);

  Status bind_list(pci::InterruptKind kind, std::uint32_t start, const std::vector<EventFd>& eventfds);

  ServerConnection& connection_;
  std::array<std::vector<EventFd>, pci::interrupt_kind_count>
      bound_;  ///< what the server has of each kind; may be invalid
  EventFd unmask_;
  std::optional<Error> not_kept_;  ///< why some of them are not there
};

}  // namespace outboard::vfio_user
