#pragma once

#include <cstdint>
#include <optional>

namespace outboard::vduse {

/// Where a device stands, as far as its driver has taken it.
///
///     phase           begins when                                   DRIVER_OK           GET_VQ_STATE
///     stopped         a reset; the end of serving                   starts the queues   says the start of the ring
///     running         DRIVER_OK; taken over from a dead server      changes nothing     stops the queue, says where
///     suspended       SUSPEND                                       changes nothing     says where the queue stopped
///     positions_lost  taken over, or DRIVER_OK undone, and nobody   starts nothing      is refused
///                     knows how far the queues have got
///
/// The kernel keeps the positions at which the driver once set its queues up. They are stale as soon as a queue has run, so a
/// device starts from them only behind a reset. What leads from one phase to another is in device_phase.cpp. The journal does
/// not record positions_lost: a successor finds it again by itself only where the journal still says that a driver ran.
enum class DevicePhase : std::uint8_t { stopped, running, suspended, positions_lost };

/// What moves a device from one phase to the next.
enum class DeviceEvent : std::uint8_t {
  driver_ok,  ///< the driver has set DRIVER_OK
  driver_ok_undone,  ///< whoever had set DRIVER_OK was killed before it was acknowledged
  taken_over,  ///< its server has died while the driver ran, and the journal says where the queues are
  taken_over_in_doubt,  ///< the same, and nothing says where the queues are
  suspended,  ///< SUSPEND
  suspend_undone,  ///< SUSPEND has failed, or nobody waits for its answer any more
  reset,  ///< the driver has reset the device
  ended,  ///< nothing is served any more
};

/// The phase that follows; nothing: this event does not move a device in this phase.
std::optional<DevicePhase> next_phase(DevicePhase from, DeviceEvent event);

/// Whether the driver is at DRIVER_OK: memory may be touched and interrupts are raised.
constexpr bool is_live(DevicePhase phase) { return phase == DevicePhase::running || phase == DevicePhase::suspended; }

}  // namespace outboard::vduse
