#include <gtest/gtest.h>

#include <outboard/testing/explore.hpp>
#include <tests/simulation/disk_world.hpp>

namespace outboard::testing {
namespace {

TEST(DiskWorld, AQuietMachineHasNoFault) {
  Simulation simulation(Schedule::replay({}), {});
  const auto failure = run_disk_world(simulation, {});
  EXPECT_FALSE(failure) << *failure;
}

TEST(DiskWorld, NoSeedHasAFault) {
  const auto found = explore(run_some_disk_world, {.seeds = 500});
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
