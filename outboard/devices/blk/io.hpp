#pragma once

#include <array>
#include <cstdint>
#include <span>

#include <outboard/devices/blk/layout.hpp>
#include <outboard/virtio/driver_queue.hpp>

namespace outboard::blk {

struct Io;

/// How far an operation has got: the Queue's own business.
class IoProgress {
  friend class Queue;
  struct Place {  // in Io::data, and in the operation as a whole
    std::uint64_t sectors = 0;
    std::size_t element = 0;
    std::uint32_t offset = 0;
  };
  Place next_{};
  std::uint64_t total_ = 0;  // sectors
  unsigned parts_ = 0;       // requests with the device
  bool issued_ = false;      // all of it
  Io* next_waiting_ = nullptr;
};

/// One operation on a disk, as its caller sees it. The caller owns it and what it points to, and leaves both alone from
/// Queue::submit() until `done`, which comes exactly once on the queue's loop. Costs no allocation.
struct Io {
  /// What is asked of the disk.
  enum class Kind : std::uint8_t { read, write, flush, discard, write_zeroes, get_id };
  /// May submit the next one, and may destroy this one and what it points to.
  using Done = void (*)(Io& io);

  Kind kind = Kind::read;  ///< what is asked
  bool unmap = false;  ///< write_zeroes: may give space back
  Sector sector{};  ///< not for flush and get_id
  std::span<const virtio::Element> data{};  ///< read and write: whole sectors in all, in memory of Driver::dma()
  std::uint64_t sectors = 0;  ///< discard and write_zeroes
  std::array<char, spec::id_size>* id = nullptr;  ///< get_id: where the id goes
  Done done = nullptr;  ///< required
  void* context = nullptr;  ///< the caller's

  /// 0, or a positive errno: EIO (the device says so, or answers nonsense), ENOTSUP (the device does not do this),
  /// EINVAL (the device was reset meanwhile and takes less at once than before), ETIMEDOUT, ENODEV (the device has gone or
  /// is given up), ECANCELED (the driver was destroyed).
  int error = 0;

  IoProgress progress{};  ///< the Queue's own
};

}  // namespace outboard::blk
