#pragma once

#include <cstdint>
#include <span>

#include <outboard/base/bytes.hpp>
#include <outboard/base/result.hpp>
#include <outboard/memory/iova.hpp>

namespace outboard::pci {

/// Where a function is on its way to another process: VFIO_DEVICE_STATE_*.
enum class MigrationState : std::uint32_t {
  error = 0,
  stop = 1,
  running = 2,
  stop_copy = 3,  ///< stopped, and its state can be read
  resuming = 4,   ///< stopped, and its state can be written
  running_p2p = 5,
  pre_copy = 6,  ///< runs, and a part of its state can be read
  pre_copy_p2p = 7,
};

/// How the driver of a function moves it: Migratable, as a Handle reaches it. The calls are VFIO's device features. They may
/// block, as those of the handle, and are for the same thread.
class Migration {
 public:
  /// The states that there are besides STOP, RUNNING, STOP_COPY, RESUMING and ERROR.
  struct Support {
    bool pre_copy = false;
    bool p2p = false;
  };

  virtual ~Migration() = default;

  /// ENOTSUP: the function cannot be moved.
  virtual Result<Support> support() = 0;
  virtual Result<MigrationState> state() = 0;
  /// Goes there by the shortest way. EINVAL: there is none. After another error state() says where the function is; it leaves
  /// ERROR by a reset only.
  virtual Status set_state(MigrationState wanted) = 0;

  /// The next bytes of the state, in STOP_COPY and PRE_COPY (EINVAL in others). Fewer than were asked for: there are no more; in
  /// PRE_COPY, for now.
  virtual Result<std::size_t> read(MutableBytes into) = 0;
  /// The next bytes of the state, in RESUMING (EINVAL in others). They are checked when the function leaves it.
  virtual Status write(Bytes from) = 0;

  /// As Migratable::start_dirty_log(), but that the pages may be larger than was asked for. ENOTSUP: nothing can be noted.
  virtual Result<std::uint64_t> start_dirty_log(std::uint64_t page_size, std::span<const memory::IovaRange> ranges) = 0;
  /// As Migratable::report_dirty().
  virtual Status report_dirty(memory::IovaRange range, std::uint64_t page_size, MutableBytes bitmap) = 0;
  virtual Status stop_dirty_log() = 0;
};

}  // namespace outboard::pci
