#pragma once

#include <cstdint>

namespace outboard::vfio_user {

/// The life of a client's connection, as the server sees it:
///
/// | phase       | connection | the function                        | the client's commands                          |
/// |-------------|------------|-------------------------------------|------------------------------------------------|
/// | negotiating | open       | is idle                             | VERSION; any other ends the connection         |
/// | serving     | open       | is idle                             | answered in order                              |
/// | operating   | open       | works on an unmap, a reset, a state | held back; replies to DMA messages are taken   |
/// | overdue     | open       | still does; the client has ETIMEDOUT | answered; another of these is EBUSY            |
/// | draining    | closed     | still works on one of these         | none                                           |
/// | closed      | closed     | is idle; its release is posted      | none                                           |
/// | releasing   | closed     | lets go of what the client brought  | none                                           |
/// | ended       | closed     | has let go, or is forgotten         | none                                           |
enum class SessionPhase : std::uint8_t {
  negotiating,
  serving,
  operating,
  overdue,
  draining,
  closed,
  releasing,
  ended,
};

/// What moves a session from one phase to the next.
enum class SessionEvent : std::uint8_t {
  version_accepted,  ///< VERSION is about to be answered
  operation_started,  ///< the function is given an unmap, a reset or a change of state
  operation_late,  ///< the client gets ETIMEDOUT
  operation_ended,  ///< the function has completed an unmap, a reset or the release
  disconnected,  ///< the client has left or broken the protocol, or the server ends the connection
  release_started,  ///< the function is asked to let go of what the client brought
  abandoned,  ///< the function is about to be destroyed
};

struct SessionTransition {
  SessionPhase from;
  SessionEvent on;
  SessionPhase to;
};

constexpr SessionTransition session_transitions[] = {
    {SessionPhase::negotiating, SessionEvent::version_accepted, SessionPhase::serving},
    {SessionPhase::serving, SessionEvent::operation_started, SessionPhase::operating},
    {SessionPhase::operating, SessionEvent::operation_ended, SessionPhase::serving},
    {SessionPhase::operating, SessionEvent::operation_late, SessionPhase::overdue},
    {SessionPhase::overdue, SessionEvent::operation_ended, SessionPhase::serving},

    {SessionPhase::negotiating, SessionEvent::disconnected, SessionPhase::closed},
    {SessionPhase::serving, SessionEvent::disconnected, SessionPhase::closed},
    {SessionPhase::operating, SessionEvent::disconnected, SessionPhase::draining},
    {SessionPhase::overdue, SessionEvent::disconnected, SessionPhase::draining},

    {SessionPhase::draining, SessionEvent::operation_ended, SessionPhase::closed},
    {SessionPhase::closed, SessionEvent::release_started, SessionPhase::releasing},
    {SessionPhase::releasing, SessionEvent::operation_ended, SessionPhase::ended},

    {SessionPhase::negotiating, SessionEvent::abandoned, SessionPhase::ended},
    {SessionPhase::serving, SessionEvent::abandoned, SessionPhase::ended},
    {SessionPhase::operating, SessionEvent::abandoned, SessionPhase::ended},
    {SessionPhase::overdue, SessionEvent::abandoned, SessionPhase::ended},
    {SessionPhase::draining, SessionEvent::abandoned, SessionPhase::ended},
    {SessionPhase::closed, SessionEvent::abandoned, SessionPhase::ended},
    {SessionPhase::releasing, SessionEvent::abandoned, SessionPhase::ended},
};

/// The phase after `event`. An event that the table does not name for the phase changes nothing.
constexpr SessionPhase next_phase(SessionPhase phase, SessionEvent event) {
  for (const SessionTransition& transition : session_transitions) {
    if (transition.from == phase && transition.on == event) return transition.to;
  }
  return phase;
}

constexpr bool is_connected(SessionPhase phase) { return phase < SessionPhase::draining; }

/// The function has not completed what it was given last. It must not be given another unmap, reset or release.
constexpr bool function_is_busy(SessionPhase phase) {
  return phase == SessionPhase::operating || phase == SessionPhase::overdue || phase == SessionPhase::draining ||
         phase == SessionPhase::releasing;
}

}  // namespace outboard::vfio_user
