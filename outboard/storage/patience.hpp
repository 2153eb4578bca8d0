#pragma once

#include <functional>
#include <optional>
#include <string>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>

namespace outboard::storage {

/// How long an opener waits for an image that another one holds.
struct LockPatience {
  /// For a process that runs: it may be about to end.
  Duration running = std::chrono::seconds(3);
  /// For a process that was killed, has crashed or exited, while the kernel still carries out its disk requests.
  Duration ended = std::chrono::seconds(60);
  /// Waits, and says whether to go on. By default pause_thread().
  std::function<bool(Duration)> pause{};

  /// False: give up, with ECANCELED.
  bool wait(Duration time) const;
};

/// Why an image cannot be had now.
struct Obstacle {
  std::string who;  ///< for people: "process 12 (outboard)"
  std::string what;  ///< for people: who, and why that is in the way
  Duration bound;  ///< how long it is waited for, from when it is first found
  Error refusal;  ///< what it ends with then
};

/// Calls `attempt`, and again and more and more seldom as long as that finds an obstacle, until its bound is over. Where
/// obstacles take turns, the longest bound and that of the last one are the limit. Blocks the calling thread, and says in `log` for
/// what it waits, whenever that is another one. Errors: what `attempt` says, Obstacle::refusal, ECANCELED (LockPatience::pause has
/// said so).
Status wait_patiently(const std::string& path, const LockPatience& patience, const Log& log,
                      const std::function<Result<std::optional<Obstacle>>()>& attempt);

}  // namespace outboard::storage
