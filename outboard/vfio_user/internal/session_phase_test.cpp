#include <outboard/vfio_user/internal/session_phase.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <utility>

namespace outboard::vfio_user {
namespace {

using enum SessionPhase;
using enum SessionEvent;

constexpr SessionPhase phases[] = {negotiating, serving, operating, overdue, draining, closed, releasing, ended};
constexpr SessionEvent events[] = {version_accepted, operation_started, operation_late, operation_ended,
                                   disconnected,     release_started,   abandoned};

TEST(SessionPhases, NoPairOfPhaseAndEventHasTwoRows) {
  std::set<std::pair<SessionPhase, SessionEvent>> seen;
  for (const auto& row : session_transitions) EXPECT_TRUE(seen.emplace(row.from, row.on).second);
}

TEST(SessionPhases, AConnectionThatIsClosedStaysClosed) {
  for (const auto& row : session_transitions) EXPECT_TRUE(is_connected(row.from) || !is_connected(row.to));
}

// So the function is always given back, whatever it is doing when the client leaves.
TEST(SessionPhases, EveryPhaseLeadsToItsEndOnceTheClientIsGone) {
  for (SessionPhase phase : phases) {
    for (const SessionEvent event : {disconnected, operation_ended, release_started, operation_ended})
      phase = next_phase(phase, event);
    EXPECT_EQ(phase, ended);
  }
}

TEST(SessionPhases, TheEndIsFinal) {
  for (const SessionEvent event : events) EXPECT_EQ(next_phase(ended, event), ended);
}

// pci::Function: no other unmap, reset or release before the last one has completed.
TEST(SessionPhases, ABusyFunctionIsGivenNothingElse) {
  for (const SessionPhase phase : phases) {
    if (!function_is_busy(phase)) continue;
    EXPECT_EQ(next_phase(phase, operation_started), phase);
    EXPECT_EQ(next_phase(phase, release_started), phase);
  }
}

TEST(SessionPhases, AnOperationThatIsLateHasNotEnded) {
  EXPECT_EQ(next_phase(operating, operation_late), overdue);
  EXPECT_TRUE(function_is_busy(overdue));
  EXPECT_EQ(next_phase(overdue, operation_ended), serving);
  EXPECT_EQ(next_phase(overdue, disconnected), draining);
}

}  // namespace
}  // namespace outboard::vfio_user
