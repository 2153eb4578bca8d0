#pragma once

#include <deque>
#include <memory>

#include <outboard/base/budget.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/vfio_user/channel.hpp>

namespace outboard::vfio_user {

/// Clients that come while another one is served: each is told so as soon as it has sent VERSION. A few that say nothing are
/// waited for; when more come, the one that has waited longest is let go. On one loop.
class Refusals {
 public:
  /// Each holds one descriptor: what clients send with their first message is not taken.
  static constexpr std::size_t max_waiting = 8;

  /// `share`: what their descriptors were set aside from; may be null.
  Refusals(Loop& loop, Duration deadline, std::shared_ptr<Budget::Share> share)
      : loop_(loop), deadline_(deadline), share_(std::move(share)) {}

  /// Takes the socket over; answers VERSION with EBUSY and closes. Who has sent it already is answered at once.
  void add(UniqueFd socket);

 private:
  struct Waiting {
    Waiting(UniqueFd socket, const Channel::Limits& limits, std::shared_ptr<Budget::Share> share)
        : descriptor(std::move(share), 1), channel(std::move(socket), limits) {}
    Budget::OpenDescriptors descriptor;
    Channel channel;
    Registration watch;
    Registration timer;
  };
  static bool answer(Waiting& waiting);
  void on_ready(const std::shared_ptr<Waiting>& waiting);
  void remove(const Waiting& waiting);

  Loop& loop_;
  Duration deadline_;
  std::shared_ptr<Budget::Share> share_;
  std::deque<std::shared_ptr<Waiting>> waiting_;  // in the order they came
};

}  // namespace outboard::vfio_user
