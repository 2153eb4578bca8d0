#pragma once

// Inside of RawFile: included by its sources only.

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include <outboard/storage/internal/image.hpp>
#include <outboard/storage/internal/uring_engine.hpp>
#include <outboard/storage/raw_file.hpp>

namespace outboard::storage {

/// One operation of the caller; may take several FileOps.
struct RawFileOperation final : FileOp {
  enum class Stage : std::uint8_t { transfer, sync, discard, punch, zero_range, write_zeros };
  struct Range {
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    std::uint64_t end() const { return offset + length; }
  };

  Stage stage = Stage::transfer;
  std::uint64_t left = 0;        // bytes not transferred yet
  unsigned retries = 0;
  std::span<const iovec> whole;  // the caller's pieces, from the next byte on unless `rest` is in use
  std::vector<iovec> rest;       // a copy of them, once a transfer has ended short
  Range range;                   // what is to read zeros
  std::array<Range, 2> by_hand;  // parts of it in which zeros are to be written, the last one first
  unsigned by_hand_count = 0;
  Backend::Completion done;
  RawFileOperation* next_free = nullptr;
};

struct RawFile::State final : FileEngine::Client {
  using Operation = RawFileOperation;

  Loop& loop;
  /// Shared with the back ends of share(): closing a descriptor may wait for the storage, so a queue that stops closes none.
  std::shared_ptr<const Image> image;
  const Geometry geometry;  ///< except the capacity
  /// Bytes; shared as the image is. Written by one thread at a time.
  std::shared_ptr<std::atomic<std::uint64_t>> capacity;
  Options options;
  Log log;
  StorageIdentity identity{};  ///< except the size, which may change
  std::unique_ptr<FileEngine> engine;
  std::unique_ptr<FileEngine> ioctls;  // block devices under io_uring
  std::vector<std::unique_ptr<Operation>> operations;
  Operation* free = nullptr;

  // Measuring the size: on a thread of its own, since it may wait for the storage.
  std::thread looker;
  std::vector<Measured> looking;  // called when the current measurement ends; empty: there is none
  std::vector<Measured> looking_after;  // requested during it: they need a later measurement
  std::shared_ptr<char> alive = std::make_shared<char>();

  State(Loop& on, std::shared_ptr<const Image> of, std::shared_ptr<std::atomic<std::uint64_t>> bytes, Options with,
        Log to);
  ~State();

  Status open_engines(bool report);
  Status open_guarded_engines(FileEngine::Client& client, bool report);
  Status open_engines(FileEngine::Client& client, bool report);
  void start(Operation& op) { (op.kind == FileOp::Kind::discard && ioctls ? ioctls : engine)->start(op); }
  Operation& take(Completion done);
  void finish(Operation& op, int error);
  void ended(FileOp& file_op) override;
  void no_worker(const Error& why) override { log.error("{}: {}; {}", image->path, why.what(), why.cure()); }

  void transfer(FileOp::Kind kind, std::uint64_t offset, std::span<const iovec> pieces, Completion done);
  void start_transfer(Operation& op);
  void advance(Operation& op, std::uint64_t bytes);
  void transferred(Operation& op);
  void flushed(Operation& op);

  void discard(Operation& op);
  void zero(Operation& op, bool may_unmap);
  Operation::Range whole_units(const Operation::Range& range) const;
  bool worth_asking_for_zeros() const;
  void start_allocate(Operation& op, Operation::Stage stage);
  void allocated(Operation& op);
  void write_by_hand(Operation& op, const Operation::Range& range);
  void write_next_by_hand(Operation& op);
  std::uint64_t next_zeros(const Operation& op) const;
  void start_zero_writes(Operation& op);

  void measure(Measured done);
  void start_looking();
  void looked(const Result<std::uint64_t>& size);
};

}  // namespace outboard::storage
