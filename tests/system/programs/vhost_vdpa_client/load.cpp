#include "load.hpp"

#include <poll.h>

#include <cstring>

#include <fmt/format.h>

namespace outboard::vhost {

namespace {

std::uint64_t word(std::uint64_t sector, std::uint64_t number, std::size_t index) {
  return (sector << 40 ^ number << 16 ^ index) * 0x9e37'79b9'7f4a'7c15;
}

}  // namespace

Result<std::unique_ptr<Load>> Load::create(blk::Driver& driver, unsigned depth) {
  std::unique_ptr<Load> load(new Load(driver));
  for (unsigned i = 0; i < driver.queue_count() * depth; ++i) {
    auto slot = std::make_unique<Slot>();
    slot->load = load.get();
    slot->queue = i % driver.queue_count();
    slot->first = blk::Sector{i * max_sectors};
    OUTBOARD_TRY(slot->buffer, driver.dma().allocate(max_sectors * blk::sector_size));
    load->slots_.push_back(std::move(slot));
  }
  if (load->slots_.size() * max_sectors * blk::sector_size > driver.capacity()) return Error(EINVAL, "a small disk");
  return load;
}

/// A write of a new length with a new pattern, or the read of what the last write left.
Status Load::submit(Slot& slot) {
  const bool writes = slot.sectors == 0 || slot.io.kind == blk::Io::Kind::read;
  if (writes) {
    slot.sectors = 1 + random_() % max_sectors;
    ++slot.number;
  }
  const std::size_t bytes = slot.sectors * blk::sector_size;
  for (std::size_t i = 0; i < bytes / 8; ++i) {
    const std::uint64_t value = writes ? word(raw(slot.first), slot.number, i) : 0;
    std::memcpy(slot.buffer.data() + 8 * i, &value, 8);
  }
  slot.element = {slot.buffer.iova(), static_cast<std::uint32_t>(bytes)};
  slot.io = {.kind = writes ? blk::Io::Kind::write : blk::Io::Kind::read,
             .sector = slot.first,
             .data = {&slot.element, 1},
             .done = done,
             .context = &slot};
  OUTBOARD_CHECK(driver_.queue(slot.queue).submit(slot.io));
  ++in_flight_;
  return {};
}

void Load::done(blk::Io& io) {
  auto& slot = *static_cast<Slot*>(io.context);
  slot.load->completed(slot);
}

void Load::completed(Slot& slot) {
  --in_flight_;
  ++completed_;
  if (slot.io.error != 0 && !error_)
    error_ = Error(slot.io.error, fmt::format("an operation at sector {} failed", raw(slot.first)));
  if (slot.io.kind == blk::Io::Kind::read && slot.io.error == 0 && !holds(slot) && !error_)
    error_ = Error(EILSEQ, fmt::format("sector {} does not hold write {}", raw(slot.first), slot.number));
  if (error_ || completed_ + in_flight_ >= last_) return;
  if (const auto sent = submit(slot); !sent) error_ = sent.error();
}

bool Load::holds(const Slot& slot) const {
  for (std::size_t i = 0; i < slot.sectors * blk::sector_size / 8; ++i) {
    const std::uint64_t value = word(raw(slot.first), slot.number, i);
    if (std::memcmp(slot.buffer.data() + 8 * i, &value, 8) != 0) return false;
  }
  return true;
}

Status Load::begin() {
  for (auto& slot : slots_) OUTBOARD_CHECK(submit(*slot));
  for (unsigned i = 0; i < driver_.queue_count(); ++i) driver_.queue(i).publish();
  return {};
}

Status Load::run(std::uint64_t operations, const std::function<Status()>& between) {
  last_ = completed_ + operations;
  if (in_flight_ == 0) OUTBOARD_CHECK(begin());
  while (in_flight_ != 0) {
    OUTBOARD_CHECK(pump(driver_));
    // Also after an error: what is in flight must end before this may be destroyed.
    if (const auto done = between(); !done && !error_) error_ = done.error();
  }
  return error_ ? Status(*error_) : Status();
}

Status pump(blk::Driver& driver) {
  pollfd ready{.fd = driver.fd(), .events = POLLIN, .revents = 0};
  if (::poll(&ready, 1, 1000) < 0 && errno != EINTR) return Error::from_errno("waiting for the driver");
  return driver.process();
}

}  // namespace outboard::vhost
