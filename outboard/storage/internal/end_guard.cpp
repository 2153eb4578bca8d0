#include <outboard/storage/internal/end_guard.hpp>

#include <algorithm>
#include <span>
#include <utility>

#include <sys/resource.h>

#include <outboard/storage/pieces.hpp>

namespace outboard::storage {

EndGuard::EndGuard(Loop& loop, FileEngine::Client& client, const std::atomic<std::uint64_t>& capacity, std::string path,
                   Log log)
    : loop_(loop), client_(client), capacity_(capacity), path_(std::move(path)), log_(std::move(log)) {
  look_op_.kind = FileOp::Kind::size;
  look_op_.pieces = &size_piece_;
  look_op_.piece_count = 1;
}

void EndGuard::start(FileOp& op) {
  if (op.kind != FileOp::Kind::write && op.kind != FileOp::Kind::allocate) return engine_->start(op);
  const bool fits = end_of(op) <= end_;
  if (!looking_) {
    if (fits && loop_.clock().now() < next_look_) return engine_->start(op);
    look();  // what lies beyond the end as it was last seen: the file may have grown since
  }
  if (looking_) return waiting_.push(op);
  pass(op);
}

std::uint64_t EndGuard::end_of(const FileOp& op) {
  const bool write = op.kind == FileOp::Kind::write;
  return op.offset + (write ? total_length(std::span(op.pieces, op.piece_count)) : op.length);
}

/// 0, or the negative errno that an operation ends with. The capacity that the device tells its driver does not count here: it
/// may be what it was before the file changed.
int EndGuard::refusal(const FileOp& op) const {
  if (end_of(op) <= end_) return 0;
  if (state_ != State::limited) return -EIO;
  return op.kind == FileOp::Kind::write ? -EFBIG : 0;
}

void EndGuard::pass(FileOp& op) {
  const int error = refusal(op);
  if (error == 0) return engine_->start(op);
  op.result = error;
  client_.ended(op);
}

void EndGuard::look() {
  looking_ = true;
  next_look_ = loop_.clock().now() + look_interval;
  engine_->start(look_op_);
}

void EndGuard::ended(FileOp& op) {
  if (&op != &look_op_) return client_.ended(op);
  looking_ = false;
  looked();
  FileOpList writes;
  writes.append(waiting_);
  while (FileOp* write = writes.pop()) pass(*write);
}

void EndGuard::looked() {
  // Where the size cannot be had, nothing is known to be wrong.
  const std::uint64_t size = look_op_.result == 0 ? size_.stx_size : UINT64_MAX;
  rlimit limit{RLIM_INFINITY, RLIM_INFINITY};
  static_cast<void>(::getrlimit(RLIMIT_FSIZE, &limit));
  end_ = std::min<std::uint64_t>(size, limit.rlim_cur);
  if (end_ >= capacity_.load(std::memory_order_relaxed)) return set_state(State::whole);
  set_state(limit.rlim_cur < size ? State::limited : State::shortened);
}

void EndGuard::set_state(State state) {
  if (std::exchange(state_, state) == state) return;
  if (state == State::shortened) {
    log_.error("{}: was shortened to {} bytes: writes beyond fail until it has {} again", path_, end_,
               capacity_.load(std::memory_order_relaxed));
  } else if (state == State::limited) {
    log_.error("{}: this process may write the first {} bytes of a file only (RLIMIT_FSIZE): writes beyond fail", path_,
               end_);
  }
}

}  // namespace outboard::storage
