#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include <outboard/base/log.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/devices/blk/io.hpp>
#include <outboard/devices/blk/limits.hpp>
#include <outboard/devices/blk/queue.hpp>
#include <outboard/virtio/transport.hpp>

namespace outboard::blk {

class DriverCore;

/// A driver for VIRTIO 1.4, 5.2 Block Device, over any transport. Move-only.
///
/// Asynchronous by its queues (queue(i).submit(io)), each on a loop, each for one thread; and, where the driver has made
/// its own loop, by simple calls that wait (read, write, flush ...).
///
/// The device may be another process: nothing it does ends the driver. One that asks for a reset, breaks a rule or does
/// not answer is reset, and what was in flight is sent again (everything a disk does can be done twice); after three times
/// in a minute it is given up, and everything ends with ENODEV.
///
/// The driver belongs to its control loop's thread. It must be destroyed there, with no other thread in a call to one of
/// its queues; queues on other loops must have been stopped before (stop_queues). A completion must not destroy it, nor
/// assign to it: Loop::post that.
class Driver {
 public:
  /// What the caller chooses.
  struct Options {
    unsigned queues = 1;  ///< wanted; fewer when the device has fewer
    std::uint16_t depth = 128;  ///< requests in flight on each queue
    /// Do not use interrupts: the caller polls the queues. The calls that wait do it themselves.
    bool poll = false;
    bool packed = true;  ///< accept RING_PACKED
    bool indirect = true;  ///< accept INDIRECT_DESC
    bool event_idx = true;  ///< accept EVENT_IDX
    /// The control loop; nullptr: one of the driver's own, which the calls that wait pump.
    Loop* loop = nullptr;
    /// One for each queue; shorter: the control loop for the rest. They outlive the driver.
    std::vector<Loop*> queue_loops{};
    /// How long a request may take, roughly. 0: for ever. Then the device is reset and the request sent again, twice.
    Duration deadline = std::chrono::seconds(30);
    Log log{};  ///< where the driver says that it had to reset the device
  };

  /// Resets and starts the device: features, queues, interrupts. ENODEV: not a block device, or not VIRTIO 1.x.
  /// EINVAL: more queues asked for than loops can serve, a depth of 0. The transport outlives the driver.
  static Result<Driver> start(virtio::Transport& transport, const Options& options);
  /// With default options.
  static Result<Driver> start(virtio::Transport& transport) { return start(transport, Options{}); }
  /// The transport is the driver's.
  static Result<Driver> start(std::unique_ptr<virtio::Transport> transport, const Options& options);
  /// With default options.
  static Result<Driver> start(std::unique_ptr<virtio::Transport> transport) {
    return start(std::move(transport), Options{});
  }
  /// The same on anything that a transport can be opened on: a function open_virtio_transport(function) is looked up where
  /// the type of `function` is declared (for pci::Handle it is in <outboard/virtio_pci/transport.hpp>). `function`
  /// outlives the driver.
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

  /// The other one is good for nothing afterwards but to be assigned to or destroyed.
  Driver(Driver&&) noexcept;
  /// As above; what this one drove is reset first.
  Driver& operator=(Driver&&) noexcept;
  ~Driver();

  std::uint64_t capacity() const;  ///< bytes, as it is now
  /// What the device said when it was started last.
  const Limits& limits() const;
  /// What was negotiated.
  const virtio::Features& features() const;
  /// Queues in use.
  unsigned queue_count() const;
  /// index < queue_count(). Lives as long as the driver's device is driven; moving the driver does not move it.
  Queue& queue(unsigned index);
  /// Where buffers come from.
  memory::DmaSpace& dma();
  /// The control loop.
  Loop& loop();
  /// How often the device had to be reset.
  unsigned recoveries() const;

  /// For another event loop, where the driver has made its own: readable when process() has something to do. -1 else.
  int fd() const;
  /// Does what can be done without waiting. Own loop only (ENOTSUP).
  Status process();

  // The calls that wait. EDEADLK from inside one of the driver's completions, or of anything else that its loop runs;
  // ENOTSUP where the loop is the caller's. Other errors as Queue::submit and Io::error.
  /// Whole sectors, into memory of dma().
  Status read(Sector sector, std::span<const virtio::Element> data);
  /// Whole sectors, from memory of dma().
  Status write(Sector sector, std::span<const virtio::Element> data);
  /// Fills the whole buffer.
  Status read(Sector sector, const memory::DmaBuffer& buffer);
  /// Writes the whole buffer.
  Status write(Sector sector, const memory::DmaBuffer& buffer);
  /// Through a buffer of the driver's own. Whole sectors.
  Status read_bytes(Sector sector, MutableBytes into);
  /// As read_bytes(), the other way.
  Status write_bytes(Sector sector, Bytes from);
  /// What was written before, and has completed, survives a power failure when this has succeeded.
  Status flush();
  /// The contents are not needed any more: what they read afterwards is the device's affair. ENOTSUP.
  Status discard(Sector sector, std::uint64_t sectors);
  /// The range reads as zeroes afterwards; `unmap`: and may take no space. ENOTSUP.
  Status write_zeroes(Sector sector, std::uint64_t sectors, bool unmap);
  /// What GET_ID says, to its first NUL: at most 20 bytes, and whatever the device likes.
  Result<std::string> id();

  /// Ends the registrations of queues on other loops, before the driver is destroyed. The queues deliver nothing any more:
  /// what is in flight ends when the driver is destroyed. `done` on the control loop; where that is the caller's, it may
  /// destroy the driver.
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
