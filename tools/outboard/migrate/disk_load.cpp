#include <tools/outboard/migrate/disk_load.hpp>

#include <algorithm>

#include <fmt/format.h>

namespace outboard::command {

DiskLoad::DiskLoad(DiskSession& session, const Options& options) : session_(session), options_(options) {}

/// The requests in flight use the slots.
DiskLoad::~DiskLoad() {
  stopping_ = true;
  if (in_flight_ != 0) session_.abandon();
}

Status DiskLoad::prepare() {
  blk::Driver& driver = session_.driver();
  const std::uint64_t count = std::uint64_t{options_.depth} * driver.queue_count();
  blocks_each_ = options_.length / options_.block / count;
  if (blocks_each_ == 0)
    return Error(EINVAL, fmt::format("{} bytes of the disk are too few for {} requests of {}", options_.length, count,
                                     options_.block))
        .cure("make --depth smaller");
  for (std::uint64_t i = 0; i < count; ++i) {
    OUTBOARD_TRY(auto written, driver.dma().allocate(options_.block, {.alignment = 4096}));
    OUTBOARD_TRY(auto read, driver.dma().allocate(options_.block, {.alignment = 4096}));
    slots_.push_back({.load = this,
                      .queue = &driver.queue(static_cast<unsigned>(i % driver.queue_count())),
                      .io = {},
                      .written = std::move(written),
                      .read = std::move(read),
                      .element = {},
                      .submitted = {},
                      .first = i * blocks_each_});
  }
  return {};
}

Status DiskLoad::start() {
  OUTBOARD_CHECK(prepare());
  for (Slot& slot : slots_) next(slot);
  for (unsigned i = 0; i < session_.driver().queue_count(); ++i) session_.driver().queue(i).publish();
  return failure_ ? Status(*failure_) : Status();
}

void DiskLoad::next(Slot& slot) {
  slot.place = (slot.place + 1) % blocks_each_;
  if (options_.kind == Kind::reads) return submit(slot, blk::Io::Kind::read);
  pattern_.fill(at(slot), slot.written.bytes());
  submit(slot, blk::Io::Kind::write);
}

void DiskLoad::submit(Slot& slot, blk::Io::Kind kind) {
  const memory::DmaBuffer& buffer = kind == blk::Io::Kind::write ? slot.written : slot.read;
  slot.element = {buffer.iova(), static_cast<std::uint32_t>(options_.block)};
  slot.io = {};
  slot.io.kind = kind;
  slot.io.sector = blk::Sector{at(slot) / blk::sector_size};
  slot.io.data = {&slot.element, 1};
  slot.io.context = &slot;
  slot.io.done = [](blk::Io& io) {
    auto& ended = *static_cast<Slot*>(io.context);
    ended.load->completed(ended);
  };
  slot.submitted = Clock::system().now();
  if (auto submitted = slot.queue->submit(slot.io); !submitted) {
    if (!failure_) failure_ = submitted.error();
    return;
  }
  ++in_flight_;
}

void DiskLoad::completed(Slot& slot) {
  --in_flight_;
  ++ended_;
  session_.ended(slot.io);
  longest_ = std::max<Duration>(longest_, Clock::system().now() - slot.submitted);
  const bool wrote = slot.io.kind == blk::Io::Kind::write;
  if (slot.io.error != 0 && !failure_) failure_ = DiskSession::io_error(slot.io.error, wrote ? "writing" : "reading");
  if (failure_) return;
  if (wrote) return submit(slot, blk::Io::Kind::read);
  if (options_.kind == Kind::writes) {
    if (const auto different = pattern_.first_difference(at(slot), slot.read.bytes()))
      failure_ = Error(EILSEQ, fmt::format("the sector at {} is not what was written there", *different));
  }
  if (!stopping_ && !failure_) next(slot);
}

Status DiskLoad::run_for(Duration time) {
  const TimePoint end = Clock::system().now() + time;
  for (TimePoint now = Clock::system().now(); now < end && !failure_; now = Clock::system().now())
    OUTBOARD_CHECK(session_.pump(end - now));
  return failure_ ? Status(*failure_) : Status();
}

Status DiskLoad::run_for_requests(std::uint64_t count) {
  for (const std::uint64_t until = ended_ + count; ended_ < until && !failure_;) OUTBOARD_CHECK(session_.pump());
  return failure_ ? Status(*failure_) : Status();
}

Status DiskLoad::stop() {
  stopping_ = true;
  while (in_flight_ != 0) OUTBOARD_CHECK(session_.pump_regardless());
  return failure_ ? Status(*failure_) : Status();
}

}  // namespace outboard::command
