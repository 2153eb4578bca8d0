#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/devices/blk/driver_io.hpp>
#include <outboard/devices/blk/driver_limits.hpp>
#include <outboard/devices/blk/driver_queue.hpp>
#include <outboard/virtio/transport.hpp>

namespace outboard::blk {

class DriverCore;

/// A driver for VIRTIO 1.4, 5.2 Block Device, over any transport. Move-only.
///
/// Asynchronous calls: queue(i).submit(io); each queue has a loop and belongs to its thread. Blocking calls (read(), write(),
/// flush() ...) are available if the driver has made its own loop.
///
/// The device may be another process and cannot end the driver. A device that asks for a reset, breaks a rule or does not
/// answer is reset, and the requests in flight are sent again (each may be carried out twice); after three resets in a minute
/// it is given up, and every request ends with ENODEV.
///
/// The driver belongs to the thread of its control loop. Destroy it there, while no other thread is in a call to one of its
/// queues; stop queues on other loops before (stop_queues()). A completion must not destroy it or assign to it: use
/// Loop::post().
class Driver {
 public:
  /// The options of the driver.
  struct Options {
    unsigned queues = 1;  ///< maximum; fewer if the device has fewer
    std::uint16_t depth = 128;  ///< requests in flight on each queue
    /// Do not use interrupts: the caller polls the queues. Blocking calls poll by themselves.
    bool poll = false;
    bool packed = true;  ///< accept RING_PACKED
    bool indirect = true;  ///< accept INDIRECT_DESC
    bool event_idx = true;  ///< accept EVENT_IDX
    /// The control loop; nullptr: one of the driver's own, which the blocking calls run.
    Loop* loop = nullptr;
    /// One loop for each queue; queues without one use the control loop. They must outlive the driver.
    std::vector<Loop*> queue_loops{};
    /// Approximate timeout of a request; 0: none. When it expires, the device is reset and the request sent again, up to twice.
    Duration timeout = std::chrono::seconds(30);
    Log log{};  ///< resets of the device are logged here
  };

  /// Resets and starts the device: features, queues, interrupts. ENODEV: not a block device, or not VIRTIO 1.x.
  /// EINVAL: more queues asked for than loops can serve, a depth of 0. The transport outlives the driver.
  static Result<Driver> start(virtio::Transport& transport, const Options& options);
  /// With default options.
  static Result<Driver> start(virtio::Transport& transport) { return start(transport, Options{}); }
  /// The driver owns the transport.
  static Result<Driver> start(std::unique_ptr<virtio::Transport> transport, const Options& options);
  /// With default options.
  static Result<Driver> start(std::unique_ptr<virtio::Transport> transport) {
    return start(std::move(transport), Options{});
  }
  /// The same on any object that a transport can be opened on: the call open_virtio_transport(function) is found by argument-
  /// dependent lookup (for pci::Handle it is in <outboard/virtio_pci/transport.hpp>). `function` must outlive the
  /// driver.
  template <typename Function>
    requires requires(Function& function) { open_virtio_transport(function); }
  static Result<Driver> start(Function& function, const Options& options) {
    OUTBOARD_TRY(auto transport, open_virtio_transport(function));
    return start(std::move(transport), options);
  }
  /// With default options.
  template <typename Function>
    requires requires(Function& function) { open_virtio_transport(function); }
  static Result<Driver> start(Function& function) {
    return start(function, Options{});
  }

  /// The moved-from driver may only be assigned to or destroyed.
  Driver(Driver&&) noexcept;
  /// As above; resets the device that this driver drove before.
  Driver& operator=(Driver&&) noexcept;
  ~Driver();

  std::uint64_t capacity() const;  ///< bytes; the current value
  /// The limits of the device, as of its last start.
  const Limits& limits() const;
  /// The negotiated features.
  const virtio::Features& features() const;
  /// Queues in use.
  unsigned queue_count() const;
  /// index < queue_count(). Lives as long as the device is driven; moving the driver does not move it.
  Queue& queue(unsigned index);
  /// Allocates buffers.
  memory::DmaSpace& dma();
  /// The control loop.
  Loop& loop();
  /// The number of resets after errors.
  unsigned recoveries() const;

  /// Readable when process() has something to do, for another event loop. -1: the loop is the caller's.
  int fd() const;
  /// Does what can be done without waiting. Own loop only (ENOTSUP).
  Status process();

  // Blocking calls. EDEADLK: called from a completion or another callback of the loop. ENOTSUP: the loop is the caller's.
  // Other errors as Queue::submit() and Io::error.
  /// Whole sectors, into memory of dma().
  Status read(Sector sector, std::span<const virtio::Element> data);
  /// Whole sectors, from memory of dma().
  Status write(Sector sector, std::span<const virtio::Element> data);
  /// Fills the whole buffer.
  Status read(Sector sector, const memory::DmaBuffer& buffer);
  /// Writes the whole buffer.
  Status write(Sector sector, const memory::DmaBuffer& buffer);
  /// Whole sectors, copied through a buffer of the driver.
  Status read_bytes(Sector sector, MutableBytes into);
  /// The opposite of read_bytes().
  Status write_bytes(Sector sector, Bytes from);
  /// When it succeeds, writes that had completed before survive a power failure.
  Status flush();
  /// Discards the range: later reads of it are undefined. ENOTSUP.
  Status discard(Sector sector, std::uint64_t sectors);
  /// Makes the range read as zeros; `unmap`: the device may free its space. ENOTSUP.
  Status write_zeroes(Sector sector, std::uint64_t sectors, bool unmap);
  /// The answer to GET_ID up to the first NUL: at most 20 bytes, of any value.
  Result<std::string> id();

  /// Stops the queues on other loops, before the driver is destroyed. They deliver no completions any more; requests in flight
  /// end when the driver is destroyed. `done` is called on the control loop; if that is the caller's, `done` may destroy the
  /// driver.
  void stop_queues(std::move_only_function<void()> done);

 private:
  explicit Driver(std::shared_ptr<DriverCore> core);
  Status run(Io& io);
  Status transfer(Io::Kind kind, Sector sector, std::span<const virtio::Element> data);
  void close();

  std::shared_ptr<DriverCore> core_;
  memory::DmaBuffer bounce_;
};

}  // namespace outboard::blk
