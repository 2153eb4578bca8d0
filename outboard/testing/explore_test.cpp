#include <outboard/testing/explore.hpp>

#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/base/fd.hpp>
#include <outboard/testing/simulation_test.hpp>

namespace outboard::testing {
namespace {

using Role = Simulation::Role;
using Mortality = Simulation::Mortality;

void let_others_run(Process& self) {
  self.run_until([] { return true; });
}

/// Two processes count without a lock. The fault needs one of them to be interrupted by the whole of the other.
std::optional<std::string> lost_update(Simulation& simulation) {
  int counter = 0;
  for (const char* name : {"one", "two"}) {
    simulation.add_process(name, Role::worker, Mortality::lives, [&counter](Process&) {
      const auto event = EventFd::create();
      const int read = counter;
      if (event) event->signal();  // a system call: others may run
      counter = read + 1;
    });
  }
  if (auto failure = simulation.run()) return failure;
  if (counter != 2) return "the counter is " + std::to_string(counter);
  return std::nullopt;
}

/// The fault needs a kill between two of many steps.
std::optional<std::string> half_written(Simulation& simulation) {
  int first = 0, second = 0;
  simulation.add_process("writer", Role::worker, Mortality::restarts, [&](Process& self) {
    self.require(first == second, "a record is half written");
    for (int i = 0; i < 20; ++i) {
      let_others_run(self);
      ++first;
      if (i == 10) let_others_run(self);
      ++second;
    }
  });
  return simulation.run();
}

std::optional<std::string> faultless(Simulation& simulation) {
  simulation.add_process("worker", Role::worker, Mortality::restarts, let_others_run);
  return simulation.run();
}

TEST(Explore, WorldWithoutAFaultHasNoFinding) { EXPECT_FALSE(explore(faultless, {.seeds = 200})); }

TEST(Explore, LostUpdateIsFoundAndShrunkToItsTwoDecisions) {
  const auto found = explore(lost_update, {});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->failure, "the counter is 1");
  // Others run at the call (one decision), and of them the other process (one decision).
  EXPECT_LE(found->schedule.size(), 2U) << describe(*found);
  EXPECT_GE(found->decisions_before, found->schedule.size());
}

TEST(Explore, KillAtOneStepIsFoundAndShrunkToTheKill) {
  const auto found = explore(half_written, {.seeds = 20'000});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->failure, "writer: a record is half written");
  EXPECT_EQ(found->schedule.size(), 1U) << describe(*found);
}

TEST(Explore, SeedsAreTriedFromTheFirstOn) {
  const auto found = explore(half_written, {.seeds = 20'000});
  ASSERT_TRUE(found);
  EXPECT_FALSE(explore(half_written, {.seeds = found->seed - 1}));
  const auto again = explore(half_written, {.first_seed = found->seed, .seeds = 1});
  ASSERT_TRUE(again);
  EXPECT_EQ(again->schedule, found->schedule);
}

TEST(Explore, ShortestScheduleFailsWhenItIsReplayed) {
  const auto found = explore(lost_update, {});
  ASSERT_TRUE(found);
  Simulation simulation(Schedule::replay(found->schedule), {});
  EXPECT_EQ(lost_update(simulation).value_or(""), found->failure);
}

TEST(Explore, EachDecisionOfTheShortestScheduleMatters) {
  const auto found = explore(lost_update, {});
  ASSERT_TRUE(found);
  for (std::size_t i = 0; i < found->schedule.size(); ++i) {
    auto fewer = found->schedule;
    fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
    Simulation simulation(Schedule::replay(fewer), {});
    EXPECT_FALSE(lost_update(simulation));
  }
}

/// A world in which each of some decisions moves the places of all that follow.
std::optional<std::string> with_moving_places(Simulation& simulation, const std::function<bool()>& fails) {
  for (int round = 0; round < 100; ++round) {
    if (simulation.choose(Choice::storage, 2) != 0) simulation.choose(Choice::storage, 2);
    if (fails()) return "it failed";
  }
  return std::nullopt;
}

TEST(Explore, OneDecisionIsFoundWhereOthersKeepItInPlace) {
  const World world = [](Simulation& simulation) {
    return with_moving_places(simulation, [&] { return simulation.choose(Choice::kill, 2) != 0; });
  };
  for (std::uint64_t seed = 1; seed < 2000; ++seed) {
    const auto found = explore(world, {.first_seed = seed, .seeds = 1});
    if (!found) continue;
    EXPECT_EQ(found->schedule.size(), 1U) << describe(*found);
  }
}

TEST(Explore, TwoDecisionsAreFoundWhereOthersKeepThemInPlace) {
  const World world = [](Simulation& simulation) {
    return with_moving_places(simulation, [&] {
      const bool first = simulation.choose(Choice::run, 2) != 0, second = simulation.choose(Choice::run, 2) != 0;
      return first && second;
    });
  };
  for (std::uint64_t seed = 1; seed < 200; ++seed) {
    const auto found = explore(world, {.first_seed = seed, .seeds = 1});
    if (!found) continue;
    EXPECT_EQ(found->schedule.size(), 2U) << describe(*found);
  }
}

/// Another failure that appears while the schedule is shortened is another fault.
TEST(Explore, ShrinkingKeepsToTheKindOfFailure) {
  const World two_faults = [](Simulation& simulation) -> std::optional<std::string> {
    const bool first = simulation.choose(Choice::setup, 2) != 0, second = simulation.choose(Choice::setup, 2) != 0;
    if (first && second) return "both, 2";
    if (first || second) return "one";
    return std::nullopt;
  };
  bool found_both = false;
  for (std::uint64_t seed = 1; seed < 20; ++seed) {
    const auto found = explore(two_faults, {.first_seed = seed, .seeds = 1});
    if (!found) continue;
    found_both |= found->failure == "both, 2";
    EXPECT_EQ(found->schedule.size(), found->failure == "one" ? 1U : 2U);
  }
  EXPECT_TRUE(found_both);
}

TEST(Explore, ThreeDecisionsOfManyRemainWithTheirLeastValues) {
  const World world = [](Simulation& simulation) -> std::optional<std::string> {
    unsigned needed = 0;
    for (unsigned i = 0; i < 100; ++i) needed += simulation.choose(Choice::setup, 5) != 0 && i % 40 == 10 ? 1 : 0;
    return needed == 3 ? std::optional<std::string>("three") : std::nullopt;
  };
  const auto found = explore(world, {});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->schedule, (std::vector<Deviation>{{10, 1}, {50, 1}, {90, 1}}));
}

TEST(Explore, ShrinkingIsBounded) {
  unsigned runs = 0;
  const World counted = [&](Simulation& simulation) -> std::optional<std::string> {
    ++runs;
    for (int i = 0; i < 100; ++i) simulation.choose(Choice::setup, 4);
    return "always";
  };
  const auto found = explore(counted, {.max_shrinking_runs = 0});
  ASSERT_TRUE(found);
  EXPECT_EQ(runs, 2U);  // the seed's, and one for the transcript
  EXPECT_EQ(found->schedule.size(), found->decisions_before);
}

TEST(Explore, DescriptionHasTheLineThatReplays) {
  const Finding finding{.seed = 7,
                        .failure = "it broke",
                        .schedule = {{3, 1}, {17, 2}},
                        .decisions_before = 90,
                        .transcript = {"one", "two"}};
  EXPECT_EQ(describe(finding),
            "seed 7: it broke\n"
            "The shortest schedule that shows it has 2 decisions (the seed's has 90):\n"
            "  Simulation simulation(Schedule::replay({{3, 1}, {17, 2}}), {});\n"
            "What happens (decision, time, process/thread):\n"
            "  one\n"
            "  two\n");
  // As printed, it compiles.
  Simulation simulation(Schedule::replay({{3, 1}, {17, 2}}), {});
  for (int i = 0; i < 20; ++i) simulation.choose(Choice::setup, 5);
  EXPECT_EQ(simulation.schedule().deviations(), finding.schedule);
}

TEST(Explore, FindingHasTheTranscriptOfTheShortest) {
  const auto found = explore(half_written, {.seeds = 20'000});
  ASSERT_TRUE(found);
  EXPECT_NE(describe(*found).find("killed: writer"), std::string::npos);
  EXPECT_NE(describe(*found).find("FAILED: writer: a record is half written"), std::string::npos);
}

}  // namespace
}  // namespace outboard::testing
