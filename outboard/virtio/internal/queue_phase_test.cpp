#include <array>

#include <gtest/gtest.h>

#include <outboard/virtio/internal/queue_phase.hpp>

namespace outboard::virtio {
namespace {

using enum QueuePhase;
constexpr std::array all_phases{idle, serving, parked, draining, draining_parked, discarding};

TEST(QueuePhases, AQueueServesOnlyWhenItsRingCanBeUsed) {
  EXPECT_EQ(next_phase(idle, QueueEvent::start), parked);
  EXPECT_EQ(next_phase(parked, QueueEvent::ring_usable), serving);
  EXPECT_EQ(next_phase(serving, QueueEvent::ring_unusable), parked);
}

TEST(QueuePhases, AStopOfAParkedQueueGoesOnWhenTheRingIsBack) {
  EXPECT_EQ(next_phase(parked, QueueEvent::drain), draining_parked);
  EXPECT_EQ(next_phase(draining_parked, QueueEvent::ring_usable), draining);
  EXPECT_EQ(next_phase(draining, QueueEvent::ring_unusable), draining_parked);
}

TEST(QueuePhases, ADiscardOvertakesADrainAndIsNotTakenBack) {
  EXPECT_EQ(next_phase(draining, QueueEvent::discard), discarding);
  EXPECT_EQ(next_phase(draining_parked, QueueEvent::discard), discarding);
  for (const auto event : {QueueEvent::start, QueueEvent::ring_usable, QueueEvent::ring_unusable, QueueEvent::drain})
    EXPECT_EQ(next_phase(discarding, event), discarding);
}

TEST(QueuePhases, OnlyAStartEndsIdleAndEveryPhaseCanComeToRest) {
  for (const auto event : {QueueEvent::ring_usable, QueueEvent::ring_unusable, QueueEvent::drain, QueueEvent::discard})
    EXPECT_EQ(next_phase(idle, event), idle);
  for (const QueuePhase phase : all_phases) EXPECT_EQ(next_phase(phase, QueueEvent::rest), idle);
}

TEST(QueuePhases, NoPhaseBothStopsAndRunsNorPublishesWithoutARing) {
  for (const QueuePhase phase : all_phases) {
    EXPECT_FALSE(is_stopping(phase) && is_running(phase));
    EXPECT_FALSE(publishes(phase) && is_parked(phase));
    EXPECT_FALSE(publishes(next_phase(phase, QueueEvent::ring_unusable)));
  }
}

}  // namespace
}  // namespace outboard::virtio
