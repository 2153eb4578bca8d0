#pragma once

#include <functional>
#include <memory>

#include <outboard/base/internal/budget.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/vfio_user/internal/channel.hpp>

namespace outboard::vfio_user {

/// The server's end of a connection's second socket (VERSION, "twin_socket"). The server's commands go out on it, and only the
/// client's replies to them come in: neither waits behind what is on the first socket. On the session's loop.
class TwinSocket {
 public:
  struct Callbacks {
    std::move_only_function<Status(const Message&)> reply;  ///< an error ends the connection
    std::move_only_function<void(const Error&)> ended;  ///< it must not destroy the object
  };
  struct Made {
    std::unique_ptr<TwinSocket> ours;
    UniqueFd clients;
  };

  /// `share`: what the descriptor counts towards; may be null. Errors of the system.
  static Result<Made> create(Loop& loop, const Channel::Limits& limits, std::shared_ptr<Budget::Share> share,
                             Callbacks callbacks);

  Channel& channel() { return channel_; }
  /// Something has been sent: what the socket did not take goes out when it has room.
  void sent() { update_interest(); }
  void close();

 private:
  TwinSocket(UniqueFd socket, Loop& loop, const Channel::Limits& limits, std::shared_ptr<Budget::Share> share,
             Callbacks callbacks);
  void on_ready(Ready ready);
  Status take_replies();
  void update_interest();

  Loop& loop_;
  Budget::OpenDescriptors descriptor_;
  Channel channel_;
  Callbacks callbacks_;
  Registration watch_;
  Ready interest_ = Ready::readable;
};

}  // namespace outboard::vfio_user
