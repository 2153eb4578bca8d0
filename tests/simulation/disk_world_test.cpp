#include <gtest/gtest.h>

#include <outboard/testing/simulation.hpp>
#include <tests/simulation/disk_world.hpp>

namespace outboard::testing {
namespace {

TEST(DiskWorld, AQuietRunHasNoFault) {
  Simulation simulation(Schedule::replay({}), {.transcript = true});
  const auto failure = run_disk_world(simulation, {});
  EXPECT_FALSE(failure) << *failure;
  if (failure) {
    for (const auto& line : simulation.transcript()) std::puts(line.c_str());
  }
}

TEST(DiskWorld, SeedsHaveNoFault) {
  for (std::uint64_t seed = 1; seed <= 2000; ++seed) {
    if (seed % 20 == 0) std::printf("seed %d\n", int(seed)), std::fflush(stdout);
    Simulation simulation(Schedule::from_seed(seed), {.transcript = true});
    const auto failure = run_disk_world(simulation, {.packed = seed % 2 == 0});
    if (!failure) continue;
    ADD_FAILURE() << "seed " << seed << ": " << *failure;
    for (const auto& line : simulation.transcript()) std::puts(line.c_str());
    return;
  }
}

}  // namespace
}  // namespace outboard::testing
