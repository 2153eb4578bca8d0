#include <outboard/vduse/internal/queue_phase.hpp>

namespace outboard::vduse {

namespace {

struct Move {
  QueuePhase from;
  QueueEvent event;
  QueuePhase to;
};

constexpr Move moves[] = {
    {QueuePhase::waiting, QueueEvent::started, QueuePhase::running},
    {QueuePhase::waiting, QueueEvent::refused, QueuePhase::failed},

    {QueuePhase::running, QueueEvent::asked_to_stop, QueuePhase::stopping},
    {QueuePhase::running, QueueEvent::switched_off, QueuePhase::switching_off},

    {QueuePhase::stopping, QueueEvent::stopped, QueuePhase::at_rest},
    {QueuePhase::stopping, QueueEvent::late, QueuePhase::running},

    {QueuePhase::at_rest, QueueEvent::resumed, QueuePhase::running},
    {QueuePhase::at_rest, QueueEvent::switched_off, QueuePhase::off},

    {QueuePhase::switching_off, QueueEvent::stopped, QueuePhase::off},

    {QueuePhase::off, QueueEvent::resumed, QueuePhase::running},
    {QueuePhase::off, QueueEvent::moved, QueuePhase::waiting},
};

}  // namespace

std::optional<QueuePhase> next_phase(QueuePhase from, QueueEvent event) {
  for (const Move& move : moves) {
    if (move.from == from && move.event == event) return move.to;
  }
  return std::nullopt;
}

}  // namespace outboard::vduse
