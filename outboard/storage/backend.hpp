#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include <sys/uio.h>

#include <outboard/base/internal/storage_identity.hpp>
#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>

namespace outboard::storage {

/// What a back end can do, and its sizes. Constant, except the capacity: see Backend::set_capacity().
struct Geometry {
  std::uint64_t capacity = 0;           ///< bytes; a multiple of 512
  std::uint32_t logical_block = 512;    ///< bytes; power of two, at least 512
  std::uint32_t physical_block = 512;   ///< bytes; power of two
  std::uint32_t optimal_io = 0;         ///< bytes; 0: unknown
  bool read_only = false;
  bool can_discard = false;       ///< discard gives space back; otherwise it does nothing and succeeds
  bool can_write_zeroes = false;  ///< write_zeroes without may_unmap is faster than writing zeros; it works in any case
  bool can_unmap_zeroes = false;  ///< write_zeroes with may_unmap gives space back, and is faster than writing zeros
};

/// The storage of a block device. Operations are asynchronous: the completion is called exactly once, on the loop that the
/// back end was opened with, possibly inside the call, with 0 or a positive errno. Offsets and lengths are in bytes.
/// The caller has checked them against the capacity, and keeps `pieces` and what they point to until the completion.
/// Operations are not ordered among each other; a flush covers what had completed before it was issued. A read fills all of
/// `pieces` or fails; after a failure their content is undefined.
///
/// No call waits for the storage, except the destructor: it waits for operations that are running in the kernel (they write
/// into the caller's memory), and destroys their completions without a call. The last back end that shares a storage closes
/// it. A back end must not be destroyed inside one of its completions. All calls on the thread of its loop, except geometry()
/// and share(), which may come from any thread.
class Backend {
 public:
  using Completion = std::move_only_function<void(int error)>;
  using Measured = std::move_only_function<void(const Result<std::uint64_t>& capacity)>;

  virtual ~Backend() = default;

  virtual Geometry geometry() const = 0;
  virtual std::string description() const = 0;  ///< for messages: "/srv/disk.raw (io_uring, O_DIRECT)"
  /// Identifies the storage, for a server that takes over after a crash: see StorageIdentity. A back end that keeps data
  /// overrides it; otherwise other storage in its place goes unnoticed.
  virtual StorageIdentity identity() const { return {}; }

  virtual void read(std::uint64_t offset, std::span<const iovec> pieces, Completion done) = 0;
  virtual void write(std::uint64_t offset, std::span<const iovec> pieces, Completion done) = 0;
  virtual void flush(Completion done) = 0;
  virtual void discard(std::uint64_t offset, std::uint64_t length, Completion done) = 0;
  virtual void write_zeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap, Completion done) = 0;
  /// Measures the current size of the storage in bytes, and changes nothing; set_capacity() sets it. EINVAL: a size that
  /// cannot be served; EIO and the like. `done` is called once, like a Completion.
  virtual void measure(Measured done) { done(geometry().capacity); }
  /// Sets the capacity, as measure() has returned it, for this back end and all that share the storage.
  virtual void set_capacity(std::uint64_t /*capacity*/) {}
  /// Makes another back end on the same storage, with completions on `loop`, for a queue that has a loop of its own. Any
  /// thread, while this one exists. The lock on an image is held until the last of them is destroyed.
  virtual Result<std::unique_ptr<Backend>> share(Loop& loop) const = 0;

  /// Lets another process use the storage: nothing is in progress, also on no back end that shares it, and nothing is begun until
  /// take_back(). A back end that nobody else can reach does nothing.
  virtual void let_go() {}
  /// The storage is ours again, and is what it was. It does nothing where let_go() has not been called. EBUSY: another process
  /// uses it. EIO: it has another size.
  virtual Status take_back() { return {}; }
  /// Whether it was opened to be used in turn with another process.
  virtual bool is_lent() const { return false; }

  /// Starts the operations that were issued since the last call; a back end may hold them back until then.
  virtual void submit() {}
  /// Delivers completions without waiting; returns whether there were any. For loops that poll.
  virtual bool poll() { return false; }
};

}  // namespace outboard::storage
