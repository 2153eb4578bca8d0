#include <outboard/vduse/internal/device_phase.hpp>

#include <gtest/gtest.h>

namespace outboard::vduse {
namespace {

using enum DeviceEvent;

/// Where a device stands after the events, in their order; one that has no move leaves it where it is.
DevicePhase after(std::initializer_list<DeviceEvent> events) {
  DevicePhase phase = DevicePhase::stopped;
  for (const DeviceEvent event : events) phase = next_phase(phase, event).value_or(phase);
  return phase;
}

TEST(DevicePhase, ADriverStartsItOnceUntilItResetsIt) {
  EXPECT_EQ(after({driver_ok}), DevicePhase::running);
  for (const auto& before : {after({driver_ok}), after({driver_ok, suspended}), after({taken_over_in_doubt})})
    EXPECT_FALSE(next_phase(before, driver_ok)) << static_cast<int>(before);
  EXPECT_EQ(after({driver_ok, reset, driver_ok}), DevicePhase::running);
}

TEST(DevicePhase, ASuspensionLastsUntilItIsUndoneOrReset) {
  EXPECT_EQ(after({driver_ok, suspended, driver_ok}), DevicePhase::suspended);
  EXPECT_EQ(after({driver_ok, suspended, suspend_undone}), DevicePhase::running);
  EXPECT_EQ(after({driver_ok, suspended, reset, suspend_undone}), DevicePhase::stopped);
}

TEST(DevicePhase, OnlyAResetOrTheEndLeavesPositionsLost) {
  for (const DeviceEvent event :
       {driver_ok, driver_ok_undone, taken_over, taken_over_in_doubt, suspended, suspend_undone})
    EXPECT_FALSE(next_phase(DevicePhase::positions_lost, event)) << static_cast<int>(event);
  EXPECT_EQ(after({taken_over_in_doubt, reset}), DevicePhase::stopped);
  EXPECT_EQ(after({driver_ok, driver_ok_undone, ended}), DevicePhase::stopped);
}

}  // namespace
}  // namespace outboard::vduse
