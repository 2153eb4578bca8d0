#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>

#include <outboard/testing/explore.hpp>
#include <tests/simulation/disk_world.hpp>

namespace outboard::testing {
namespace {

TEST(DiskWorld, AQuietMachineHasNoFault) {
  Simulation simulation(Schedule::replay({}), {});
  const auto failure = run_disk_world(simulation, {});
  EXPECT_FALSE(failure) << *failure;
}

/// ./dev soak gives other ranges of seeds.
std::uint64_t number_from_environment(const char* name, std::uint64_t usual) {
  const char* const text = std::getenv(name);
  return text == nullptr ? usual : std::strtoull(text, nullptr, 10);
}

TEST(DiskWorld, NoSeedHasAFault) {
  const auto found = explore(run_some_disk_world, {.first_seed = number_from_environment("OUTBOARD_FIRST_SEED", 1),
                                                   .seeds = number_from_environment("OUTBOARD_SEEDS", 500),
                                                   .max_shrinking_runs = 500});
  EXPECT_FALSE(found) << describe(*found);
}

TEST(DiskWorld, OneSeedIsOneRun) {
  const auto hash_of = [](std::uint64_t seed) {
    Simulation simulation(Schedule::from_seed(seed), {});
    run_some_disk_world(simulation);
    return simulation.trace_hash();
  };
  for (std::uint64_t seed = 1; seed <= 20; ++seed) EXPECT_EQ(hash_of(seed), hash_of(seed)) << seed;
  EXPECT_NE(hash_of(1), hash_of(2));
}

}  // namespace
}  // namespace outboard::testing
