#include <outboard/storage/internal/aligned_engine.hpp>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <span>
#include <utility>

#include <outboard/storage/pieces.hpp>

namespace outboard::storage {

namespace {

bool is_transfer(const FileOp& op) { return op.kind == FileOp::Kind::read || op.kind == FileOp::Kind::write; }

std::span<const iovec> pieces_of(const FileOp& op) { return {op.pieces, op.piece_count}; }

}  // namespace

/// What is done of an operation that does not just pass.
struct AlignedEngine::Step final : FileOp, RangeLock::Ticket {
  enum class Stage : std::uint8_t {
    unused,
    locking,  ///< waits for the lock on its range
    passing,  ///< as the client gave it
    waiting,  ///< for memory
    reading,  ///< what the client wants to read
    reading_head,  ///< the first unit, of which the client writes a part
    reading_tail,  ///< the last one
    writing,
  };

  Stage stage = Stage::unused;
  FileOp* op = nullptr;  // the client's
  Bounce bounce;         // no bytes: the operation passes
  iovec piece{};
  bool locks = false;
  bool has_memory = false;
  Step* next_free = nullptr;
};

AlignedEngine::AlignedEngine(Loop& loop, FileEngine::Client& client, const DirectRules& rules,
                             std::shared_ptr<RangeLock> lock)
    : loop_(loop),
      client_(client),
      rules_(rules),
      step_size_(std::max<std::uint64_t>(max_step, rules.unit)),
      lock_(std::move(lock)) {}

/// What waits for this one's ranges goes on, once nothing is written any more.
AlignedEngine::~AlignedEngine() {
  engine_.reset();
  for (const auto& step : steps_) {
    if (step->stage != Step::Stage::unused && step->locks) lock_->release(*step);
  }
}

bool AlignedEngine::takes(const FileOp& op) const {
  if (op.piece_count > IOV_MAX) return false;
  std::uint64_t places = 0;
  std::uint64_t sizes = op.offset;
  for (const iovec& piece : pieces_of(op)) {
    places |= reinterpret_cast<std::uintptr_t>(piece.iov_base);
    sizes |= piece.iov_len;
  }
  return (places & (rules_.memory - 1)) == 0 && (sizes & (rules_.unit - 1)) == 0;
}

/// Whole sectors are whole units of most storage: nothing there is written beside what the client writes. A discard that falls
/// between the reading and the writing of a unit may leave the old bytes: it is advice.
bool AlignedEngine::must_lock(const FileOp& op) const {
  return rules_.unit > sector && (op.kind == FileOp::Kind::write || op.kind == FileOp::Kind::allocate);
}

void AlignedEngine::start(FileOp& op) {
  if (is_transfer(op)) {
    op.direct = true;
    if (!takes(op)) return start_odd(op);
  }
  return must_lock(op) ? start_step(op, false) : engine_->start(op);
}

void AlignedEngine::start_odd(FileOp& op) {
  if (op.kind == FileOp::Kind::write && (op.offset | total_length(pieces_of(op))) % sector != 0) {
    op.result = -EINVAL;
    return client_.ended(op);
  }
  start_step(op, true);
}

void AlignedEngine::ended(FileOp& op) {
  if (op.is_step) return step_ended(static_cast<Step&>(op));
  // Stricter than it said.
  if (op.result == -EINVAL && is_transfer(op)) return start_step(op, true);
  pass_on_result(op);
}

/// A write that ended inside a unit is done again from the beginning of that: the client would go on with an odd one. After a read
/// that does no harm, and the file may end there.
void AlignedEngine::pass_on_result(FileOp& op) {
  if (op.kind == FileOp::Kind::write && op.result > 0 && op.result % rules_.unit != 0) {
    op.result -= op.result % rules_.unit;
    if (op.result == 0) op.result = -EAGAIN;
  }
  client_.ended(op);
}

AlignedEngine::Step& AlignedEngine::take_step(FileOp& op) {
  if (free_ == nullptr) free_ = steps_.emplace_back(std::make_unique<Step>()).get();
  Step& step = *free_;
  free_ = std::exchange(step.next_free, nullptr);
  step.op = &op;
  step.is_step = true;
  step.bounce = Bounce();
  return step;
}

void AlignedEngine::start_step(FileOp& op, bool bounces) {
  Step& step = take_step(op);
  const std::uint64_t length = is_transfer(op) ? total_length(pieces_of(op)) : op.length;
  if (bounces) step.bounce = Bounce(rules_, op.offset, length, step_size_);
  step.locks = must_lock(op);
  if (!step.locks) return has_lock(step);
  step.stage = Step::Stage::locking;
  step.owner = this;
  step.begin = bounces ? step.bounce.begin() : op.offset;
  step.end = bounces ? step.bounce.end() : op.offset + length;
  step.lock_mode = step.bounce.has_odd_end() ? RangeLock::Mode::exclusive : RangeLock::Mode::shared;
  if (lock_->acquire(step)) has_lock(step);
}

/// Memory comes after the lock: who has memory waits for the storage only, and gives it back.
void AlignedEngine::has_lock(Step& step) {
  if (step.bounce.size() != 0) {
    step.stage = Step::Stage::waiting;
    waiting_.push(step);
    return start_waiting();
  }
  step.stage = Step::Stage::passing;
  step.kind = step.op->kind;
  step.direct = step.op->direct;
  step.mode = step.op->mode;
  step.offset = step.op->offset;
  step.length = step.op->length;
  step.pieces = step.op->pieces;
  step.piece_count = step.op->piece_count;
  engine_->start(step);
}

/// Starts what there is memory for. What ends meanwhile, refused by the engine, is not started from inside of itself.
void AlignedEngine::start_waiting() {
  if (starting_) return;
  starting_ = true;
  while (FileOp* first = waiting_.first()) {
    auto& step = static_cast<Step&>(*first);
    if (in_use_ != 0 && in_use_ + step.bounce.memory_size() > budget) break;
    waiting_.pop();
    begin(step);
  }
  starting_ = false;
}

void AlignedEngine::begin(Step& step) {
  if (!step.bounce.allocate()) return finish(step, -ENOMEM);
  step.has_memory = true;
  in_use_ += step.bounce.memory_size();
  if (step.op->kind == FileOp::Kind::read) {
    step.stage = Step::Stage::reading;
    return transfer(step, FileOp::Kind::read, step.bounce.begin(), step.bounce.all());
  }
  if (step.bounce.has_odd_head()) {
    step.stage = Step::Stage::reading_head;
    return transfer(step, FileOp::Kind::read, step.bounce.begin(), step.bounce.head());
  }
  read_tail(step);
}

void AlignedEngine::read_tail(Step& step) {
  if (!step.bounce.has_odd_tail()) return write(step);
  step.stage = Step::Stage::reading_tail;
  transfer(step, FileOp::Kind::read, step.bounce.end() - rules_.unit, step.bounce.tail());
}

void AlignedEngine::write(Step& step) {
  step.bounce.copy_in(pieces_of(*step.op));
  step.stage = Step::Stage::writing;
  transfer(step, FileOp::Kind::write, step.bounce.begin(), step.bounce.all());
}

void AlignedEngine::transfer(Step& step, FileOp::Kind kind, std::uint64_t offset, const iovec& piece) {
  step.kind = kind;
  step.direct = true;
  step.offset = offset;
  step.piece = piece;
  step.pieces = &step.piece;
  step.piece_count = 1;
  engine_->start(step);
}

void AlignedEngine::step_ended(Step& step) {
  if (step.stage == Step::Stage::passing) return passed(step);
  if (step.result <= 0) return finish(step, step.result);
  const auto bytes = static_cast<std::uint64_t>(step.result);
  switch (step.stage) {
    case Step::Stage::reading_head:
      return bytes < rules_.unit ? finish(step, -EAGAIN) : read_tail(step);
    case Step::Stage::reading_tail:
      return bytes < rules_.unit ? finish(step, -EAGAIN) : write(step);
    case Step::Stage::reading:
      step.bounce.copy_out(pieces_of(*step.op), step.bounce.reached_by(bytes));
      return finish_transfer(step, bytes);
    default:
      return finish_transfer(step, bytes - bytes % rules_.unit);
  }
}

/// `bytes` of the memory have been transferred.
void AlignedEngine::finish_transfer(Step& step, std::uint64_t bytes) {
  const std::uint64_t reached = step.bounce.reached_by(bytes);
  finish(step, reached == 0 ? -EAGAIN : static_cast<ssize_t>(reached));
}

void AlignedEngine::passed(Step& step) {
  if (step.result != -EINVAL || !is_transfer(*step.op)) return finish(step, step.result);
  // Stricter than it said. The range stays locked; the memory may hold less of it.
  step.bounce = Bounce(rules_, step.op->offset, total_length(pieces_of(*step.op)), step_size_);
  has_lock(step);
}

void AlignedEngine::finish(Step& step, ssize_t result) {
  FileOp& op = *step.op;
  if (std::exchange(step.has_memory, false)) in_use_ -= step.bounce.memory_size();
  step.bounce.release();
  if (step.locks) lock_->release(step);
  const bool was_whole = step.stage == Step::Stage::passing;
  step.stage = Step::Stage::unused;
  step.next_free = std::exchange(free_, &step);
  start_waiting();
  op.result = result;
  was_whole ? pass_on_result(op) : client_.ended(op);
}

bool AlignedEngine::poll() {
  const bool any = engine_->poll();
  if (has_granted()) take_granted();
  return any;
}

void AlignedEngine::wake() {
  loop_.post([this, there = std::weak_ptr<char>(alive_)] {
    if (!there.expired()) take_granted();
  });
}

void AlignedEngine::take_granted() {
  for (RangeLock::Ticket* ticket : lock_->take_granted(*this)) has_lock(static_cast<Step&>(*ticket));
  engine_->submit();
}

}  // namespace outboard::storage
