#pragma once

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>

namespace outboard {

/// The rate of lines: `burst` of them at once, then one in each `interval`.
struct LogRate {
  unsigned burst = 16;
  Duration interval{std::chrono::seconds(1)};
};

/// `log` with a limited rate, for lines that a peer can cause as often as it wants. Lines beyond the rate are dropped, and the
/// next line says how many. Debug lines are not limited. Copies share the limit. `clock` must outlive them.
Log limited(const Log& log, const Clock& clock, const LogRate& rate = {});

}  // namespace outboard
