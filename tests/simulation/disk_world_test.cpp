#include <gtest/gtest.h>

#include <outboard/testing/explore.hpp>
#include <tests/simulation/disk_world.hpp>

namespace outboard::testing {
namespace {

/// Some seeds, each with its own kind of driver and disk.
World disk_world() {
  return [](Simulation& simulation) {
    const std::uint32_t kind = simulation.choose(Choice::setup, 8);
    return run_disk_world(simulation, {.packed = (kind & 1) != 0,
                                       .disk_fails = (kind & 2) != 0,
                                       .loses_power = (kind & 4) != 0});
  };
}

TEST(DiskWorld, AQuietMachineHasNoFault) {
  Simulation simulation(Schedule::replay({}), {});
  const auto failure = run_disk_world(simulation, {});
  EXPECT_FALSE(failure) << *failure;
}

TEST(DiskWorld, NoSeedHasAFault) {
  const auto found = explore(disk_world(), {.first_seed = 1, .seeds = 2000});
  EXPECT_FALSE(found) << describe(*found);
}

TEST(DiskWorld, OneSeedIsOneRun) {
  const auto hash_of = [](std::uint64_t seed) {
    Simulation simulation(Schedule::from_seed(seed), {});
    disk_world()(simulation);
    return simulation.trace_hash();
  };
  for (std::uint64_t seed = 1; seed <= 20; ++seed) EXPECT_EQ(hash_of(seed), hash_of(seed)) << seed;
  EXPECT_NE(hash_of(1), hash_of(2));
}

}  // namespace
}  // namespace outboard::testing
