// Discarding and zeroing. The kernel's ways take whole units of the storage, refuse what they cannot do with one range, and
// may do so for that range only: each range is tried again, and what is left is written.

#include <outboard/storage/internal/raw_file_state.hpp>

#include <algorithm>

#include <linux/falloc.h>

namespace outboard::storage {

namespace {

constexpr std::size_t zeros_size = 65536;
/// Source of zeros where the file system cannot make them. Aligned for O_DIRECT.
alignas(4096) constexpr std::array<std::byte, zeros_size> zeros{};
constexpr std::size_t zero_pieces = 16;

/// The kernel cannot do it at all, or not with this range. Which of the two is not remembered: EINVAL is the answer to a
/// range that a disk finds too odd, and asking again costs little beside what is done instead.
bool not_possible(ssize_t result) {
  return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENOTTY || result == -EINVAL;
}

}  // namespace

/// The units of the storage that lie wholly inside `range`. A file has units of a byte: its file system rounds for itself, but
/// through the page cache.
RawFileOperation::Range RawFile::State::whole_units(const Operation::Range& range) const {
  const std::uint64_t unit = image->block_device ? geometry.logical_block
                             : image->direct     ? std::max(geometry.physical_block, image->direct_rules.unit)
                                                 : 1;
  const std::uint64_t first = (range.offset + unit - 1) / unit * unit;
  const std::uint64_t last = range.end() / unit * unit;
  return {first, last > first ? last - first : 0};
}

/// What is not a whole unit is kept: a discard is advice.
void RawFile::State::discard(Operation& op) {
  const auto inside = whole_units(op.range);
  op.offset = inside.offset;
  op.length = inside.length;
  if (op.length == 0) return finish(op, 0);
  if (!image->block_device) return start_allocate(op, Operation::Stage::discard);
  op.stage = Operation::Stage::discard;
  op.kind = FileOp::Kind::discard;
  start(op);
}

/// A disk that has no way of its own has the kernel write zeros, for as long as that takes. A file system refuses at once.
bool RawFile::State::worth_asking_for_zeros() const {
  return image->block_device ? geometry.can_write_zeroes : geometry.can_discard;
}

/// Zeroes by the first way that works: a hole, the storage's own way, writing.
void RawFile::State::zero(Operation& op, bool may_unmap) {
  const auto inside = whole_units(op.range);
  const bool punch = may_unmap && geometry.can_unmap_zeroes;
  if (inside.length == 0 || !(punch || worth_asking_for_zeros())) return write_by_hand(op, op.range);
  op.offset = inside.offset;
  op.length = inside.length;
  start_allocate(op, punch ? Operation::Stage::punch : Operation::Stage::zero_range);
}

void RawFile::State::start_allocate(Operation& op, Operation::Stage stage) {
  op.stage = stage;
  op.kind = FileOp::Kind::allocate;
  op.mode = FALLOC_FL_KEEP_SIZE | (stage == Operation::Stage::zero_range ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE);
  start(op);
}

/// The end of a discard, or of a way of zeroing.
void RawFile::State::allocated(Operation& op) {
  const bool refused = not_possible(op.result);
  // Advice that cannot be taken is not an error.
  if (op.stage == Operation::Stage::discard) return finish(op, refused ? 0 : static_cast<int>(-op.result));
  if (refused) {
    const bool once_more = op.stage == Operation::Stage::punch && worth_asking_for_zeros();
    return once_more ? start_allocate(op, Operation::Stage::zero_range) : write_by_hand(op, op.range);
  }
  if (op.result < 0) return finish(op, static_cast<int>(-op.result));
  const Operation::Range done{op.offset, op.length};
  op.by_hand_count = 0;
  if (op.range.end() > done.end()) op.by_hand[op.by_hand_count++] = {done.end(), op.range.end() - done.end()};
  if (done.offset > op.range.offset) op.by_hand[op.by_hand_count++] = {op.range.offset, done.offset - op.range.offset};
  write_next_by_hand(op);
}

void RawFile::State::write_by_hand(Operation& op, const Operation::Range& range) {
  op.by_hand[0] = range;
  op.by_hand_count = 1;
  write_next_by_hand(op);
}

void RawFile::State::write_next_by_hand(Operation& op) {
  if (op.by_hand_count == 0) return finish(op, 0);
  const Operation::Range next = op.by_hand[--op.by_hand_count];
  op.stage = Operation::Stage::write_zeros;
  op.kind = FileOp::Kind::write;
  op.offset = next.offset;
  op.left = next.length;
  start_zero_writes(op);
}

/// Where O_DIRECT takes whole units only, the whole ones are a write of their own.
std::uint64_t RawFile::State::next_zeros(const Operation& op) const {
  if (!image->direct) return op.left;
  const std::uint64_t unit = image->direct_rules.unit;
  if (op.offset % unit != 0) return std::min(op.left, unit - op.offset % unit);
  return op.left > unit ? op.left - op.left % unit : op.left;
}

void RawFile::State::start_zero_writes(Operation& op) {
  op.rest.clear();
  for (std::uint64_t left = next_zeros(op); left != 0 && op.rest.size() < zero_pieces;) {
    const std::uint64_t size = std::min<std::uint64_t>(left, zeros_size);
    op.rest.push_back({const_cast<std::byte*>(zeros.data()), size});
    left -= size;
  }
  op.whole = op.rest;
  start_transfer(op);
}

}  // namespace outboard::storage
