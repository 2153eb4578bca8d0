#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <tools/outboard/disk_session.hpp>

namespace outboard::command {

/// Reads or writes a range of a disk in pieces, several at once, and delivers them in order. One thread.
class Transfer {
 public:
  /// A piece: whole blocks of the disk at `offset`, and the bytes for them or from them.
  struct Piece {
    std::uint64_t offset = 0;
    MutableBytes bytes;
  };
  struct Options {
    unsigned depth = 8;
    std::uint32_t piece = 256 << 10;  ///< bytes; rounded to whole blocks
  };
  /// Called before a piece is issued: sets its offset, shortens its bytes, and fills them for a write. False: no more
  /// pieces. It may pump the session while it waits.
  using Source = std::function<Result<bool>(Piece&)>;
  /// Called for each completed piece, in the order of issue.
  using Sink = std::function<Status(const Piece&)>;

  static Result<std::unique_ptr<Transfer>> create(DiskSession& session, blk::Io::Kind kind, Options options);

  /// Runs until the source has no more pieces and all are done, or one failed. After a failure it waits for the pieces in
  /// flight. ECANCELED: Ctrl-C.
  Status run(const Source& source, const Sink& sink);

 private:
  struct Slot {
    DiskSession* session = nullptr;
    blk::Io io;
    memory::DmaBuffer buffer;
    virtio::Element element;
    Piece piece;
    bool done = true;
  };

  Transfer(DiskSession& session, blk::Io::Kind kind) : session_(session), kind_(kind) {}
  Result<bool> issue(const Source& source);
  Status take_oldest(const Sink& sink);
  Status run_all(const Source& source, const Sink& sink);
  void wait_for_all();

  DiskSession& session_;
  blk::Io::Kind kind_;
  std::vector<Slot> slots_;
  std::uint64_t issued_ = 0, taken_ = 0;  // pieces
};

/// A source of consecutive pieces of [offset, offset + length).
class Walk {
 public:
  Walk(std::uint64_t offset, std::uint64_t length) : at_(offset), end_(offset + length) {}
  bool next(Transfer::Piece& piece);

 private:
  std::uint64_t at_, end_;
};

}  // namespace outboard::command
