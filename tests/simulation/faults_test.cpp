#include <gtest/gtest.h>

#include <array>
#include <string>

#include <outboard/memory/internal/shared.hpp>
#include <outboard/testing/explore.hpp>
#include <tests/simulation/disk_world.hpp>

// This program is linked with copies of the library's sources in which each fault of faults.py can be switched on.

namespace outboard::testing {

unsigned fault_in_force = 0;

namespace {

constexpr std::array fault_names = {
#include "fault_names.inc"
};

void preempt() {
  if (Simulation* const simulation = Simulation::running(); simulation != nullptr) simulation->preempt();
}

/// The seeds that are tried for each.
constexpr std::uint64_t max_seeds = 2000;

void preempt_at_store(const void* /*at*/) { preempt(); }

class PlantedFault : public ::testing::TestWithParam<unsigned> {
 protected:
  PlantedFault() {
    memory::fence_tracer = preempt;
    memory::store_tracer = preempt_at_store;
    fault_in_force = GetParam();
  }
  ~PlantedFault() override { fault_in_force = 0; }
};

TEST_P(PlantedFault, IsFound) {
  const auto found = explore(run_some_disk_world, {.seeds = max_seeds, .max_shrinking_runs = 0});
  ASSERT_TRUE(found) << "nothing was seen of the fault: " << fault_names[GetParam() - 1];
  std::printf("seed %d: %s\n", static_cast<int>(found->seed), found->failure.c_str());
  // By the fault, and by nothing else.
  fault_in_force = 0;
  Simulation simulation(Schedule::from_seed(found->seed), {});
  const auto without = run_some_disk_world(simulation);
  EXPECT_FALSE(without) << *without;
}

INSTANTIATE_TEST_SUITE_P(Each, PlantedFault, ::testing::Range(1U, static_cast<unsigned>(fault_names.size() + 1)));

TEST(NoPlantedFault, IsSeen) {
  memory::fence_tracer = preempt;
  memory::store_tracer = preempt_at_store;
  const auto found = explore(run_some_disk_world, {.seeds = 300});
  EXPECT_FALSE(found) << describe(*found);
}

}  // namespace
}  // namespace outboard::testing
