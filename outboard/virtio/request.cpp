#include <outboard/virtio/request.hpp>

#include <outboard/virtio/device_queue.hpp>

namespace outboard::virtio {

unsigned Request::queue_index() const { return slot_->queue->index(); }
bool Request::replayed() const { return slot_->replayed; }

std::uint64_t Request::readable_size() const { return slot_->chain.readable_bytes(); }
std::uint64_t Request::writable_size() const { return slot_->chain.writable_bytes(); }
std::uint64_t Request::readable_left() const { return readable_size() - slot_->read.done; }
std::uint64_t Request::writable_left() const { return writable_size() - written(); }
std::uint64_t Request::written() const { return slot_->write.done; }

Status Request::read_bytes(MutableBytes into) { return slot_->queue->copy_in(*slot_, into); }
Status Request::skip_readable(std::uint64_t length) { return slot_->queue->skip_in(*slot_, length); }
Status Request::write_bytes(Bytes bytes) { return slot_->queue->copy_out(*slot_, bytes); }
Status Request::write_zeros(std::uint64_t length) { return slot_->queue->zero_out(*slot_, length); }

Result<std::span<const iovec>> Request::readable_pieces(std::uint64_t length) {
  return slot_->queue->pieces_in(*slot_, length);
}
Result<std::span<const iovec>> Request::writable_pieces(std::uint64_t length) {
  return slot_->queue->pieces_out(*slot_, length);
}
void Request::pieces_written(std::uint64_t length) { slot_->queue->pieces_written(*slot_, length); }
Status Request::write_last_bytes(Bytes bytes) { return slot_->queue->copy_out_last(*slot_, bytes); }
Status Request::unpin() { return slot_->queue->unpin(*slot_); }
bool Request::fails_alone() const { return slot_->queue->contains_faults(); }

void Request::complete() {
  if (slot_ == nullptr) return;
  RequestSlot& slot = *std::exchange(slot_, nullptr);
  slot.queue->complete(slot);
}

void Request::violation(std::string_view clause, std::string_view what) {
  if (slot_ == nullptr) return;
  RequestSlot& slot = *std::exchange(slot_, nullptr);
  slot.queue->violation(clause, what);
  slot.queue->answer(slot, DeviceQueue::Answer::violation);
}

void Request::violation(const Error& error) {
  if (slot_ != nullptr && error.code() == EFAULT && fails_alone()) return complete();
  violation("request", error.message());
}

void Request::drop() {
  RequestSlot& slot = *std::exchange(slot_, nullptr);
  slot.queue->answer(slot, DeviceQueue::Answer::drop);
}

}  // namespace outboard::virtio
