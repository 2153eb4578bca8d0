#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <sys/types.h>
#include <sys/uio.h>

#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>

namespace outboard::storage {

/// One system call's worth of work on an image. The one who starts it keeps it, and what it points to, until it ends.
struct FileOp {
  enum class Kind : std::uint8_t {
    read,      ///< preadv
    write,     ///< pwritev
    sync,      ///< fdatasync
    allocate,  ///< fallocate with `mode`
    size,      ///< statx: into the struct statx that the first piece points to
    discard,   ///< BLKDISCARD: block devices, on threads only
  };

  Kind kind = Kind::read;
  bool direct = false;  ///< on the O_DIRECT descriptor
  int mode = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  const iovec* pieces = nullptr;
  unsigned piece_count = 0;

  ssize_t result = 0;  ///< bytes, or a negative errno
  FileOp* next = nullptr;  ///< the engine's lists
  unsigned requests = 0;  ///< the engine's: of the disk's queue, among what has been begun
  bool on_worker = false;  ///< the engine's: begun on a thread of the kernel
  bool is_step = false;  ///< AlignedEngine's: a part of another operation
};

/// Does an operation on the calling thread, on `fd`; gives what belongs into FileOp::result.
ssize_t perform(const FileOp& op, int fd);

/// A first-in-first-out list of operations, through FileOp::next.
class FileOpList {
 public:
  bool empty() const { return first_ == nullptr; }
  FileOp* first() const { return first_; }
  void push(FileOp& op) {
    op.next = nullptr;
    (first_ == nullptr ? first_ : last_->next) = &op;
    last_ = &op;
  }
  FileOp* pop() {
    FileOp* op = first_;
    if (op != nullptr) first_ = op->next;
    return op;
  }
  /// Takes everything out of `other`.
  void append(FileOpList& other) {
    if (other.empty()) return;
    (first_ == nullptr ? first_ : last_->next) = other.first_;
    last_ = other.last_;
    other.first_ = nullptr;
  }

 private:
  FileOp* first_ = nullptr;
  FileOp* last_ = nullptr;
};

/// A way of having the kernel do FileOps without waiting for them. On its loop's thread. No call but the destructor waits,
/// neither for the storage nor for anything else.
class FileEngine {
 public:
  /// Told when an operation has ended, on the loop; `op.result` says how. May start others: those need no submit().
  class Client {
   public:
    virtual void ended(FileOp& op) = 0;

   protected:
    ~Client() = default;
  };

  /// Waits for what runs; tells nobody.
  virtual ~FileEngine() = default;

  virtual std::string name() const = 0;
  /// Takes an operation; it may be held back until submit().
  virtual void start(FileOp& op) = 0;
  virtual void submit() = 0;
  /// Delivers what has ended; returns whether there was something.
  virtual bool poll() = 0;
};

/// Makes an engine over open descriptors, which outlive it; `direct` is the one with O_DIRECT, -1 where there is none.
using EngineFactory =
    std::function<Result<std::unique_ptr<FileEngine>>(Loop& loop, FileEngine::Client& client, int fd, int direct)>;

}  // namespace outboard::storage
