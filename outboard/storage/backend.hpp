#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include <sys/uio.h>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>
#include <outboard/base/storage_identity.hpp>

namespace outboard::storage {

/// What a back end can do and how large its units are. Constant, but for capacity: see Backend::set_capacity().
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

/// What stands behind a block device. Operations are asynchronous: the completion is called exactly once, on the loop the
/// back end was opened with, possibly from inside the call, and gets 0 or a positive errno. Offsets and lengths are bytes.
/// The caller has checked them against the capacity, and keeps `pieces` and what they point to until the completion.
/// Operations are not ordered among each other; flush covers what had completed before it was issued. A read fills all of
/// `pieces` or fails; what it leaves after a failure is not defined.
///
/// No call waits for the storage, but for destroying: that waits for operations that are running in the kernel (they write
/// into the caller's memory), whose completions are then destroyed without a call; and the last of those that share a storage
/// closes it. A back end must not be destroyed inside one of its completions. One back end, one thread: that of its loop;
/// geometry() and share() may come from any.
class Backend {
 public:
  using Completion = std::move_only_function<void(int error)>;
  using Measured = std::move_only_function<void(const Result<std::uint64_t>& capacity)>;

  virtual ~Backend() = default;

  virtual Geometry geometry() const = 0;
  virtual std::string description() const = 0;  ///< for people: "disk.raw (io_uring, O_DIRECT)"
  /// Which storage this is, for whoever goes on with it after a crash: see StorageIdentity. A back end that keeps data says
  /// so; without, nobody notices that another one has taken its place.
  virtual StorageIdentity identity() const { return {}; }

  virtual void read(std::uint64_t offset, std::span<const iovec> pieces, Completion done) = 0;
  virtual void write(std::uint64_t offset, std::span<const iovec> pieces, Completion done) = 0;
  virtual void flush(Completion done) = 0;
  virtual void discard(std::uint64_t offset, std::uint64_t length, Completion done) = 0;
  virtual void write_zeroes(std::uint64_t offset, std::uint64_t length, bool may_unmap, Completion done) = 0;
  /// Asks how many bytes the storage has by now, and changes nothing: whoever can go on with that size says so with
  /// set_capacity(). EINVAL: a size that cannot be served; EIO and the like. `done` is called once, like a Completion.
  virtual void measure(Measured done) { done(geometry().capacity); }
  /// The capacity from now on, as measure() has told it: of this back end and of all that share the storage.
  virtual void set_capacity(std::uint64_t /*capacity*/) {}
  /// Another way to the same storage, with completions on `loop`: for a queue that has a loop of its own. Any thread, while
  /// this one exists; a lock on an image is kept until the last of them is gone.
  virtual Result<std::unique_ptr<Backend>> share(Loop& loop) const = 0;

  /// Starts what was issued since the last call; a back end may hold operations back until then.
  virtual void submit() {}
  /// Delivers completions that are there already, without waiting; returns whether there were any. For loops that poll.
  virtual bool poll() { return false; }
};

}  // namespace outboard::storage
