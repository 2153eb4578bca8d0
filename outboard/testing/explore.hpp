#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <outboard/testing/schedule.hpp>
#include <outboard/testing/simulation.hpp>

namespace outboard::testing {

/// Builds its processes in a simulation, runs it, and says what went wrong: usually the result of Simulation::run().
using World = std::function<std::optional<std::string>(Simulation&)>;

/// A schedule under which a world breaks a rule.
struct Finding {
  std::uint64_t seed = 0;
  std::string failure;
  std::vector<Deviation> schedule;  ///< the shortest that was found
  std::size_t decisions_before = 0;  ///< of the seed's own schedule
  std::vector<std::string> transcript;  ///< of the shortest
  Simulation::Options options{};  ///< it was found with
};

struct Exploration {
  std::uint64_t first_seed = 1;
  std::uint64_t seeds = 1000;
  Simulation::Options options{};
  /// How many runs the search for a shorter schedule may take.
  unsigned max_shrinking_runs = 2000;
};

/// Runs a world under one seed after another, until one finds a fault, and shortens its schedule. The faults that only the
/// longer schedule shows are another seed's.
std::optional<Finding> explore(const World& world, const Exploration& exploration);

/// The finding for a reader: what failed, the schedule as a line of a test that repeats it, and what happened.
std::string describe(const Finding& finding);

}  // namespace outboard::testing
