#include <outboard/devices/blk/internal/device_request_queue.hpp>

#include <algorithm>
#include <cerrno>
#include <span>
#include <utility>

#include <outboard/storage/pieces.hpp>

namespace outboard::blk {

namespace {

const char* name_of(std::uint32_t type) {
  switch (type) {
    case spec::type::in:
      return "a read";
    case spec::type::out:
      return "a write";
    case spec::type::flush:
      return "a flush";
    case spec::type::discard:
      return "a discard";
    default:
      return "writing zeroes";
  }
}

bool moves_data(std::uint32_t type) { return type == spec::type::in || type == spec::type::out; }

bool unmaps(const spec::RangeSegment& segment) { return (segment.flags & spec::RangeSegment::unmap) != 0; }

bool changes_disk(std::uint32_t type) {
  return type == spec::type::out || type == spec::type::discard || type == spec::type::write_zeroes ||
         type == spec::type::secure_erase;
}

}  // namespace

void answer(virtio::Request request, std::uint8_t status) {
  Status written;
  const std::uint64_t left = request.writable_left();
  if (left > device_limits::turn_bytes) return answer_only(std::move(request), status);
  if (left > 1) written = request.write_zeros(left - 1);
  if (written) {
    written = request.write(status);
  } else if (request.fails_alone()) {
    written = request.write_last(spec::status::ioerr);
  }
  if (!written) return request.violation(written.error());
  request.complete();
}

void answer_only(virtio::Request request, std::uint8_t status) {
  if (const auto written = request.write_last(status); !written) return request.violation(written.error());
  request.complete();
}

void RequestQueue::handle(virtio::Request request) {
  if (request.writable_size() == 0)
    return request.violation("5.2.6", "a block request has no writable byte for its status");
  const auto header = request.read<spec::RequestHeader>();
  if (std::max(request.readable_size(), request.writable_size()) >
      device_limits::max_data + sizeof(spec::RequestHeader) + 1) {
    disk_.failed("a request of more than 256 MiB", header ? std::uint64_t{header->sector} : 0, EMSGSIZE);
    return answer_only(std::move(request), spec::status::ioerr);
  }
  if (!header) return fail(std::move(request), header.error());

  // VIRTIO 1.4, 5.2.6.2: "A device MUST set the status byte to VIRTIO_BLK_S_IOERR for a write request if the
  // VIRTIO_BLK_F_RO feature if offered, and MUST NOT write any data." What was offered decides, not what was negotiated.
  if (disk_.read_only && changes_disk(header->type)) return answer(std::move(request), spec::status::ioerr);
  switch (header->type) {
    case spec::type::in:
      return read(std::move(request), header->sector);
    case spec::type::out:
      return write(std::move(request), header->sector);
    case spec::type::flush:
      return flush(std::move(request));
    case spec::type::get_id:
      return get_id(std::move(request));
    case spec::type::discard:
    case spec::type::write_zeroes:
      return ranges(std::move(request), header->type);
    default:
      return answer(std::move(request), spec::status::unsupp);
  }
}

/// A request that could not be read or written: too short is the driver's to know; memory that is not there leaves no way to
/// answer, unless the transport wants one.
void RequestQueue::fail(virtio::Request request, const Error& error) {
  if (error.code() == EINVAL || request.fails_alone()) return answer(std::move(request), spec::status::ioerr);
  request.violation(error);
}

void RequestQueue::read(virtio::Request request, std::uint64_t sector) {
  const std::uint64_t data = request.writable_left() - 1;
  // VIRTIO 1.4, 5.2.6.1: "A driver MUST NOT submit a request which would cause a read or write beyond capacity." "The
  // length of data MUST be a multiple of 512 bytes for VIRTIO_BLK_T_IN and VIRTIO_BLK_T_OUT requests." Ours: IOERR.
  const bool well_formed =
      request.readable_left() == 0 && data % sector_size == 0 && disk_.holds(sector, data / sector_size);
  if (!well_formed) return answer(std::move(request), spec::status::ioerr);
  if (data == 0) return answer(std::move(request), spec::status::ok);
  const auto pieces = request.writable_pieces(data);
  if (!pieces) return fail(std::move(request), pieces.error());
  storage::Backend* storage = backend();
  if (storage == nullptr) return answer(std::move(request), spec::status::ioerr);

  Op& op = take(std::move(request), spec::type::in);
  op.sector = sector;
  op.data = data;
  if (data > device_limits::turn_bytes) return move_large(op, *pieces);
  storage->read(sector * sector_size, *pieces, [this, &op](int error) { finish(op, error); });
}

void RequestQueue::write(virtio::Request request, std::uint64_t sector) {
  const std::uint64_t data = request.readable_left();
  const bool well_formed =
      request.writable_left() == 1 && data % sector_size == 0 && disk_.holds(sector, data / sector_size);
  if (!well_formed) return answer(std::move(request), spec::status::ioerr);
  if (data == 0) return answer(std::move(request), spec::status::ok);
  const auto pieces = request.readable_pieces(data);
  if (!pieces) return fail(std::move(request), pieces.error());
  storage::Backend* storage = backend();
  if (storage == nullptr) return answer(std::move(request), spec::status::ioerr);

  Op& op = take(std::move(request), spec::type::out);
  op.sector = sector;
  op.data = data;
  if (data > device_limits::turn_bytes) return move_large(op, *pieces);
  storage->write(sector * sector_size, *pieces, [this, &op](int error) { work_done(op, error); });
}

void RequestQueue::move_large(Op& op, std::span<const iovec> pieces) {
  op.pieces = pieces;
  op.done = 0;
  start(op);
}

/// Executed whether negotiated or not; the sector and any data mean nothing. It covers the completed writes of all queues.
void RequestQueue::flush(virtio::Request request) {
  storage::Backend* storage = backend();
  if (storage == nullptr) return answer(std::move(request), spec::status::ioerr);
  Op& op = take(std::move(request), spec::type::flush);
  op.sector = 0;
  storage->flush([this, &op](int error) { finish(op, error); });
}

void RequestQueue::get_id(virtio::Request request) {
  const bool well_formed = request.readable_left() == 0 && request.writable_left() >= spec::id_size + 1;
  if (!well_formed) return answer(std::move(request), spec::status::ioerr);
  if (const auto written = request.write(disk_.id); !written) return fail(std::move(request), written.error());
  answer(std::move(request), spec::status::ok);
}

void RequestQueue::ranges(virtio::Request request, std::uint32_t type) {
  const bool negotiated =
      (type == spec::type::discard ? disk_.discard : disk_.write_zeroes).load(std::memory_order_relaxed);
  if (!negotiated) return answer(std::move(request), spec::status::unsupp);
  if (backend() == nullptr) return answer(std::move(request), spec::status::ioerr);
  Op& op = take(std::move(request), type);
  const std::uint8_t status = check_ranges(op.request, op);
  if (status != spec::status::ok) return answer(release(op), status);
  start(op);
}

/// Takes the segments and checks all of them, before any is touched.
std::uint8_t RequestQueue::check_ranges(virtio::Request& request, Op& op) const {
  if (request.writable_left() != 1) return spec::status::ioerr;
  const std::uint64_t length = request.readable_left();
  const std::uint64_t count = length / sizeof(spec::RangeSegment);
  const std::uint32_t max_count =
      op.type == spec::type::discard ? device_limits::max_range_segments : disk_.max_write_zeroes_segments;
  op.segment = 0;
  op.done = 0;
  op.segment_count = static_cast<std::size_t>(std::min<std::uint64_t>(count, device_limits::max_range_segments));
  if (op.segment_count == 0) return spec::status::ioerr;
  const auto bytes = std::as_writable_bytes(std::span(op.segments).first(op.segment_count));
  if (!request.read_bytes(bytes)) return spec::status::ioerr;
  if (const std::uint8_t status = check_segments(op); status == spec::status::unsupp) return status;
  if (length % sizeof(spec::RangeSegment) != 0 || count > max_count) return spec::status::ioerr;
  return check_segments(op);
}

std::uint8_t RequestQueue::check_segments(const Op& op) const {
  const auto segments = std::span(op.segments).first(op.segment_count);
  const std::uint32_t known = op.type == spec::type::discard ? 0 : spec::RangeSegment::unmap;
  // VIRTIO 1.4, 5.2.6.2: "The device MUST set the status byte to VIRTIO_BLK_S_UNSUPP for discard, secure erase and write
  // zeroes commands if any unknown flag is set. Furthermore, the device MUST set the status byte to VIRTIO_BLK_S_UNSUPP
  // for discard commands if the unmap flag is set."
  const bool unknown =
      std::ranges::any_of(segments, [&](const auto& segment) { return (segment.flags & ~known) != 0; });
  if (unknown) return spec::status::unsupp;
  const std::uint32_t max_sectors =
      op.type == spec::type::discard ? disk_.max_discard_sectors : disk_.max_write_zeroes_sectors;
  const bool good = std::ranges::all_of(segments, [&](const auto& segment) {
    return segment.num_sectors <= max_sectors && disk_.holds(segment.sector, segment.num_sectors);
  });
  return good ? spec::status::ok : spec::status::ioerr;
}

/// Begins a request that takes several steps, or whose cost is not in its bytes. Storage that does its work inside the call
/// (memory, for example) would block the loop: it is asked for at most device_limits::turn_bytes in one turn of the loop, the oldest
/// request first. Other storage is asked for more at a time, as soon as one of its requests has completed after the call.
void RequestQueue::start(Op& op) {
  if (storage_works_ == StorageWorks::elsewhere || fits_into_turn(op)) return static_cast<void>(run_steps(op));
  in_steps_.push_back(&op);
  post_turn();
}

bool RequestQueue::fits_into_turn(const Op& op) const {
  return turn_used_ == 0 || turn_used_ + next_step(op).length <= device_limits::turn_bytes;
}

/// Asks for steps as long as the storage does them inside the call and the turn lasts. Over: `op` is free, or another request's.
RequestQueue::StepCall RequestQueue::run_steps(Op& op) {
  while (true) {
    if (given_up_.load(std::memory_order_relaxed)) {
      work_done(op, ECANCELED);
      return StepCall::over;
    }
    StepCall call = StepCall::runs;
    op.step_call = &call;
    ask_for_step(op);
    if (call == StepCall::over) return call;
    if (call == StepCall::runs) {
      op.step_call = nullptr;
      storage_works_ = StorageWorks::elsewhere;
      return call;
    }
    if (fits_into_turn(op)) continue;
    in_steps_.push_front(&op);
    post_turn();
    return call;
  }
}

/// Where `op` goes on, in bytes of the disk.
RequestQueue::Step RequestQueue::next_step(const Op& op) const {
  Step step;
  if (moves_data(op.type)) {
    step = {op.sector * sector_size + op.done, op.data - op.done};
  } else {
    const spec::RangeSegment& segment = op.segments[op.segment];
    const std::uint64_t left = segment.num_sectors * sector_size - op.done;
    step = {segment.sector * sector_size + op.done, std::min(left, disk_.range_step(op.type, unmaps(segment)))};
  }
  if (storage_works_ != StorageWorks::elsewhere) step.length = std::min(step.length, device_limits::turn_bytes);
  return step;
}

void RequestQueue::ask_for_step(Op& op) {
  const auto [offset, length] = next_step(op);
  auto done = [this, &op, length](int error) { step_done(op, length, error); };
  if (moves_data(op.type)) {
    storage::cut(op.pieces, op.done, length, op.step_pieces);
    return op.type == spec::type::in ? backend_->read(offset, op.step_pieces, done)
                                     : backend_->write(offset, op.step_pieces, done);
  }
  op.sector = offset / sector_size;
  if (op.type == spec::type::discard) return backend_->discard(offset, length, done);
  backend_->write_zeroes(offset, length, unmaps(op.segments[op.segment]), done);
}

void RequestQueue::step_done(Op& op, std::uint64_t length, int error) {
  StepCall* const call = std::exchange(op.step_call, nullptr);
  if (call != nullptr) turn_used_ += length;
  const bool more = error == 0 && is_more_left(op, length);
  if (call != nullptr) *call = more ? StepCall::more : StepCall::over;
  if (!more) return work_done(op, error);
  if (call == nullptr && run_steps(op) == StepCall::runs) backend_->submit();
}

/// Counts a step that is done; returns whether another one is to follow.
bool RequestQueue::is_more_left(Op& op, std::uint64_t length) {
  op.done += length;
  if (moves_data(op.type)) return op.done < op.data;
  if (op.done < op.segments[op.segment].num_sectors * sector_size) return true;
  op.done = 0;
  return ++op.segment < op.segment_count;
}

void RequestQueue::post_turn() {
  if (std::exchange(turn_posted_, true)) return;
  loop_->post([this, alive = std::weak_ptr(alive_)] {
    if (!alive.expired()) next_turn();
  });
}

/// Posted while there are requests in steps, once at a time.
void RequestQueue::next_turn() {
  turn_posted_ = false;
  turn_used_ = 0;
  while (!in_steps_.empty() && fits_into_turn(*in_steps_.front())) {
    Op& op = *in_steps_.front();
    in_steps_.pop_front();
    if (run_steps(op) == StepCall::runs) backend_->submit();
  }
  if (!in_steps_.empty()) post_turn();
}

/// What was asked for has been done, but for the flush that a write may need.
void RequestQueue::work_done(Op& op, int error) {
  // VIRTIO 1.4, 5.2.6.2: "the device MUST ensure that stable writes are committed to it, before reporting completion of
  // the write": those of a driver that cannot flush, and those with writeback 0 from submission to completion.
  const bool stable = op.type == spec::type::out || op.type == spec::type::write_zeroes;
  const bool flush = stable && error == 0 && op.write_through && !disk_.writeback.load(std::memory_order_relaxed);
  if (!flush) return finish(op, error);
  // Kept, since the operation may end in there, and with it what backend_ names.
  storage::Backend& storage = *backend_;
  storage.flush([this, &op](int flush_error) { finish(op, flush_error); });
  storage.submit();
}

void RequestQueue::finish(Op& op, int error) {
  // Where it fails, what the storage has read was not the driver's, or what it has written did not reach the driver.
  const std::uint64_t filled = op.type == spec::type::in && error == 0 ? op.data : 0;
  if (const auto released = op.request.release_pieces(filled); !released && error == 0) error = released.error().code();
  if (error != 0 && error != ECANCELED) disk_.failed(name_of(op.type), op.sector, error);
  virtio::Request request = release(op);
  if (closing_ && running_ == 0) {
    // Not here: this is called by the very object that is to go.
    loop_->post([old = std::move(own_)] {});
    backend_ = nullptr;
    closing_ = false;
  }
  answer(std::move(request), error == 0 ? spec::status::ok : spec::status::ioerr);
}

void RequestQueue::batch_end() {
  if (backend_ != nullptr) backend_->submit();
}

RequestQueue::Op& RequestQueue::take(virtio::Request request, std::uint32_t type) {
  if (free_ == nullptr) {
    ops_.push_back(std::make_unique<Op>());
    free_ = ops_.back().get();
  }
  Op& op = *free_;
  free_ = op.next_free;
  op.next_free = nullptr;
  op.request = std::move(request);
  op.type = type;
  op.write_through = !disk_.writeback.load(std::memory_order_relaxed);
  ++running_;
  return op;
}

virtio::Request RequestQueue::release(Op& op) {
  virtio::Request request = std::move(op.request);
  op.next_free = free_;
  free_ = &op;
  --running_;
  return request;
}

bool RequestQueue::has_own_loop() const { return &disk_.host->queue_loop(queue_) != &disk_.host->control_loop(); }

/// Null, and said in the log: the queue has a loop of its own and the storage cannot be opened for it.
storage::Backend* RequestQueue::backend() {
  closing_ = false;
  if (backend_ != nullptr) return backend_;
  loop_ = &disk_.host->queue_loop(queue_);
  if (!has_own_loop()) return backend_ = &disk_.primary;
  auto shared = disk_.primary.share(*loop_);
  if (!shared) {
    disk_.failed(shared.error().what().c_str(), 0, shared.error().code());
    return nullptr;
  }
  own_ = std::move(*shared);
  return backend_ = own_.get();
}

void RequestQueue::drop_storage() {
  own_.reset();
  backend_ = nullptr;
}

void RequestQueue::close() {
  if (!own_) return;
  if (running_ != 0) {
    closing_ = true;
    return;
  }
  own_.reset();
  backend_ = nullptr;
}

}  // namespace outboard::blk
