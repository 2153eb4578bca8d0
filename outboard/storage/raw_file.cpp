#include <outboard/storage/raw_file.hpp>

#include <algorithm>
#include <array>
#include <filesystem>
#include <vector>

#include <linux/falloc.h>
#include <climits>

#include <fmt/format.h>

#include <outboard/storage/image.hpp>
#include <outboard/storage/pieces.hpp>
#include <outboard/storage/pool_engine.hpp>
#include <outboard/storage/uring_engine.hpp>

namespace outboard::storage {

namespace {

constexpr std::size_t zeros_size = 65536;
/// Source of zeros where the file system cannot make them. Aligned for O_DIRECT.
alignas(4096) constexpr std::array<std::byte, zeros_size> zeros{};
constexpr std::size_t zero_pieces = 16;

/// Never more than this many times in a row without progress.
constexpr unsigned max_retries = 1000;

bool not_supported(ssize_t result) {
  return result == -EOPNOTSUPP || result == -ENOSYS || result == -ENOTTY || result == -EINVAL;
}

/// One operation of the caller; may take several FileOps.
struct Operation final : FileOp {
  enum class Stage : std::uint8_t { transfer, sync, discard, punch, zero_range, write_zeros };
  Stage stage = Stage::transfer;
  std::uint64_t left = 0;        // bytes not transferred yet
  unsigned retries = 0;
  std::span<const iovec> whole;  // the caller's pieces, from the next byte on unless `rest` is in use
  std::vector<iovec> rest;       // a copy of them, once a transfer has ended short
  Backend::Completion done;
  Operation* next_free = nullptr;
};

}  // namespace

struct RawFile::State final : FileEngine::Client {
  Image image;
  Options options;
  Log log;
  std::unique_ptr<FileEngine> engine;
  std::unique_ptr<FileEngine> ioctls;  // block devices under io_uring
  bool discard_works = true;
  bool punch_works = true;
  bool zero_range_works = true;
  std::vector<std::unique_ptr<Operation>> operations;
  Operation* free = nullptr;

  State(Image i, Options o, Log l) : image(std::move(i)), options(std::move(o)), log(std::move(l)) {}
  ~State() {
    // The engines first: they wait for what runs on the operations.
    engine.reset();
    ioctls.reset();
  }

