#include <outboard/vduse/internal/device_phase.hpp>

namespace outboard::vduse {

namespace {

struct Move {
  DevicePhase from;
  DeviceEvent event;
  DevicePhase to;
};

constexpr Move moves[] = {
    {DevicePhase::stopped, DeviceEvent::driver_ok, DevicePhase::running},
    {DevicePhase::stopped, DeviceEvent::taken_over, DevicePhase::running},
    {DevicePhase::stopped, DeviceEvent::taken_over_in_doubt, DevicePhase::positions_lost},

    {DevicePhase::running, DeviceEvent::driver_ok_undone, DevicePhase::positions_lost},
    {DevicePhase::running, DeviceEvent::suspended, DevicePhase::suspended},

    {DevicePhase::suspended, DeviceEvent::suspend_undone, DevicePhase::running},
};

}  // namespace

std::optional<DevicePhase> next_phase(DevicePhase from, DeviceEvent event) {
  // These end each phase, and nothing else ends positions_lost.
  if (event == DeviceEvent::reset || event == DeviceEvent::ended) return DevicePhase::stopped;
  for (const Move& move : moves) {
    if (move.from == from && move.event == event) return move.to;
  }
  return std::nullopt;
}

}  // namespace outboard::vduse
