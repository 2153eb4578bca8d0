#include <outboard/storage/raw_file.hpp>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include <climits>

#include <fmt/format.h>

#include <outboard/base/internal/thread.hpp>
#include <outboard/storage/ending.hpp>
#include <outboard/storage/internal/aligned_engine.hpp>
#include <outboard/storage/internal/end_guard.hpp>
#include <outboard/storage/internal/image_identity.hpp>
#include <outboard/storage/internal/pool_engine.hpp>
#include <outboard/storage/internal/range_support.hpp>
#include <outboard/storage/internal/raw_file_state.hpp>
#include <outboard/storage/internal/signals_blocked.hpp>
#include <outboard/storage/internal/uring_engine.hpp>
#include <outboard/storage/pieces.hpp>

namespace outboard::storage {

namespace {

/// Never more than this many times in a row without progress.
constexpr unsigned max_retries = 1000;
constexpr Duration time_for_workers = std::chrono::milliseconds(200);

}  // namespace

RawFile::State::State(Loop& on, std::shared_ptr<const Image> of, std::shared_ptr<std::atomic<std::uint64_t>> bytes,
                      Options with, Log to)
    : loop(on),
      image(std::move(of)),
      geometry(image->geometry),
      capacity(std::move(bytes)),
      options(std::move(with)),
      log(std::move(to)) {}

RawFile::State::~State() {
  {
    // The engines first: they wait for what runs on the operations.
    const EndingScope scope(Ending::requests);
    engine.reset();
    ioctls.reset();
    if (looker.joinable()) looker.join();
  }
  const EndingScope scope(Ending::closing);
  image.reset();
}

Status RawFile::State::open_engines(bool report) {
  if (!image->direct) return open_guarded_engines(*this, report);
  auto aligned = std::make_unique<AlignedEngine>(loop, *this, image->direct_rules, image->range_lock);
  OUTBOARD_CHECK(open_guarded_engines(*aligned, report));
  aligned->set_engine(std::move(engine));
  engine = std::move(aligned);
  return {};
}

Status RawFile::State::open_guarded_engines(FileEngine::Client& client, bool report) {
  if (options.make_engine) {
    OUTBOARD_TRY(engine, options.make_engine(loop, client, image->fd.get(), image->direct.get()));
    return {};
  }
  if (image->block_device || geometry.read_only) return open_engines(client, report);
  auto guard = std::make_unique<EndGuard>(loop, client, *capacity, image->path, log);
  OUTBOARD_CHECK(open_engines(*guard, report));
  guard->set_engine(std::move(engine));
  engine = std::move(guard);
  return {};
}

Status RawFile::State::open_engines(FileEngine::Client& client, bool report) {
  const int fd = image->fd.get();
  const int direct = image->direct.get();
  if (options.engine != Engine::pool) {
    auto uring = UringEngine::create(loop, client, fd, direct);
    // At the start only: later no loop waits for that, and operations do.
    if (const Status may = uring && report ? (*uring)->wait_for_workers(time_for_workers) : Status(); !may)
      uring = may.error();
    if (uring) {
      engine = std::move(*uring);
      if (!image->block_device) return {};
      OUTBOARD_TRY(ioctls, PoolEngine::create(loop, client, fd, direct, 1));
      return {};
    }
    if (options.engine == Engine::io_uring) return Error(uring.error()).on(image->path);
    if (report) {
      const std::string cure = uring.error().cure().empty() ? "" : " (" + uring.error().cure() + ")";
      log.warning("{}: {}{}; trying {} threads instead", image->path, uring.error().what(), cure, options.threads);
    }
  }
  OUTBOARD_TRY(engine, PoolEngine::create(loop, client, fd, direct, std::clamp(options.threads, 1U, 64U)));
  return {};
}

RawFileOperation& RawFile::State::take(Completion done) {
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
  start_transfer(op);
}

void RawFile::State::start_transfer(Operation& op) {
  op.pieces = op.whole.data();
  // By O_DIRECT all of them: where a part of them ends may not be where O_DIRECT can.
  const std::size_t max_pieces = image->direct ? UINT_MAX : IOV_MAX;
  op.piece_count = static_cast<unsigned>(std::min(op.whole.size(), max_pieces));
  start(op);
}

/// The transfer did `bytes` of what it should: go on behind them.
void RawFile::State::advance(Operation& op, std::uint64_t bytes) {
  op.offset += bytes;
  op.left -= bytes;
  std::vector<iovec> rest;  // a second one: `whole` may be the first
  cut(op.whole, bytes, op.left, rest);
  op.rest = std::move(rest);
  op.whole = op.rest;
}

void RawFile::State::transferred(Operation& op) {
  if (op.result < 0) return finish(op, static_cast<int>(-op.result));
  // Nothing more to read: the file is shorter than it was. Nothing written without an error: not to be trusted either.
  if (op.result == 0) return finish(op, EIO);
  const auto bytes = std::min(static_cast<std::uint64_t>(op.result), op.left);
  op.retries = 0;
  if (op.stage == Operation::Stage::write_zeros) {
    op.offset += bytes;
    op.left -= bytes;
    return op.left == 0 ? write_next_by_hand(op) : start_zero_writes(op);
  }
  if (bytes == op.left) return finish(op, 0);
  advance(op, bytes);
  start_transfer(op);
}

void RawFile::State::ended(FileOp& file_op) {
  auto& op = static_cast<Operation&>(file_op);
  if ((op.result == -EINTR || op.result == -EAGAIN) && ++op.retries < max_retries) return start(op);
  switch (op.stage) {
    case Operation::Stage::transfer:
    case Operation::Stage::write_zeros:
      return transferred(op);
    case Operation::Stage::discard:
    case Operation::Stage::punch:
    case Operation::Stage::zero_range:
      return allocated(op);
    case Operation::Stage::sync:
      return flushed(op);
  }
}

/// Linux tells of pages that it could not write once, and holds them to be clean from then on: a flush that succeeded
/// after one that failed would say that lost data are safe.
void RawFile::State::flushed(Operation& op) {
  const int error = static_cast<int>(-op.result);
  int first = 0;
  if (error != 0 && image->flush_error->compare_exchange_strong(first, error)) {
    log.error("{}: flushing it failed ({}): what was written since the last flush may be lost; no flush will succeed",
              image->path, Error(error).what());
  }
  finish(op, image->flush_error->load());
}

void RawFile::State::measure(Measured done) {
  if (!looking.empty()) return looking_after.push_back(std::move(done));
  looking.push_back(std::move(done));
  start_looking();
}

/// Asks for the size on a thread of its own.
void RawFile::State::start_looking() {
  if (looker.joinable()) looker.join();  // it has told, so it has ended or is about to
  const SignalsBlocked blocked;
  auto thread =
      start_thread("looking at the image's size", [this, &on = loop, there = std::weak_ptr<char>(alive)]() mutable {
        on.post([this, there = std::move(there), size = image->size_now()] {
          if (!there.expired()) looked(size);
        });
      });
  if (!thread) return looked(Error(thread.error()).on(image->path));
  looker = std::move(*thread);
}

void RawFile::State::looked(const Result<std::uint64_t>& size) {
  std::vector<Measured> told = std::exchange(looking, std::exchange(looking_after, {}));
  if (!looking.empty()) start_looking();
  for (Measured& done : told) done(size);
}

RawFile::RawFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
RawFile::~RawFile() = default;

Result<std::unique_ptr<RawFile>> RawFile::open(Loop& loop, const Options& options, const Log& log) {
  OUTBOARD_TRY(auto opened, options.lent ? open_image_unlocked(options.path, options.read_only, options.direct, log)
                                         : open_image(options.path, options.read_only, options.direct, log));
  probe_range_support(opened);
  auto capacity = std::make_shared<std::atomic<std::uint64_t>>(opened.geometry.capacity);
  auto state = std::make_unique<State>(loop, std::make_shared<const Image>(std::move(opened)), std::move(capacity),
                                       options, log);
  OUTBOARD_TRY(state->identity, identity_of_image(*state->image));
  OUTBOARD_CHECK(state->open_engines(true));
  std::unique_ptr<RawFile> file(new RawFile(std::move(state)));
  log.info("{}: {} bytes", file->description(), file->geometry().capacity);
  return file;
}

Result<std::unique_ptr<Backend>> RawFile::share(Loop& loop) const {
  auto state = std::make_unique<State>(loop, state_->image, state_->capacity, state_->options, state_->log);
  state->identity = state_->identity;
  OUTBOARD_CHECK(state->open_engines(false));
  return std::unique_ptr<Backend>(new RawFile(std::move(state)));
}

Geometry RawFile::geometry() const {
  Geometry geometry = state_->geometry;
  geometry.capacity = state_->capacity->load(std::memory_order_relaxed);
  return geometry;
}

bool RawFile::is_lent() const { return state_->options.lent; }

void RawFile::let_go() { state_->image->let_go(); }

Status RawFile::take_back() {
  const Image& image = *state_->image;
  if (image.held->load()) return {};
  OUTBOARD_CHECK(image.take_back(state_->log));
  const auto size = image.size_now();
  if (size && *size == state_->capacity->load(std::memory_order_relaxed)) return {};
  image.let_go();
  return size ? Error(EIO, "the image's size has changed since it was opened").on(image.path) : size.error();
}

void RawFile::measure(Measured done) { state_->measure(std::move(done)); }

void RawFile::set_capacity(std::uint64_t capacity) { state_->capacity->store(capacity, std::memory_order_relaxed); }

StorageIdentity RawFile::identity() const {
  StorageIdentity identity = state_->identity;
  identity.size = geometry().capacity;
  return identity;
}

std::string RawFile::description() const {
  return fmt::format("{} ({}{}{})", state_->image->path, state_->engine->name(),
                     state_->image->direct ? ", O_DIRECT" : "", state_->geometry.read_only ? ", read-only" : "");
}

void RawFile::read(std::uint64_t offset, std::span<const iovec> pieces, Completion done) {
  state_->transfer(FileOp::Kind::read, offset, pieces, std::move(done));
}

void RawFile::write(std::uint64_t offset, std::span<const iovec> pieces, Completion done) {
  if (state_->geometry.read_only) return done(EROFS);
  state_->transfer(FileOp::Kind::write, offset, pieces, std::move(done));
}

void RawFile::flush(Completion done) {
  if (state_->geometry.read_only) return done(0);
  if (const int error = state_->image->flush_error->load(); error != 0) return done(error);
  RawFileOperation& op = state_->take(std::move(done));
  op.stage = RawFileOperation::Stage::sync;
  op.kind = FileOp::Kind::sync;
  state_->start(op);
}

void RawFile::discard(std::uint64_t offset, std::uint64_t length, Completion done) {
  if (state_->geometry.read_only) return done(EROFS);
  if (length == 0 || !state_->geometry.can_discard) return done(0);
  RawFileOperation& op = state_->take(std::move(done));
  op.range = {offset, length};
  state_->discard(op);
}

void RawFile::write_zeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap, Completion done) {
  if (state_->geometry.read_only) return done(EROFS);
  if (length == 0) return done(0);
  RawFileOperation& op = state_->take(std::move(done));
  op.range = {offset, length};
  state_->zero(op, may_unmap);
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
