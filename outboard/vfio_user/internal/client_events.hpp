#pragma once

#include <cstdint>

#include <outboard/vfio_user/internal/server_connection.hpp>

namespace outboard::vfio_user {

/// What a client watches: its socket, and the eventfds by which the server reports errors and asks for the function back (the
/// interrupts ERR and REQ). One descriptor for all of them. One thread.
class ClientEvents {
 public:
  explicit ClientEvents(ServerConnection& connection) : connection_(connection) {}

  /// Readable when there is something to process; made when it is first asked for.
  int poll_fd();
  /// Binds ERR and REQ, once, where the server has them, and does not wait for the reply: they can be done without.
  Status bind();
  /// The connection is one to another server now. The same eventfds are bound there.
  void reconnected(const Requests& before);
  /// The socket's backlog has changed: watches for room in the socket, or no longer.
  void update_poll();

  /// Whether the event (error or request) was signalled since the last call.
  bool take(pci::InterruptKind kind);
  /// Whether the server has gone and this is the first call since. From here on the socket, which would be readable for ever,
  /// is not watched.
  bool take_gone();

 private:
  /// What is watched; it only moves on.
  enum class Watching : std::uint8_t { socket, socket_and_events, nothing };

  Status bind(pci::InterruptKind kind, EventFd& eventfd);
  void start_binding(pci::InterruptKind kind, const EventFd& eventfd);
  void watch_twin();
  void stop_watching(const Requests& requests);

  ServerConnection& connection_;
  Watching watching_ = Watching::socket;
  UniqueFd poll_;
  std::uint32_t socket_events_ = 0, twin_events_ = 0;  // of epoll
  EventFd error_, request_;
};

}  // namespace outboard::vfio_user
