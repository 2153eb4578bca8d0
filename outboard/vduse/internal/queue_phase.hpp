#pragma once

#include <cstdint>
#include <optional>

namespace outboard::vduse {

/// Where a queue stands, and what becomes of a kick.
///
///     phase          the core         begins when                                        a kick
///     waiting        does not run it  reset; it is not ready, or its ring is not mapped  goes to the core, which ignores it
///     failed         does not run it  its ring is not valid                              goes to the core, which ignores it
///     running        runs it          it was started or resumed                          goes to the core
///     stopping       drains it        GET_VQ_STATE, SUSPEND                              is remembered until it is at rest
///     at_rest        has stopped it   it has come to rest                                resumes it (1)
///     switching_off  stops it (2)     SET_VQ_READY 0                                     is dropped
///     off            has stopped it   it has come to rest after SET_VQ_READY 0           is dropped
///
/// (1) In a suspended device the kick is remembered until SUSPEND is undone.
/// (2) It drains the queue, and when that takes too long it discards.
///
/// What leads from one phase to another is in queue_phase.cpp. Phases change on the control loop; the loop of the queue reads
/// them, to see where a kick goes.
enum class QueuePhase : std::uint8_t { waiting, failed, running, stopping, at_rest, switching_off, off };

/// What moves a queue from one phase to the next.
enum class QueueEvent : std::uint8_t {
  started,  ///< the core runs the ring that the driver has set up
  refused,  ///< the ring is not valid, or the core does not run it
  asked_to_stop,  ///< GET_VQ_STATE, SUSPEND
  switched_off,  ///< SET_VQ_READY 0
  stopped,  ///< the core has stopped it and has said where
  late,  ///< it did not come to rest in time: what was drained goes on
  resumed,  ///< it goes on where it stopped
  moved,  ///< the driver has put it elsewhere while it was off
};

/// The phase that follows; nothing: this event does not move a queue in this phase. A reset leads to `waiting` from each.
std::optional<QueuePhase> next_phase(QueuePhase from, QueueEvent event);

/// SET_VQ_READY 0 has been received, and no SET_VQ_READY 1 has taken effect since.
constexpr bool is_switched_off(QueuePhase phase) {
  return phase == QueuePhase::switching_off || phase == QueuePhase::off;
}
/// The driver may make such a queue ready at any time, and not every kernel sends a message then.
constexpr bool may_become_ready(QueuePhase phase) { return phase == QueuePhase::waiting || is_switched_off(phase); }
/// Kicks go to the core without a detour.
constexpr bool passes_kicks(QueuePhase phase) {
  return phase == QueuePhase::running || phase == QueuePhase::waiting || phase == QueuePhase::failed;
}

}  // namespace outboard::vduse
