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

/// One operation on an image: the work of one system call. Its owner keeps it, and what it points to, until it has ended.
struct FileOp {
  enum class Kind : std::uint8_t {
    read,  ///< preadv
    write,  ///< pwritev
    sync,  ///< fdatasync
    allocate,  ///< fallocate with `mode`
    size,  ///< statx: into the struct statx that the first piece points to
    discard,  ///< BLKDISCARD: block devices, on threads only
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
  bool is_step = false;  ///< a part of another operation, of AlignedEngine
};

/// Carries out an operation on the calling thread, on `fd`. Returns the value for FileOp::result.
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
  /// Moves all operations of `other` to the end of this list.
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

/// Carries out FileOps asynchronously. Called on its loop's thread. No call waits, except the destructor.
class FileEngine {
 public:
  /// Called on the loop when an operation has ended, with `op.result` set. It may start further operations, which need no
  /// submit().
  class Client {
   public:
    virtual void ended(FileOp& op) = 0;
    /// Operations wait because no thread can be started. Called once; the start is retried.
    virtual void no_worker(const Error& /*why*/) {}

   protected:
    ~Client() = default;
  };

  /// Waits for the running operations; reports no completion.
  virtual ~FileEngine() = default;

  virtual std::string name() const = 0;
  /// Starts an operation; the engine may hold it back until submit().
  virtual void start(FileOp& op) = 0;
  virtual void submit() = 0;
  /// Delivers completions; returns whether there was one.
  virtual bool poll() = 0;
};

/// Makes an engine over open descriptors, which outlive it; `direct` is the one with O_DIRECT, -1: none.
using EngineFactory =
    std::function<Result<std::unique_ptr<FileEngine>>(Loop& loop, FileEngine::Client& client, int fd, int direct)>;

}  // namespace outboard::storage
