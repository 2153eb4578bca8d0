#include <outboard/testing/schedule.hpp>

#include <vector>

#include <gtest/gtest.h>

namespace outboard::testing {
namespace {

/// What a schedule decides when it is asked for every kind in turn.
std::vector<std::uint32_t> decisions_of(Schedule& schedule, unsigned count) {
  std::vector<std::uint32_t> decided;
  for (unsigned i = 0; i < count; ++i) {
    decided.push_back(schedule.choose(static_cast<Choice>(i % choice_count), 2 + i % 5));
  }
  return decided;
}

constexpr unsigned many = 5000;

TEST(Schedule, OneSeedDecidesTheSameEachTime) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Schedule one = Schedule::from_seed(seed), again = Schedule::from_seed(seed);
    EXPECT_EQ(decisions_of(one, many), decisions_of(again, many));
    EXPECT_EQ(one.deviations(), again.deviations());
  }
}

TEST(Schedule, SeedsDecideDifferently) {
  Schedule one = Schedule::from_seed(1), other = Schedule::from_seed(2);
  EXPECT_NE(decisions_of(one, many), decisions_of(other, many));
}

/// SplitMix64 as published, so that a seed of a bug report means the same on every machine and in every version.
TEST(Schedule, SeedMeansTheSameOnEveryMachine) {
  Schedule schedule = Schedule::from_seed(1);
  std::vector<Deviation> first;
  decisions_of(schedule, many);
  ASSERT_GE(schedule.deviations().size(), 4U);
  first.assign(schedule.deviations().begin(), schedule.deviations().begin() + 4);
  EXPECT_EQ(first, (std::vector<Deviation>{{27, 2}, {37, 1}, {40, 1}, {51, 1}}));
}

TEST(Schedule, ReplayOfTheDeviationsDecidesTheSame) {
  Schedule seeded = Schedule::from_seed(7);
  const auto decided = decisions_of(seeded, many);
  ASSERT_FALSE(seeded.deviations().empty());
  Schedule replayed = Schedule::replay(seeded.deviations());
  EXPECT_EQ(decisions_of(replayed, many), decided);
  EXPECT_EQ(replayed.deviations(), seeded.deviations());
  EXPECT_EQ(replayed.steps(), seeded.steps());
}

TEST(Schedule, ReplayOfNothingDecidesTheUsual) {
  Schedule quiet = Schedule::replay({});
  EXPECT_EQ(decisions_of(quiet, many), std::vector<std::uint32_t>(many, 0));
  EXPECT_TRUE(quiet.deviations().empty());
}

TEST(Schedule, ChoiceOfOneIsNoDecision) {
  Schedule schedule = Schedule::replay({{1, 1}});
  EXPECT_EQ(schedule.choose(Choice::run, 2), 0U);
  EXPECT_EQ(schedule.choose(Choice::run, 1), 0U);
  EXPECT_EQ(schedule.steps(), 1U);
  EXPECT_EQ(schedule.choose(Choice::run, 2), 1U);
}

TEST(Schedule, DecisionsAreInRange) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Schedule schedule = Schedule::from_seed(seed);
    for (std::uint32_t count = 1; count < 200; ++count) {
      for (std::size_t kind = 0; kind < choice_count; ++kind)
        ASSERT_LT(schedule.choose(static_cast<Choice>(kind), count), count);
    }
  }
}

/// A shortened schedule meets choices of another count than the one that it was made for.
TEST(Schedule, ReplayedValueThatIsTooLargeIsBroughtIntoRange) {
  Schedule schedule = Schedule::replay({{0, 5}});
  EXPECT_EQ(schedule.choose(Choice::run, 3), 2U);
  EXPECT_EQ(schedule.deviations(), (std::vector<Deviation>{{0, 2}}));
}

TEST(Schedule, CountsWhatWasDecidedOtherThanUsual) {
  Schedule schedule = Schedule::replay({{0, 1}, {2, 1}});
  for (int i = 0; i < 4; ++i) schedule.choose(i < 2 ? Choice::kill : Choice::storage, 2);
  EXPECT_EQ(schedule.count(Choice::kill), 1U);
  EXPECT_EQ(schedule.count(Choice::storage), 1U);
  EXPECT_EQ(schedule.count(Choice::run), 0U);
}

TEST(Schedule, SomeSeedsLeaveAKindOut) {
  unsigned with = 0, without = 0;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Schedule schedule = Schedule::from_seed(seed);
    for (unsigned i = 0; i < many; ++i) schedule.choose(Choice::run, 2);
    ++(schedule.count(Choice::run) == 0 ? without : with);
  }
  EXPECT_GT(with, 10U);
  EXPECT_GT(without, 3U);
}

TEST(Schedule, EachKindHasAName) {
  EXPECT_EQ(name_of(Choice::run), "run");
  EXPECT_EQ(name_of(Choice::setup), "setup");
}

}  // namespace
}  // namespace outboard::testing
