#include <outboard/virtio/request.hpp>

#include <outboard/virtio/device_queue.hpp>

namespace outboard::virtio {

unsigned Request::queue_index() const { return queue_->index(); }
bool Request::replayed() const { return queue_->slot(slot_).replayed; }

std::uint64_t Request::readable_size() const { return queue_->slot(slot_).chain.readable_bytes(); }
std::uint64_t Request::writable_size() const { return queue_->slot(slot_).chain.writable_bytes(); }
std::uint64_t Request::readable_left() const { return readable_size() - queue_->slot(slot_).read.done; }
std::uint64_t Request::writable_left() const { return writable_size() - written(); }
std::uint64_t Request::written() const { return queue_->slot(slot_).write.done; }

Status Request::read_bytes(MutableBytes into) { return queue_->copy_in(queue_->slot(slot_), into); }
Status Request::skip_readable(std::uint64_t length) { return queue_->skip_in(queue_->slot(slot_), length); }
Status Request::write_bytes(Bytes bytes) { return queue_->copy_out(queue_->slot(slot_), bytes); }
Status Request::write_zeros(std::uint64_t length) { return queue_->zero_out(queue_->slot(slot_), length); }

Result<std::span<const iovec>> Request::readable_pieces(std::uint64_t length) {
  return queue_->pieces_in(queue_->slot(slot_), length);
}
Result<std::span<const iovec>> Request::writable_pieces(std::uint64_t length) {
  return queue_->pieces_out(queue_->slot(slot_), length);
}
void Request::pieces_written(std::uint64_t length) { queue_->pieces_written(queue_->slot(slot_), length); }
void Request::unpin() { queue_->unpin(queue_->slot(slot_)); }

void Request::complete() {
  if (queue_ != nullptr) std::exchange(queue_, nullptr)->answer(slot_, DeviceQueue::Answer::complete);
}

void Request::violation(std::string_view clause, std::string_view what) {
  if (queue_ == nullptr) return;
  DeviceQueue* queue = std::exchange(queue_, nullptr);
  queue->violation(clause, what);
  queue->answer(slot_, DeviceQueue::Answer::violation);
}

void Request::violation(const Error& error) { violation("request", error.message()); }

void Request::drop() {
  if (queue_ != nullptr) std::exchange(queue_, nullptr)->answer(slot_, DeviceQueue::Answer::drop);
}

}  // namespace outboard::virtio
