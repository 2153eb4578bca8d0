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

/// Rings the doorbell of one queue. Copyable; the transport outlives it. The shortest way the transport has: a store to
/// mapped memory, an eventfd, or a register write.
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
  /// A signal on `fd`, which stays the transport's.
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

  /// Which way it is.
  Kind kind() const { return kind_; }
  /// `value` is what VIRTIO 1.4, 4.1.5.2 wants written (queue index, or notification data). What was written to shared
  /// memory before the last full fence is visible to whoever is woken.
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
        // It can fail when the counter is full, and then whoever waits for it is awake anyhow.
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

/// What a driver says when it sets a queue up.
struct QueueSetup {
  std::uint16_t size = 0;  ///< entries: at most queue_max_size()
  memory::Iova descriptors{};  ///< the descriptor area (VIRTIO 1.4, 2.6), in memory of Transport::dma(), zeroed
  memory::Iova driver{};  ///< the driver area, likewise
  memory::Iova device{};  ///< the device area, likewise
  std::optional<unsigned> vector;  ///< none: the driver polls
};

/// A virtio device, seen by its driver, whatever lies between: PCI (virtio_pci::Transport), later vhost-user and vDPA.
/// One thread at a time. Every call may fail, since the device may be another process; none waits without a bound.
class Transport {
 public:
  virtual ~Transport() = default;

  /// For people, and as the subject of errors: the target, as they typed it.
  virtual std::string name() const = 0;
  /// The virtio device ID (VIRTIO 1.4, chapter 5), whatever the transport makes of it.
  virtual std::uint32_t device_id() const = 0;

  /// Read once; the same set for all decisions afterwards (a device that changes its mind changes nothing).
  virtual Result<Features> device_features() = 0;
  /// What the driver accepts. negotiate() calls it; a driver need not.
  virtual Status write_driver_features(const Features& features) = 0;
  /// The device status field: bits of spec::status. ENODEV, or all bits set: the device has gone.
  virtual Result<std::uint8_t> status() = 0;
  /// Writes the status field as it stands: the caller adds bits to what status() says (2.1.1).
  virtual Status write_status(std::uint8_t status) = 0;
  /// Writes 0 and waits until status reads 0. ETIMEDOUT after the transport's bound: DMA memory must then not be reused.
  virtual Status reset() = 0;

  /// Bytes of device configuration space; 0: none.
  virtual std::uint32_t config_size() const = 0;
  /// Reads a range of device configuration that belongs together: again until the generation did not move, at most 100
  /// times (EAGAIN then). EINVAL beyond the size.
  virtual Status read_config(std::uint32_t offset, MutableBytes into) = 0;
  /// Writes a range of device configuration: one field at its natural alignment is written as one. EINVAL beyond the size.
  virtual Status write_config(std::uint32_t offset, Bytes from) = 0;

  /// Queues that the device has, without administration virtqueues.
  virtual Result<std::uint16_t> queue_count() = 0;
  /// 0: no such queue.
  virtual Result<std::uint16_t> queue_max_size(unsigned queue) = 0;
  /// Programs and enables a queue; size must be what the device then reads back (EPROTO otherwise). ENOSPC: the device
  /// refuses the vector (NO_VECTOR reads back); another one, or none, may do. EBUSY: the queue is enabled.
  virtual Result<Doorbell> setup_queue(unsigned queue, const QueueSetup& setup) = 0;
  /// RING_RESET: waits until the queue is reset and disabled. ENOTSUP: not negotiated. ETIMEDOUT as for reset().
  virtual Status reset_queue(unsigned queue) = 0;

  /// Interrupt vectors: enabled once, before queues are set up. 0 when there are none: the driver polls.
  virtual Result<unsigned> enable_vectors(unsigned wanted) = 0;
  /// index < what enable_vectors returned.
  virtual const EventFd& vector(unsigned index) const = 0;
  /// The vector that configuration changes come on; none: they are not told of. ENOSPC as for setup_queue.
  virtual Status set_config_vector(std::optional<unsigned> vector) = 0;
  /// INTx: takes the ISR status (which deasserts the line) and unmasks it. Bits as VIRTIO 1.4, 4.1.4.5. With vectors of
  /// its own for each event there is nothing to take: both bits are set, since one vector may stand for both.
  virtual Result<std::uint8_t> acknowledge_interrupt() = 0;

  /// Where memory comes from that the device can reach. Lives as long as the transport.
  virtual memory::DmaSpace& dma() = 0;
  /// What comes unasked from the device's side is served on this loop.
  virtual Status attach(Loop& loop) = 0;
  /// Leaves the loop of attach(): needed before a loop ends that the transport, or what lies below it, outlives.
  virtual void detach() {}
  /// Whether the device has been pulled out, or its process has ended: for good.
  virtual bool gone() const = 0;
  /// Has `told` called, at most once and on the loop of attach(), when the device goes: nothing that is in flight ends
  /// otherwise. It may outlive the transport. Where nothing tells it is never called.
  virtual void on_gone(std::move_only_function<void()> /*told*/) {}
};

/// A feature that makes sense only together with another (the device type's chapter has the list).
struct FeatureDependency {
  Feature feature;  ///< kept only together with `needs`
  Feature needs;  ///< its prerequisite
};

/// VIRTIO 1.4, 3.1.1: reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK and its read-back. `wanted` is what the driver
/// implements; what the device does not offer and what `dependencies` leaves without its prerequisite is dropped.
/// VERSION_1 is added and required; ACCESS_PLATFORM and ORDER_PLATFORM are accepted wherever they are offered, since they
/// concern the transport and not the driver. Returns what was agreed.
/// On failure FAILED has been set and the error says which set was refused.
/// ENODEV: not a VIRTIO 1.x device. EPROTO: the device refused the set.
Result<Features> negotiate(Transport& transport, const Features& wanted,
                           std::span<const FeatureDependency> dependencies = {});

/// The last step: DRIVER_OK, and a look whether the device has accepted it (EIO when it needs a reset).
Status start_device(Transport& transport);

}  // namespace outboard::virtio
