#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/result.hpp>
#include <outboard/memory/iova.hpp>
#include <outboard/pci/function.hpp>

namespace outboard::pci {

/// The part of a function by which a client moves it to another process while its driver runs: it is stopped, its state is
/// saved there and loaded here, and it runs again. Meanwhile a log says which of the driver's memory the device has written.
///
/// On the function's loop, as all calls of a function. stop() and load() are not begun before the last of them, and of unmap,
/// reset and release_client, has completed. A reset ends being stopped: when it completes, the function runs.
class Migratable {
 public:
  virtual ~Migratable() = default;

  /// Since stop() has completed, until run() or a reset.
  virtual bool is_stopped() const = 0;

  /// Stops the device: when it completes, nothing accesses the driver's memory or raises an interrupt, until run(). Requests that
  /// cannot be finished in time are part of the state. Registers answer as before; what a write to them starts waits for run().
  /// After an error the device runs on. ETIMEDOUT: it did not stop in time.
  virtual void stop(Function::Completion done) = 0;
  /// Continues after stop() or load(), with the memory mapped as it was where the state comes from. After an error the device is
  /// still stopped. EIO: memory that it needs is not mapped, or shows that another device has gone on from this
  /// state. EINVAL: it is not stopped.
  virtual Status run() = 0;

  /// The state of the stopped function, as sections (base/state.hpp). It can be saved more than once. EINVAL: it is not stopped.
  /// Other errors: those of the device.
  virtual Result<std::vector<std::byte>> save() = 0;
  /// Replaces the state of the stopped function by what another one has saved; it stays stopped. The bytes are not trusted: they
  /// are checked whole first. After an error nothing has changed. EINVAL: it is not stopped, or these bytes are not the state of
  /// such a function; the error says where they differ. ENOTSUP: they are of a newer version.
  virtual void load(std::vector<std::byte> state, Function::Completion done) = 0;

  /// Begins to note what the device writes: in these ranges, or everywhere when there are none. Returns the size of the pages that
  /// it notes, `page_size` or less. EINVAL: `page_size` is not a power of two. EEXIST: it is noted already. ENOMEM, ENOSPC: the
  /// log would be too large.
  virtual Result<std::uint64_t> start_dirty_log(std::uint64_t page_size, std::span<const memory::IovaRange> ranges) = 0;
  /// Sets the bits of the pages of `range` that were written since the last report (or the start), and forgets these. Bit n, which
  /// is bit n % 64 of the little-endian word n / 64, is the page at range.start + n * page_size. `bitmap` has as many words
  /// as that takes and is overwritten whole. Writes that the device has told its driver of are in it. EINVAL: not such a size, range or
  /// bitmap, a range outside of those that are noted, or nothing is noted.
  virtual Status report_dirty(memory::IovaRange range, std::uint64_t page_size, MutableBytes bitmap) = 0;
  /// Ends it; without a start it does nothing.
  virtual void stop_dirty_log() = 0;
};

}  // namespace outboard::pci
