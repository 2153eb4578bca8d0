#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <outboard/base/bytes.hpp>
#include <outboard/base/endian.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/memory/dma_space.hpp>
#include <outboard/virtio/features.hpp>

namespace outboard::virtio {

/// Rings the doorbell of one queue, in the fastest way that the transport has: a store to mapped memory, an eventfd, or a
/// register write. Copyable; the transport outlives it.
class Doorbell {
 public:
  /// memory32: a register of 32 bits, for NOTIFICATION_DATA.
  enum class Kind : std::uint8_t { none, memory, memory32, eventfd, call };

  Doorbell() = default;
  /// A store to a 16-bit register that is mapped.
  static Doorbell memory(volatile std::uint16_t* at) {
    Doorbell bell(Kind::memory);
    bell.at_ = at;
    return bell;
  }
  /// A store to a 32-bit register that is mapped.
  static Doorbell memory32(volatile std::uint32_t* at) {
    Doorbell bell(Kind::memory32);
    bell.at_ = at;
    return bell;
  }
  /// A signal on `fd`, which the transport owns.
  static Doorbell eventfd(const EventFd& fd) {
    Doorbell bell(Kind::eventfd);
    bell.fd_ = fd.get();
    bell.owner_ = fd.owner();
    return bell;
  }
  /// `function(context, value)`, for a register that is reached by messages. Must not block.
  static Doorbell call(void (*function)(void*, std::uint32_t), void* context) {
    Doorbell bell(Kind::call);
    bell.function_ = function;
    bell.at_ = context;
    return bell;
  }

  /// How the doorbell is rung.
  Kind kind() const { return kind_; }
  /// Rings the doorbell with `value`: the queue index, or the notification data (VIRTIO 1.4, 4.1.5.2). The device sees what was
  /// written to shared memory before the last full fence.
  void ring(std::uint32_t value) const {
    switch (kind_) {
      case Kind::none:
        return;
      case Kind::memory:
        *static_cast<volatile std::uint16_t*>(at_) = le16(static_cast<std::uint16_t>(value)).stored();
        return;
      case Kind::memory32:
        *static_cast<volatile std::uint32_t*>(at_) = le32(value).stored();
        return;
      case Kind::eventfd:
        // It fails only if the counter is full; then the device has been woken already.
        signal_eventfd(fd_, owner_);
        return;
      case Kind::call:
        function_(const_cast<void*>(at_), value);
        return;
    }
  }

 private:
  explicit Doorbell(Kind kind) : kind_(kind) {}

  Kind kind_ = Kind::none;
  EventFd::Owner owner_ = EventFd::Owner::us;
  int fd_ = -1;
  volatile void* at_ = nullptr;  ///< the register, or the call's context
  void (*function_)(void*, std::uint32_t) = nullptr;
};

/// The parameters with which a driver sets up a queue.
struct QueueSetup {
  std::uint16_t size = 0;  ///< entries: at most queue_max_size()
  memory::Iova descriptors{};  ///< the descriptor area (VIRTIO 1.4, 2.6), in memory of Transport::dma(), zeroed
  memory::Iova driver{};  ///< the driver area, likewise
  memory::Iova device{};  ///< the device area, likewise
  std::optional<unsigned> vector;  ///< none: the driver polls
};

/// A virtio device as its driver sees it, independent of the transport (virtio_pci::Transport is one). One thread at a time.
/// Every call may fail, since the device may be another process; each wait has a timeout.
class Transport {
 public:
  virtual ~Transport() = default;

  /// The target as the user typed it, for messages and errors.
  virtual std::string name() const = 0;
  /// The virtio device ID (VIRTIO 1.4, chapter 5), not the transport's own ID.
  virtual std::uint32_t device_id() const = 0;

  /// The features that the device offers. They are read once; later calls return the same, even if the device changes them.
  virtual Result<Features> device_features() = 0;
  /// Writes the features that the driver accepts. negotiate() calls it; a driver need not.
  virtual Status write_driver_features(const Features& features) = 0;
  /// Reads the device status field: bits of spec::status. ENODEV, or all bits set: the device is gone.
  virtual Result<std::uint8_t> status() = 0;
  /// Writes the device status field. The value must contain all bits that status() returns (2.1.1).
  virtual Status write_status(std::uint8_t status) = 0;
  /// Writes 0 and waits until status reads 0. ETIMEDOUT after the transport's timeout: DMA memory must then not be reused.
  virtual Status reset() = 0;

