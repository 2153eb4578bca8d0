#include <outboard/devices/example/internal/driver_event_buffers.hpp>

#include <algorithm>
#include <cstring>

#include <outboard/memory/internal/keep_for_good.hpp>

namespace outboard::example {

Result<EventBuffers> EventBuffers::create(virtio::Transport& transport, const virtio::Features& features,
                                          std::uint16_t count, std::optional<unsigned> vector) {
  OUTBOARD_TRY(auto ring, virtio::DriverQueue::create(transport, event_queue, features,
                                                      {.vector = vector, .indirect = false, .max_elements = 1}));
  ring.disable_interrupts();
  const std::uint16_t buffers = std::min(count, ring.size());
  OUTBOARD_TRY(auto memory, transport.dma().allocate(buffers * sizeof(spec::Event)));
  EventBuffers events(std::move(ring), std::move(memory));
  for (std::uint64_t i = 0; i < buffers; ++i) OUTBOARD_CHECK(events.give(i));
  return events;
}

EventBuffers::EventBuffers(virtio::DriverQueue ring, memory::DmaBuffer memory)
    : ring_(std::move(ring)), memory_(std::move(memory)) {}

Status EventBuffers::give(std::uint64_t index) {
  std::byte* at = memory_.data() + index * sizeof(spec::Event);
  std::memset(at, 0, sizeof(spec::Event));
  const virtio::Element event[] = {{memory_.iova() + index * sizeof(spec::Event), sizeof(spec::Event)}};
  return ring_.add({}, event, at);
}

Result<std::optional<EventBuffers::Next>> EventBuffers::next() {
  OUTBOARD_TRY(const auto used, ring_.next_used());
  if (!used) return std::nullopt;
  const auto index =
      static_cast<std::uint64_t>(static_cast<std::byte*>(used->cookie) - memory_.data()) / sizeof(spec::Event);
  const Next next{read(index, used->length)};
  // R-EX-4: "The driver SHOULD keep at least one buffer available in eventq".
  OUTBOARD_CHECK(give(index));
  return next;
}

std::optional<Event> EventBuffers::read(std::uint64_t index, std::uint32_t length) const {
  // R-EX-9: "The driver MUST ignore an event if the used length is less than 16."
  if (length < sizeof(spec::Event)) return std::nullopt;
  spec::Event event;  // read once: the device can still write to it
  std::memcpy(&event, memory_.data() + index * sizeof(spec::Event), sizeof event);
  // R-EX-3: "The driver MUST ignore reserved fields, and an event whose type it does not know but for missed."
  Event told{.refused = std::nullopt, .missed = event.missed};
  if (event.type == spec::event::limit_hit) told.refused = event.value;
  if (!told.refused && told.missed == 0) return std::nullopt;
  return told;
}

void EventBuffers::abandon_memory() && {
  memory::keep_for_good(std::move(ring_));
  memory::keep_for_good(std::move(memory_));
}

}  // namespace outboard::example
