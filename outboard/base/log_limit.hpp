#pragma once

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>

namespace outboard {

/// How many lines may come: `burst` of them at once, later one in each `interval`.
struct LogRate {
  unsigned burst = 16;
  Duration interval{std::chrono::seconds(1)};
};

/// `log` for what a peer can bring about as often as it likes: what goes beyond the rate is left out and counted, and the next
/// line that comes says how many were. Debug lines are not limited. Copies count together. `clock` must outlive them.
Log limited(const Log& log, const Clock& clock, const LogRate& rate = {});

}  // namespace outboard
