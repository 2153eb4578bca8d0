#include <tools/outboard/blk/transfer.hpp>

#include <algorithm>

#include <fmt/format.h>

namespace outboard::command {

Result<std::unique_ptr<Transfer>> Transfer::create(DiskSession& session, blk::Io::Kind kind, Options options) {
  std::unique_ptr<Transfer> transfer(new Transfer(session, kind));
  const std::uint32_t block = session.block_size();
  const std::uint32_t size = std::max(options.piece / block, 1u) * block;
  transfer->slots_ = std::vector<Slot>(options.depth);
  for (auto& slot : transfer->slots_) {
    slot.session = &session;
    OUTBOARD_TRY(slot.buffer, session.driver().dma().allocate(size));
  }
  return transfer;
}

Result<bool> Transfer::issue(const Source& source) {
  Slot& slot = slots_[issued_ % slots_.size()];
  slot.piece = {0, slot.buffer.bytes()};
  OUTBOARD_TRY(const bool more, source(slot.piece));
  if (!more) return false;
  slot.element = {slot.buffer.iova(), static_cast<std::uint32_t>(slot.piece.bytes.size())};
  slot.io = {};
  slot.io.kind = kind_;
  slot.io.sector = blk::Sector{slot.piece.offset / blk::sector_size};
  slot.io.data = {&slot.element, 1};
  slot.io.context = &slot;
  slot.io.done = [](blk::Io& io) {
    auto& ended = *static_cast<Slot*>(io.context);
    ended.done = true;
    ended.session->ended(io);
  };
  slot.done = false;
  if (auto submitted = session_.driver().queue(0).submit(slot.io); !submitted) {
    slot.done = true;
    return submitted.error();
  }
  ++issued_;
  return true;
}

Status Transfer::take_oldest(const Sink& sink) {
  Slot& slot = slots_[taken_ % slots_.size()];
  while (!slot.done) OUTBOARD_CHECK(session_.pump());
  if (slot.io.error != 0) {
    return DiskSession::io_error(slot.io.error,
                                 fmt::format("{} {} bytes at {}", kind_ == blk::Io::Kind::read ? "reading" : "writing",
                                             slot.piece.bytes.size(), slot.piece.offset));
  }
  ++taken_;
  return sink(slot.piece);
}

Status Transfer::run_all(const Source& source, const Sink& sink) {
  bool more = true;
  while (more || issued_ != taken_) {
    while (more && issued_ - taken_ < slots_.size()) {
      OUTBOARD_TRY(more, issue(source));
      session_.driver().queue(0).publish();
    }
    if (session_.stop().requested()) return StopSignal::interrupted();
    if (issued_ != taken_) OUTBOARD_CHECK(take_oldest(sink));
  }
  return {};
}

Status Transfer::run(const Source& source, const Sink& sink) {
  auto done = run_all(source, sink);
  wait_for_all();
  return done;
}

/// The device may still use the buffers. The driver's timeout limits this, and from a signal on the session.
void Transfer::wait_for_all() {
  while (session_.driver().queue(0).in_flight() != 0) {
    if (!session_.pump_regardless()) return session_.abandon();
  }
}

bool Walk::next(Transfer::Piece& piece) {
  if (at_ == end_) return false;
  piece.offset = at_;
  piece.bytes = piece.bytes.first(std::min<std::uint64_t>(piece.bytes.size(), end_ - at_));
  at_ += piece.bytes.size();
  return true;
}

}  // namespace outboard::command
