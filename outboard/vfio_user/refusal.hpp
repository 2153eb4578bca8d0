#pragma once

#include <memory>
#include <vector>

#include <outboard/base/loop.hpp>
#include <outboard/vfio_user/channel.hpp>

namespace outboard::vfio_user {

/// Clients that come while another one is served: each is told so as soon as it has sent VERSION. On one loop.
class Refusals {
 public:
  Refusals(Loop& loop, Duration deadline) : loop_(loop), deadline_(deadline) {}

  /// Takes the socket over; answers VERSION with EBUSY and closes.
  void add(UniqueFd socket);

 private:
  struct Waiting {
    Waiting(UniqueFd socket, const Channel::Limits& limits) : channel(std::move(socket), limits) {}
    Channel channel;
    Registration watch;
    Registration timer;
  };
  void on_ready(Waiting& waiting);
  void remove(const Waiting& waiting);

  Loop& loop_;
  Duration deadline_;
  std::vector<std::unique_ptr<Waiting>> waiting_;
};

}  // namespace outboard::vfio_user
