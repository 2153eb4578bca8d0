#include <outboard/vfio_user/internal/migration_path.hpp>

#include <array>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace outboard::vfio_user {
namespace {

using enum MigrationState;
using Path = std::vector<MigrationState>;

constexpr std::array states{stop, running, stop_copy, resuming, pre_copy};

Path path(MigrationState from, MigrationState wanted) {
  Path steps;
  for (std::optional at = from; at && *at != wanted && steps.size() < 10;) {
    at = next_migration_state(*at, wanted);
    if (at) steps.push_back(*at);
  }
  return steps;
}

TEST(MigrationPath, HasTheDirectStepsOfTheSpecification) {
  for (const auto& [from, to] : {std::pair{running, stop},
                                 {stop, running},
                                 {stop, stop_copy},
                                 {stop_copy, stop},
                                 {stop, resuming},
                                 {resuming, stop},
                                 {running, pre_copy},
                                 {pre_copy, running},
                                 {pre_copy, stop_copy}}) {
    EXPECT_EQ(path(from, to), Path{to});
  }
}

TEST(MigrationPath, WalksWhereThereIsNoDirectStep) {
  EXPECT_EQ(path(running, stop_copy), (Path{stop, stop_copy}));
  EXPECT_EQ(path(running, resuming), (Path{stop, resuming}));
  EXPECT_EQ(path(stop_copy, running), (Path{stop, running}));
  EXPECT_EQ(path(resuming, running), (Path{stop, running}));
  EXPECT_EQ(path(stop, pre_copy), (Path{running, pre_copy}));
  EXPECT_EQ(path(pre_copy, resuming), (Path{running, stop, resuming}));
  EXPECT_EQ(path(resuming, pre_copy), (Path{stop, running, pre_copy}));
}

TEST(MigrationPath, HasNoStateThatSavesBetweenTheTwo) {
  for (const MigrationState from : states) {
    for (const MigrationState to : states) {
      Path steps = path(from, to);
      if (steps.empty()) continue;
      EXPECT_EQ(steps.back(), to);
      steps.pop_back();
      for (const MigrationState between : steps) EXPECT_TRUE(between != stop_copy && between != pre_copy);
    }
  }
}

TEST(MigrationPath, LeadsNotFromStopCopyToPreCopyNorFromNorToOtherStates) {
  EXPECT_FALSE(next_migration_state(stop_copy, pre_copy));
  for (const MigrationState state : states) {
    EXPECT_FALSE(next_migration_state(state, error));
    EXPECT_FALSE(next_migration_state(error, state));
    EXPECT_FALSE(next_migration_state(state, running_p2p));
    EXPECT_FALSE(next_migration_state(state, pre_copy_p2p));
    EXPECT_FALSE(next_migration_state(state, MigrationState{8}));
  }
}

}  // namespace
}  // namespace outboard::vfio_user
