#include <outboard/virtio/request.hpp>

#include <outboard/virtio/internal/device_queue.hpp>

namespace outboard::virtio {

inline RequestSlot& Request::slot() const { return static_cast<RequestSlot&>(*progress_); }
inline RequestSlot& Request::take_slot() { return static_cast<RequestSlot&>(*std::exchange(progress_, nullptr)); }

Status Request::read_bytes(MutableBytes into) { return slot().queue->memory().copy_in(slot(), into); }
Status Request::skip_readable(std::uint64_t length) { return slot().queue->memory().skip_in(slot(), length); }
Status Request::write_bytes(Bytes bytes) { return slot().queue->memory().copy_out(slot(), bytes); }
Status Request::write_zeros(std::uint64_t length) { return slot().queue->memory().zero_out(slot(), length); }
Status Request::write_last_bytes(Bytes bytes) { return slot().queue->memory().copy_out_last(slot(), bytes); }

Result<std::span<const iovec>> Request::readable_pieces(std::uint64_t length) {
  return slot().queue->memory().pieces_in(slot(), length);
}
Result<std::span<const iovec>> Request::writable_pieces(std::uint64_t length) {
  return slot().queue->memory().pieces_out(slot(), length);
}
void Request::pieces_written(std::uint64_t length) { slot().queue->memory().pieces_written(slot(), length); }
Status Request::unpin() { return slot().queue->memory().unpin(slot()); }
Status Request::release_pieces(std::uint64_t length) {
  RequestMemory& memory = slot().queue->memory();
  OUTBOARD_CHECK(memory.unpin(slot()));
  memory.pieces_written(slot(), length);
  return {};
}
bool Request::fails_alone() const { return slot().queue->contains_faults(); }

void Request::complete() {
  if (progress_ == nullptr) return;
  RequestSlot& slot = take_slot();
  slot.queue->complete(slot);
}

void Request::violation(std::string_view clause, std::string_view what) {
  if (progress_ == nullptr) return;
  RequestSlot& slot = take_slot();
  slot.queue->violation(clause, what);
  slot.queue->answer(slot, RequestAnswer::violation);
}

void Request::violation(const Error& error) {
  if (progress_ != nullptr && error.code() == EFAULT && fails_alone()) return complete();
  violation("request", error.message());
}

void Request::drop() {
  RequestSlot& slot = take_slot();
  slot.queue->answer(slot, RequestAnswer::drop);
}

}  // namespace outboard::virtio
