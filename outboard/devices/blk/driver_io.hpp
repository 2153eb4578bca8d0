#pragma once

#include <array>
#include <cstdint>
#include <span>

#include <outboard/devices/blk/layout.hpp>
#include <outboard/virtio/driver_queue.hpp>

namespace outboard::blk {

struct Io;

/// The progress of an operation, for the Queue alone.
class IoProgress {
  friend class Queue;
  friend class RequestSplitter;
  friend class WaitingIos;
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

/// An operation on a disk. The caller owns it and what it points to, and must not touch them from Queue::submit() until `done`,
/// which is called exactly once, on the queue's loop. Costs no allocation.
struct Io {
  /// The kind of operation.
  enum class Kind : std::uint8_t { read, write, flush, discard, write_zeroes, get_id };
  /// May submit another operation, and may destroy this one and what it points to.
  using Done = void (*)(Io& io);

  Kind kind = Kind::read;  ///< what the device is to do
  bool unmap = false;  ///< write_zeroes: the device may free the space
  Sector sector{};  ///< first sector; unused by flush and get_id
  std::span<const virtio::Element> data{};  ///< read and write: whole sectors in all, in memory of Driver::dma()
  std::uint64_t sectors = 0;  ///< discard and write_zeroes
  std::array<char, spec::id_size>* id = nullptr;  ///< get_id: receives the id
  Done done = nullptr;  ///< required
  void* context = nullptr;  ///< the caller's

  /// 0, or a positive errno: EIO (the device failed it, or gave an invalid answer), ENOTSUP (the device does not support it),
  /// EINVAL (the device was reset meanwhile and has smaller limits), ETIMEDOUT, ENODEV (the device has gone or was given up),
  /// ECANCELED (the driver was destroyed).
  int error = 0;

  IoProgress progress{};  ///< the Queue's own
};

}  // namespace outboard::blk
