#pragma once

#include <deque>
#include <memory>

#include <outboard/base/internal/budget.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/vfio_user/internal/channel.hpp>

namespace outboard::vfio_user {

/// Clients that are not served, since another one is or since they may not: each gets the reason as the reply to its VERSION. A few that have not sent
/// VERSION are waited for; when more connect, the one that has waited longest is disconnected. On one loop.
class Refusals {
 public:
  /// Clients that may wait. Each holds one descriptor: those that come with its first message are closed.
  static constexpr std::size_t max_waiting = 8;

  /// `share`: the process's descriptors that are set aside for this server; may be null.
  Refusals(Loop& loop, Duration timeout, std::shared_ptr<Budget::Share> share)
      : loop_(loop), timeout_(timeout), share_(std::move(share)) {}

  /// Takes the socket over, answers VERSION with `error` (an errno value) and closes it; at once where VERSION has arrived.
  void add(UniqueFd socket, int error);

 private:
  struct Waiting {
    Waiting(UniqueFd socket, int reason, const Channel::Limits& limits, std::shared_ptr<Budget::Share> share)
        : descriptor(std::move(share), 1), channel(std::move(socket), limits), error(reason) {}
    Budget::OpenDescriptors descriptor;
    Channel channel;
    int error;
    Registration watch;
    Registration timer;
  };
  static bool answer(Waiting& waiting);
  void on_ready(const std::shared_ptr<Waiting>& waiting);
  void remove(const Waiting& waiting);

  Loop& loop_;
  Duration timeout_;
  std::shared_ptr<Budget::Share> share_;
  std::deque<std::shared_ptr<Waiting>> waiting_;  // in the order they came
};

}  // namespace outboard::vfio_user
