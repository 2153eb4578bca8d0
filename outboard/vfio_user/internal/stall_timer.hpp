#pragma once

#include <cstdint>
#include <functional>

#include <outboard/base/loop.hpp>
#include <outboard/vfio_user/internal/channel.hpp>

namespace outboard::vfio_user {

/// Ends the connection of a client that keeps the server waiting: for VERSION, for the rest of a message that has begun, or for
/// room in the socket for what it is sent. On the session's loop.
class StallTimer {
 public:
  /// What the client owes the server.
  enum class Expected : std::uint8_t {
    version,  ///< the first message
    commands,  ///< nothing, or the rest of a message that has begun
    nothing,  ///< its commands are held back: what has begun need not end
  };

  /// `limit`: without progress; VERSION has 5 seconds at most. `stalled` is called with the reason to end the connection.
  StallTimer(Loop& loop, const Channel& channel, Duration limit, std::move_only_function<void(const Error&)> stalled)
      : loop_(loop), channel_(channel), limit_(limit), stalled_(std::move(stalled)) {}

  /// To be called whenever something has been received, taken or sent.
  void update(Expected expected);
  void stop() { timer_.reset(); }

 private:
  void check();

  Loop& loop_;
  const Channel& channel_;
  Duration limit_;
  std::move_only_function<void(const Error&)> stalled_;
  Expected expected_ = Expected::version;
  std::uint64_t consumed_ = 0, sent_ = 0;  // when the timer was started
  Registration timer_;
};

}  // namespace outboard::vfio_user
