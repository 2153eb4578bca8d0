#pragma once

#include <cstdint>

namespace outboard::virtio {

/// What a DeviceQueue does with its ring.
enum class QueuePhase : std::uint8_t {
  idle,             ///< it has no ring
  serving,          ///< takes buffers and publishes answers
  parked,           ///< as serving, but the ring cannot be used now: nothing is taken, answers wait
  draining,         ///< takes nothing any more, publishes answers
  draining_parked,  ///< as draining, but the ring cannot be used now: answers wait
  discarding,       ///< takes nothing any more, drops answers
};

/// What moves a DeviceQueue from one phase to another.
enum class QueueEvent : std::uint8_t {
  start,          ///< it is given a ring
  ring_usable,    ///< the ring's memory is mapped, and the transport allows DMA
  ring_unusable,  ///< one of these no longer holds
  drain,          ///< it stops; running requests are finished
  discard,        ///< it stops; answers are dropped
  rest,           ///< it has stopped: no request is with the device any more
};

/// The only way from one phase to another. An event that means nothing in a phase changes nothing. A drain can become a
/// discard; a discard cannot be taken back.
constexpr QueuePhase next_phase(QueuePhase phase, QueueEvent event) {
  using enum QueuePhase;
  // clang-format off
  constexpr QueuePhase table[6][6] = {
    // start            ring_usable  ring_unusable    drain            discard     rest
    {  parked,          idle,        idle,            idle,            idle,       idle },  // idle
    {  serving,         serving,     parked,          draining,        discarding, idle },  // serving
    {  parked,          serving,     parked,          draining_parked, discarding, idle },  // parked
    {  draining,        draining,    draining_parked, draining,        discarding, idle },  // draining
    {  draining_parked, draining,    draining_parked, draining_parked, discarding, idle },  // draining_parked
    {  discarding,      discarding,  discarding,      discarding,      discarding, idle },  // discarding
  };
  // clang-format on
  return table[static_cast<unsigned>(phase)][static_cast<unsigned>(event)];
}

/// Whether it takes buffers as soon as its ring can be used.
constexpr bool is_running(QueuePhase phase) { return phase == QueuePhase::serving || phase == QueuePhase::parked; }
/// Whether it is stopping.
constexpr bool is_stopping(QueuePhase phase) { return phase >= QueuePhase::draining; }
/// Whether answers go into the ring now.
constexpr bool publishes(QueuePhase phase) { return phase == QueuePhase::serving || phase == QueuePhase::draining; }
/// Whether answers wait until the ring can be used again.
constexpr bool is_parked(QueuePhase phase) {
  return phase == QueuePhase::parked || phase == QueuePhase::draining_parked;
}

}  // namespace outboard::virtio
