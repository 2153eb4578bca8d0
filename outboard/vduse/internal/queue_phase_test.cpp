#include <outboard/vduse/internal/queue_phase.hpp>

#include <gtest/gtest.h>

namespace outboard::vduse {
namespace {

using enum QueueEvent;

/// Where a queue stands after the events, in their order; one that has no move leaves it where it is.
QueuePhase after(std::initializer_list<QueueEvent> events) {
  QueuePhase phase = QueuePhase::waiting;
  for (const QueueEvent event : events) phase = next_phase(phase, event).value_or(phase);
  return phase;
}

TEST(QueuePhase, AQueueStopsForItsPositionAndGoesOn) {
  EXPECT_EQ(after({started}), QueuePhase::running);
  EXPECT_EQ(after({started, asked_to_stop}), QueuePhase::stopping);
  EXPECT_EQ(after({started, asked_to_stop, stopped}), QueuePhase::at_rest);
  EXPECT_EQ(after({started, asked_to_stop, stopped, resumed}), QueuePhase::running);
}

TEST(QueuePhase, ADrainThatIsLateGoesOn) { EXPECT_EQ(after({started, asked_to_stop, late}), QueuePhase::running); }

TEST(QueuePhase, AQueueThatIsSwitchedOffStaysOffThoughItIsLate) {
  EXPECT_EQ(after({started, switched_off, late}), QueuePhase::switching_off);
  EXPECT_EQ(after({started, switched_off, late, stopped}), QueuePhase::off);
  EXPECT_EQ(after({started, switched_off, stopped, asked_to_stop}), QueuePhase::off);
}

TEST(QueuePhase, AQueueThatIsOffGoesOnWhereItStoppedOrStartsElsewhere) {
  EXPECT_EQ(after({started, switched_off, stopped, resumed}), QueuePhase::running);
  EXPECT_EQ(after({started, switched_off, stopped, moved}), QueuePhase::waiting);
  EXPECT_EQ(after({started, switched_off, stopped, moved, refused}), QueuePhase::failed);
}

TEST(QueuePhase, AQueueAtRestMayBeSwitchedOff) {
  EXPECT_EQ(after({started, asked_to_stop, stopped, switched_off}), QueuePhase::off);
}

TEST(QueuePhase, OnlyAResetLeavesFailed) {
  for (const QueueEvent event : {started, refused, asked_to_stop, switched_off, stopped, late, resumed, moved})
    EXPECT_FALSE(next_phase(QueuePhase::failed, event)) << static_cast<int>(event);
}

TEST(QueuePhase, ACompletionThatComesAfterAResetMovesNothing) {
  for (const QueueEvent event : {stopped, late, resumed, moved})
    EXPECT_FALSE(next_phase(QueuePhase::waiting, event)) << static_cast<int>(event);
}

}  // namespace
}  // namespace outboard::vduse
