#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>

#include <outboard/base/loop.hpp>
#include <outboard/devices/edu/registers.hpp>
#include <outboard/pci/handle.hpp>

namespace outboard::edu {

/// A driver for the edu device, over any pci::Handle: QEMU's on kernel VFIO, ours in this process or behind a socket.
/// Move-only. The handle must outlive it.
///
/// Every call waits for the operation that it started, at most Options::timeout. Errors:
///   ENODEV     registers read as all-ones: the device has gone, or does not decode its BAR
///   ETIMEDOUT  it did not finish in time; after a transfer bus mastering is then off, and transfers fail with EIO
///   EPROTO     an answer that no edu device gives, or other bytes than those that were sent
///   ECANCELED  Options::wait gave up; as after ETIMEDOUT
///   EIO        it finished without the expected interrupt, or repeatedly raises one without a cause;
///              if a transfer may still run then, as after ETIMEDOUT
/// and the errors of the handle. One thread.
class Driver {
 public:
  enum class Interrupts : std::uint8_t { automatic, none, intx, msi };

  struct Options {
    /// automatic: MSI, else INTx, else none. none: the registers are polled.
    Interrupts interrupts = Interrupts::automatic;
    /// The addresses that the device reaches by DMA: its dma_mask.
    std::uint64_t dma_mask = spec::default_dma_mask;
    Duration timeout = std::chrono::seconds(10);
    const Clock* clock = &Clock::system();
    /// Waits until one of the descriptors is readable or the time has passed; may return early. false: give up (ECANCELED).
    /// Default: poll(2). A caller that runs the device's loop runs it here. It may revoke the handle, but must not destroy the
    /// handle or the driver.
    std::function<bool(std::span<const int> fds, Duration time)> wait{};
  };

  struct Version {
    unsigned major = 0;
    unsigned minor = 0;
  };

  enum class Direction : std::uint8_t { to_device, from_device };

  /// Checks the identity, waits until the device is idle, and starts it: turns on memory decoding and bus mastering and enables
  /// the interrupt. ENODEV: another function, or its BAR is too small. ENOSPC: it does not have the interrupt that
  /// was asked for.
  static Result<Driver> start(pci::Handle& handle, const Options& options);
  static Result<Driver> start(pci::Handle& handle) { return start(handle, Options{}); }

  Version version() const { return version_; }
  /// The enabled kind of interrupt; nothing if the driver polls.
  std::optional<pci::InterruptKind> interrupt_kind() const { return kind_; }
  /// Number of interrupts since start().
  std::uint64_t interrupts() const { return interrupts_; }

  /// Whether the device complements what it is given.
  Status check_alive();

  /// number!, modulo 2^32.
  Result<std::uint32_t> factorial(std::uint32_t number);

  /// Has the device raise its interrupt for `causes` (not 0, not all of them), and waits for it. ENOTSUP where the driver polls.
  Status raise_interrupt(std::uint32_t causes);

  /// Copies into the device's buffer of spec::buffer_size bytes, or out of it. EINVAL: beyond its end.
  Status write(std::uint64_t offset, Bytes from);
  Status read(std::uint64_t offset, MutableBytes into);
  /// Fills the buffer with a pattern and reads it back. EPROTO: another pattern came back; says where.
  Status verify(std::uint32_t seed);
  /// Between the buffer and memory of the caller's that the device can reach (see dma()). The device cannot say whether it
  /// reached it. EINVAL: beyond the end of the buffer, nothing to move, or an address beyond the device's mask.
  Status transfer(Direction direction, std::uint64_t offset, memory::IovaRange memory);
  /// Memory that the device can address.
  Result<memory::DmaBuffer> allocate(std::uint64_t size);

 private:
  Driver(pci::Handle& handle, Options options, pci::Bar bar)
      : handle_(&handle), options_(std::move(options)), bar_(bar) {}

  Status identify();
  Status settle();
  Status wait_for_idle();
  Status enable_interrupts();
  Status take_memory_and_interrupts();
  Status serve_interrupt();
  /// `done` is a call that returns Result<bool>.
  template <typename Done>
  Status wait_until(std::string_view what, Done done);
  /// Until the device says that it is idle and, where there is one, `cause` was raised.
  template <typename R, typename Busy>
  Status wait_for_end(std::string_view what, Busy busy, std::uint32_t cause);
  bool wait(Duration time);
  bool polls() const { return !kind_.has_value(); }

  template <typename R>
  Result<R> load() const;
  template <typename R>
  Status store(R value) const;
  template <typename R>
  Status store_and_check(std::uint64_t value) const;
  Error gone(std::uint64_t offset) const;

  pci::Handle* handle_;
  Options options_;
  pci::Bar bar_;
  Version version_;
  std::optional<pci::InterruptKind> kind_;
  pci::InterruptSet vectors_;
  memory::DmaBuffer bounce_;
  std::uint64_t interrupts_ = 0;
  unsigned causeless_ = 0;  ///< interrupts in a row that had no cause
  std::uint32_t causes_ = 0;  ///< what was acknowledged and not yet waited for
  bool broken_ = false;  ///< a transfer was given up; bus mastering is off
};

}  // namespace outboard::edu