  /// Bytes of device configuration space; 0: none.
  virtual std::uint32_t config_size() const = 0;
  /// Reads a consistent range of device configuration space: repeats the read until the generation has not changed meanwhile.
  /// EAGAIN: it changed in 100 attempts. EINVAL: the range goes beyond the size.
  virtual Status read_config(std::uint32_t offset, MutableBytes into) = 0;
  /// Writes a range of device configuration space; a naturally aligned field is written with one access. EINVAL: the range goes
  /// beyond the size.
  virtual Status write_config(std::uint32_t offset, Bytes from) = 0;

  /// The number of queues, without administration virtqueues.
  virtual Result<std::uint16_t> queue_count() = 0;
  /// The maximum size of a queue, in entries; 0: no such queue.
  virtual Result<std::uint16_t> queue_max_size(unsigned queue) = 0;
  /// Sets up and enables a queue. EPROTO: the device reads back another size. ENOSPC: the device refuses the vector (NO_VECTOR
  /// reads back); try another one, or none. EBUSY: the queue is enabled already.
  virtual Result<Doorbell> setup_queue(unsigned queue, const QueueSetup& setup) = 0;
  /// Resets a queue and waits until it is disabled. ENOTSUP: RING_RESET was not negotiated. ETIMEDOUT as for reset().
  virtual Status reset_queue(unsigned queue) = 0;

  /// Enables up to `wanted` interrupt vectors and returns their number; 0: there are none, and the driver must poll. Call it
  /// once, before queues are set up.
  virtual Result<unsigned> enable_vectors(unsigned wanted) = 0;
  /// The eventfd of a vector; `index` is less than what enable_vectors() returned.
  virtual const EventFd& vector(unsigned index) const = 0;
  /// Sets the vector for configuration changes; nullopt: the driver is not notified of them. ENOSPC as for setup_queue().
  virtual Status set_config_vector(std::optional<unsigned> vector) = 0;
  /// Returns the bits of the ISR status (VIRTIO 1.4, 4.1.4.5). With INTx, reads it, which deasserts the line, and unmasks the
  /// line. With MSI-X there is nothing to read: returns both bits, since queues and configuration changes may share a vector.
  virtual Result<std::uint8_t> acknowledge_interrupt() = 0;

  /// Allocates memory that the device can access. Exists as long as the transport.
  virtual memory::DmaSpace& dma() = 0;
  /// Handles events of the device (its removal, for example) on `loop`.
  virtual Status attach(Loop& loop) = 0;
  /// Leaves the loop of attach(). Call it before that loop is destroyed if the transport or its pci::Handle exists longer.
  virtual void detach() {}
  /// Whether the device is gone for good: it was unplugged, or its process has ended.
  virtual bool gone() const = 0;
  /// Sets the handler for the removal of the device. No request in flight completes after a removal, so the driver must end
  /// them in the handler. It is called at most once, on the loop of attach(), and may outlive the transport. Never called by a
  /// transport that cannot detect a removal.
  virtual void on_gone(std::move_only_function<void()> /*handler*/) {}
};

/// A feature that requires another one (the device type's chapter has the list).
struct FeatureDependency {
  Feature feature;  ///< accepted only together with `needs`
  Feature needs;  ///< its prerequisite
};

/// Initialises the device up to FEATURES_OK (VIRTIO 1.4, 3.1.1): reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK and its
/// read-back. `wanted`: the features that the driver implements. Those that the device does not offer, or whose prerequisite in
/// `dependencies` is missing, are left out. VERSION_1 is added and required; ACCESS_PLATFORM and ORDER_PLATFORM are accepted
/// whenever they are offered, since they concern the transport only. Returns the negotiated features.
/// After an error FAILED is set; the error names the features that were refused. ENODEV: not a VIRTIO 1.x device. EPROTO: the
/// device refused the features.
Result<Features> negotiate(Transport& transport, const Features& wanted,
                           std::span<const FeatureDependency> dependencies = {});

/// Sets DRIVER_OK, the last step of the initialisation, and reads the status back. EIO: the device needs a reset.
Status start_device(Transport& transport);

}  // namespace outboard::virtio
