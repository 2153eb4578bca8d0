#pragma once

#include <functional>
#include <optional>
#include <string>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>

namespace outboard::storage {

/// How long open_image() waits for an image that another process holds.
struct LockTimeouts {
  /// If the process runs: it may be about to end.
  Duration running = std::chrono::seconds(3);
  /// If the process was killed, has crashed or exited, and the kernel still carries out its disk requests.
  Duration ended = std::chrono::seconds(60);
  /// Waits; false: give up. By default pause_thread().
  std::function<bool(Duration)> pause{};

  /// Calls `pause`, or its default.
  bool wait(Duration time) const;
};

/// A reason why an image cannot be locked now.
struct Obstacle {
  std::string who;  ///< for messages: "process 12 (outboard)"
  std::string what;  ///< for messages: the holder, and what it does with the image
  Duration timeout;  ///< of the wait, from when the obstacle is first found
  Error refusal;  ///< the error after the timeout
};

/// Calls `attempt` repeatedly, with growing pauses, while it returns an obstacle, until the timeout of that obstacle. If
/// obstacles alternate, the sum of the longest timeout and that of the last obstacle is the limit. Blocks the calling thread,
/// and logs each new obstacle that it waits for. Errors: those of `attempt`; Obstacle::refusal; ECANCELED: LockTimeouts::pause
/// returned false.
Status wait_for_image(const std::string& path, const LockTimeouts& timeouts, const Log& log,
                      const std::function<Result<std::optional<Obstacle>>()>& attempt);

}  // namespace outboard::storage
