#include <outboard/devices/example/internal/driver_request_queue.hpp>

#include <algorithm>
#include <cstring>
#include <utility>

#include <outboard/memory/internal/keep_for_good.hpp>

namespace outboard::example {

namespace {

/// The memory of one request: both elements of its buffer.
struct SlotMemory {
  spec::Request request;
  le32 unused;
  spec::Reply reply;
};
static_assert(sizeof(SlotMemory) == 16 && offsetof(SlotMemory, reply) == 8);

constexpr std::uint16_t elements = 2;

}  // namespace

Result<RequestQueue> RequestQueue::create(virtio::Transport& transport, const virtio::Features& features, bool limited,
                                          std::uint16_t depth, std::optional<unsigned> vector) {
  OUTBOARD_TRY(auto ring, virtio::DriverQueue::create(transport, request_queue, features,
                                                      {.vector = vector, .max_elements = elements}));
  if (ring.size() < elements) return Error(EPROTO, "a queue of 1 entry holds no request").on(transport.name());
  ring.disable_interrupts();
  // As many as fit even if none goes through an indirect table.
  const std::uint16_t slots = std::min<std::uint16_t>(depth, ring.size() / elements);
  OUTBOARD_TRY(auto memory, transport.dma().allocate(slots * sizeof(SlotMemory)));
  return RequestQueue(std::move(ring), std::move(memory), limited, slots);
}

RequestQueue::RequestQueue(virtio::DriverQueue ring, memory::DmaBuffer memory, bool limited, std::uint16_t depth)
    : ring_(std::move(ring)), memory_(std::move(memory)), limited_(limited), slots_(depth) {
  for (std::uint16_t i = depth; i-- > 0;) {
    slots_[i].index = i;
    free_.push_back(&slots_[i]);
  }
}

std::byte* RequestQueue::at(const Slot& slot) const { return memory_.data() + slot.index * sizeof(SlotMemory); }

/// R-EX-1: "The driver MUST put exactly one request into a buffer: 4 device-readable bytes, and then as many device-writable
/// bytes as the reply has."
Status RequestQueue::add(Call& call, std::uint64_t now) {
  if (free_.empty()) return Error(EAGAIN, "every slot is in flight");
  Slot& slot = *free_.back();
  const SlotMemory contents{.request = {.value = call.value}, .unused = 0, .reply = {}};
  std::memcpy(at(slot), &contents, sizeof contents);
  const memory::Iova iova = memory_.iova() + slot.index * sizeof(SlotMemory);
  const virtio::Element request[] = {{iova, sizeof(spec::Request)}};
  const virtio::Element reply[] = {{iova + offsetof(SlotMemory, reply), spec::reply_size(limited_)}};
  OUTBOARD_CHECK(ring_.add(request, reply, &slot));
  slot.call = &call;
  slot.since = now;
  free_.pop_back();
  return {};
}

bool RequestQueue::overdue(std::uint64_t now, std::uint64_t ticks) const {
  return std::ranges::any_of(slots_,
                             [=](const Slot& slot) { return slot.call != nullptr && now - slot.since > ticks; });
}

Result<Call*> RequestQueue::next() {
  OUTBOARD_TRY(const auto used, ring_.next_used());
  if (!used) return nullptr;
  return answered(*static_cast<Slot*>(used->cookie), used->length);
}

/// R-EX-2: "The driver MUST NOT use result if the used length is less than 4, and MUST NOT use status if it is less
/// than 8."
Call* RequestQueue::answered(Slot& slot, std::uint32_t length) {
  Call* call = std::exchange(slot.call, nullptr);
  free_.push_back(&slot);
  // Read once: the device can still write to it.
  spec::Reply reply;
  std::memcpy(&reply, at(slot) + offsetof(SlotMemory, reply), sizeof reply);
  const bool whole = length >= spec::reply_size(limited_);
  const bool known = !limited_ || reply.status == spec::status::ok || reply.status == spec::status::range;
  call->error = whole && known ? 0 : EIO;
  call->answer = {};
  if (call->error == 0) call->answer = {reply.result, limited_ && reply.status == spec::status::range};
  return call;
}

std::vector<Call*> RequestQueue::take_in_flight() {
  std::vector<Call*> calls;
  for (void* cookie : ring_.take_in_flight())
    if (Call* call = std::exchange(static_cast<Slot*>(cookie)->call, nullptr)) calls.push_back(call);
  return calls;
}

void RequestQueue::abandon_memory() && {
  memory::keep_for_good(std::move(ring_));
  memory::keep_for_good(std::move(memory_));
}

}  // namespace outboard::example