  Status open_engines(Loop& loop, bool report);
  void start(Operation& op) { (op.kind == FileOp::Kind::discard && ioctls ? ioctls : engine)->start(op); }
  Operation& take(Completion done);
  void finish(Operation& op, int error);
  void transfer(FileOp::Kind kind, std::uint64_t offset, std::span<const iovec> pieces, Completion done);
  void start_transfer(Operation& op);
  void advance(Operation& op, std::uint64_t bytes);
  bool aligned(const FileOp& op) const;
  void start_allocate(Operation& op, Operation::Stage stage);
  void start_zeroes(Operation& op, Operation::Stage from);
  void start_zero_writes(Operation& op);
  void ended(FileOp& file_op) override;
  void transferred(Operation& op);
  void flushed(Operation& op);
};

Status RawFile::State::open_engines(Loop& loop, bool report) {
  const int fd = image.fd.get();
  const int direct = image.direct.get();
  if (options.engine != Engine::pool) {
    auto uring = UringEngine::create(loop, *this, fd, direct);
    if (uring) {
      engine = std::move(*uring);
      if (!image.block_device) return {};
      OUTBOARD_TRY(ioctls, PoolEngine::create(loop, *this, fd, direct, 1));
      return {};
    }
    if (options.engine == Engine::io_uring) return Error(uring.error()).on(image.path);
    if (report) log.warning("{}; using {} threads instead", uring.error().what(), options.threads);
  }
  OUTBOARD_TRY(engine, PoolEngine::create(loop, *this, fd, direct, std::clamp(options.threads, 1U, 64U)));
  return {};
}

Operation& RawFile::State::take(Completion done) {
  if (free == nullptr) {
    operations.push_back(std::make_unique<Operation>());
    free = operations.back().get();
    free->next_free = nullptr;
  }
  Operation& op = *free;
  free = op.next_free;
  op.retries = 0;
  op.direct = false;
  op.done = std::move(done);
  return op;
}

void RawFile::State::finish(Operation& op, int error) {
  Completion done = std::move(op.done);
  op.done = nullptr;
  op.next_free = free;
  free = &op;
  done(error);
}

void RawFile::State::transfer(FileOp::Kind kind, std::uint64_t offset, std::span<const iovec> pieces, Completion done) {
  Operation& op = take(std::move(done));
  op.stage = Operation::Stage::transfer;
  op.kind = kind;
  op.offset = offset;
  op.left = total_length(pieces);
  op.whole = pieces;
  if (op.left == 0) return finish(op, 0);
  op.direct = image.direct.valid();
  start_transfer(op);
}

void RawFile::State::start_transfer(Operation& op) {
  op.pieces = op.whole.data();
  op.piece_count = static_cast<unsigned>(std::min<std::size_t>(op.whole.size(), IOV_MAX));
  op.direct = op.direct && aligned(op);
  start(op);
}

bool RawFile::State::aligned(const FileOp& op) const {
  std::uint64_t bits = op.offset;
  for (const iovec& piece : std::span(op.pieces, op.piece_count))
    bits |= reinterpret_cast<std::uintptr_t>(piece.iov_base) | piece.iov_len;
  return bits % image.alignment == 0;
}

/// The transfer did `bytes` of what it should: go on behind them.
void RawFile::State::advance(Operation& op, std::uint64_t bytes) {
  op.offset += bytes;
  op.left -= bytes;
  std::vector<iovec> rest(op.whole.begin(), op.whole.end());
  auto piece = rest.begin();
  while (piece != rest.end() && bytes >= piece->iov_len) bytes -= (piece++)->iov_len;
  if (piece != rest.end()) {
    piece->iov_base = static_cast<std::byte*>(piece->iov_base) + bytes;
    piece->iov_len -= bytes;
  }
  rest.erase(rest.begin(), piece);
  op.rest = std::move(rest);
  op.whole = op.rest;
}

void RawFile::State::transferred(Operation& op) {
  if (op.result == -EINVAL && op.direct) {  // stricter than it said: this one goes through the page cache
    op.direct = false;
    return start_transfer(op);
  }
  if (op.result < 0) return finish(op, static_cast<int>(-op.result));
  // Nothing more to read: the file is shorter than it was. Nothing written without an error: not to be trusted either.
  if (op.result == 0) return finish(op, EIO);
  const auto bytes = std::min(static_cast<std::uint64_t>(op.result), op.left);
  op.retries = 0;
  if (op.stage == Operation::Stage::write_zeros) {
    op.offset += bytes;
    op.left -= bytes;
    return op.left == 0 ? finish(op, 0) : start_zero_writes(op);
  }
  if (bytes == op.left) return finish(op, 0);
  advance(op, bytes);
  start_transfer(op);
}

void RawFile::State::start_allocate(Operation& op, Operation::Stage stage) {
  op.stage = stage;
  op.kind = FileOp::Kind::allocate;
  op.mode = FALLOC_FL_KEEP_SIZE | (stage == Operation::Stage::zero_range ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE);
  start(op);
}

/// Zeroes by the first way that works, from `from` on: a hole, the file system's own way, writing.
void RawFile::State::start_zeroes(Operation& op, Operation::Stage from) {
  if (from == Operation::Stage::punch && punch_works) return start_allocate(op, Operation::Stage::punch);
  if (from != Operation::Stage::write_zeros && zero_range_works)
    return start_allocate(op, Operation::Stage::zero_range);
  op.stage = Operation::Stage::write_zeros;
  op.kind = FileOp::Kind::write;
  op.left = op.length;
  op.direct = image.direct.valid();
  start_zero_writes(op);
}

void RawFile::State::start_zero_writes(Operation& op) {
  op.rest.clear();
  for (std::uint64_t left = op.left; left != 0 && op.rest.size() < zero_pieces;) {
    const std::uint64_t size = std::min<std::uint64_t>(left, zeros_size);
    op.rest.push_back({const_cast<std::byte*>(zeros.data()), size});
    left -= size;
  }
  op.whole = op.rest;
  start_transfer(op);
}

void RawFile::State::ended(FileOp& file_op) {
  auto& op = static_cast<Operation&>(file_op);
  if ((op.result == -EINTR || op.result == -EAGAIN) && ++op.retries < max_retries) return start(op);
  const bool unsupported = not_supported(op.result);
  switch (op.stage) {
    case Operation::Stage::transfer:
    case Operation::Stage::write_zeros:
      return transferred(op);
    case Operation::Stage::discard:
      // Advice that cannot be taken is not an error.
      if (unsupported) discard_works = false;
      return finish(op, unsupported ? 0 : static_cast<int>(-op.result));
    case Operation::Stage::punch:
      if (!unsupported) return finish(op, static_cast<int>(-op.result));
      punch_works = false;
      return start_zeroes(op, Operation::Stage::zero_range);
    case Operation::Stage::zero_range:
      if (!unsupported) return finish(op, static_cast<int>(-op.result));
      zero_range_works = false;
      return start_zeroes(op, Operation::Stage::write_zeros);
    case Operation::Stage::sync:
      return flushed(op);
  }
}

/// Linux tells of pages that it could not write once, and holds them to be clean from then on: a flush that succeeded
/// after one that failed would say that lost data are safe.
void RawFile::State::flushed(Operation& op) {
  const int error = static_cast<int>(-op.result);
  int first = 0;
  if (error != 0 && image.flush_error->compare_exchange_strong(first, error)) {
    log.error("{}: flushing it failed ({}): what was written since the last flush may be lost; no flush will succeed",
              image.path, Error(error).what());
  }
  finish(op, image.flush_error->load());
}

RawFile::RawFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
RawFile::~RawFile() = default;

Result<std::unique_ptr<RawFile>> RawFile::open(Loop& loop, const Options& options, const Log& log) {
  OUTBOARD_TRY(auto image, open_image(options.path, options.read_only, options.direct, log));
  auto state = std::make_unique<State>(std::move(image), options, log);
  OUTBOARD_CHECK(state->open_engines(loop, true));
  std::unique_ptr<RawFile> file(new RawFile(std::move(state)));
  log.info("{}: {} bytes", file->description(), file->geometry().capacity);
  return file;
}

Result<std::unique_ptr<Backend>> RawFile::share(Loop& loop) const {
  OUTBOARD_TRY(auto image, state_->image.duplicate());
  auto state = std::make_unique<State>(std::move(image), state_->options, state_->log);
  OUTBOARD_CHECK(state->open_engines(loop, false));
  return std::unique_ptr<Backend>(new RawFile(std::move(state)));
}

const Geometry& RawFile::geometry() const { return state_->image.geometry; }
Status RawFile::refresh() { return state_->image.measure_again(); }

std::string RawFile::description() const {
  return fmt::format("{} ({}{}{})", std::filesystem::path(state_->image.path).filename().string(),
                     state_->engine->name(), state_->image.direct ? ", O_DIRECT" : "",
                     state_->image.geometry.read_only ? ", read-only" : "");
}

void RawFile::read(std::uint64_t offset, std::span<const iovec> pieces, Completion done) {
  state_->transfer(FileOp::Kind::read, offset, pieces, std::move(done));
}

void RawFile::write(std::uint64_t offset, std::span<const iovec> pieces, Completion done) {
  if (geometry().read_only) return done(EROFS);
  state_->transfer(FileOp::Kind::write, offset, pieces, std::move(done));
}

void RawFile::flush(Completion done) {
  if (geometry().read_only) return done(0);
  if (const int error = state_->image.flush_error->load(); error != 0) return done(error);
  Operation& op = state_->take(std::move(done));
  op.stage = Operation::Stage::sync;
  op.kind = FileOp::Kind::sync;
  state_->start(op);
}

void RawFile::discard(std::uint64_t offset, std::uint64_t length, Completion done) {
  if (geometry().read_only) return done(EROFS);
  if (length == 0 || !state_->discard_works || !geometry().can_discard) return done(0);
  Operation& op = state_->take(std::move(done));
  op.offset = offset;
  op.length = length;
  if (!state_->image.block_device) return state_->start_allocate(op, Operation::Stage::discard);
  op.stage = Operation::Stage::discard;
  op.kind = FileOp::Kind::discard;
  FileEngine& engine = state_->ioctls ? *state_->ioctls : *state_->engine;
  engine.start(op);
}

void RawFile::write_zeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap, Completion done) {
  if (geometry().read_only) return done(EROFS);
  if (length == 0) return done(0);
  Operation& op = state_->take(std::move(done));
  op.offset = offset;
  op.length = length;
  state_->start_zeroes(op, may_unmap ? Operation::Stage::punch : Operation::Stage::zero_range);
}

void RawFile::submit() {
  state_->engine->submit();
  if (state_->ioctls) state_->ioctls->submit();
}

bool RawFile::poll() {
  const bool first = state_->engine->poll();
  const bool second = state_->ioctls && state_->ioctls->poll();
  return first || second;
}

}  // namespace outboard::storage
