#pragma once

#include <array>
#include <vector>

#include <outboard/vfio_user/internal/server_connection.hpp>

namespace outboard::vfio_user {

/// Doorbells that a client may ring by an eventfd: DEVICE_GET_REGION_IO_FDS, asked once for each region. One thread.
class ClientDoorbells {
 public:
  explicit ClientDoorbells(ServerConnection& connection) : connection_(connection) {}

  /// The region exists. None where the server has none, or does not know the command. EPROTO: they are described wrongly.
  Result<std::vector<pci::IoEventFd>> of(unsigned region);

  /// A doorbell that has been asked for, and the same one of another server.
  struct Pair {
    EventFd* ours;
    const EventFd* theirs;
  };
  /// One for each that has been asked for; they are valid as long as both objects. ENOTSUP: the server has other doorbells.
  Result<std::vector<Pair>> match(ClientDoorbells& server);
  /// From here on the driver's eventfds ring the other server's doorbells.
  static Status ring(const std::vector<Pair>& pairs);

 private:
  struct Known {
    bool asked = false;
    std::vector<EventFd> fds;
    std::vector<pci::IoEventFd> list;
  };

  Status ask_for(unsigned region);
  static const EventFd* find(const std::vector<pci::IoEventFd>& list, const pci::IoEventFd& wanted);
  Result<std::uint32_t> take(unsigned region, Requests::Reply& reply, std::uint32_t asked);

  ServerConnection& connection_;
  std::array<Known, pci::region::count> known_;
};

}  // namespace outboard::vfio_user
