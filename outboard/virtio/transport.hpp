#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/base/loop.hpp>
#include <outboard/memory/dma_space.hpp>
#include <outboard/virtio/features.hpp>

namespace outboard::virtio {

/// Rings the doorbell of one queue. Copyable; the transport outlives it. The shortest way the transport has: a store to
/// mapped memory, an eventfd, or a register write.
class Doorbell {
 public:
  enum class Kind : std::uint8_t { none, memory, eventfd, call };

  Doorbell() = default;
  static Doorbell memory(volatile std::uint16_t* at) { return {Kind::memory, at, -1, nullptr, nullptr}; }
  static Doorbell eventfd(int fd) { return {Kind::eventfd, nullptr, fd, nullptr, nullptr}; }
  static Doorbell call(void (*ring)(void*, std::uint32_t), void* context) { return {Kind::call, nullptr, -1, ring, context}; }

  Kind kind() const { return kind_; }
  /// `value` is what VIRTIO 1.4, 4.1.5.2 wants written (queue index, or notification data).
  void ring(std::uint32_t value) const;

 private:
  Doorbell(Kind kind, volatile std::uint16_t* at, int fd, void (*ring)(void*, std::uint32_t), void* context)
      : kind_(kind), at_(at), fd_(fd), ring_(ring), context_(context) {}
  Kind kind_ = Kind::none;
  volatile std::uint16_t* at_ = nullptr;
  int fd_ = -1;
  void (*ring_)(void*, std::uint32_t) = nullptr;
  void* context_ = nullptr;
};

/// What a driver says when it sets a queue up.
struct QueueSetup {
  std::uint16_t size = 0;
  memory::Iova descriptors{}, driver{}, device{};
  std::optional<unsigned> vector;  ///< none: the driver polls
};

/// A virtio device, seen by its driver, whatever lies between: PCI (virtio_pci::Transport), later vhost-user and vDPA.
/// One thread at a time. Every call may fail, since the device may be another process; none waits without a bound.
class Transport {
 public:
  virtual ~Transport() = default;

  virtual std::string name() const = 0;
  virtual std::uint32_t device_id() const = 0;

  /// Read once; the same set for all decisions afterwards (a device that changes its mind changes nothing).
  virtual Result<Features> device_features() = 0;
  virtual Status write_driver_features(const Features& features) = 0;
  virtual Result<std::uint8_t> status() = 0;
  virtual Status write_status(std::uint8_t status) = 0;
  /// Writes 0 and waits until status reads 0. ETIMEDOUT after the transport's bound: DMA memory must then not be reused.
  virtual Status reset() = 0;

  virtual std::uint32_t config_size() const = 0;
  /// Reads a range of device configuration that belongs together: again until the generation did not move, at most 100
  /// times (EAGAIN then). EINVAL beyond the size.
  virtual Status read_config(std::uint32_t offset, MutableBytes into) = 0;
  virtual Status write_config(std::uint32_t offset, Bytes from) = 0;

  virtual Result<std::uint16_t> queue_count() = 0;
  /// 0: no such queue.
  virtual Result<std::uint16_t> queue_max_size(unsigned queue) = 0;
  /// Programs and enables a queue; size must be what the device then reads back (EPROTO otherwise).
  virtual Result<Doorbell> setup_queue(unsigned queue, const QueueSetup& setup) = 0;
  /// RING_RESET: waits until the queue is reset and disabled.
  virtual Status reset_queue(unsigned queue) = 0;

  /// Interrupt vectors: enabled once, before queues are set up. 0 when there are none: the driver polls.
  virtual Result<unsigned> enable_vectors(unsigned wanted) = 0;
  virtual const EventFd& vector(unsigned index) const = 0;
  virtual Status set_config_vector(std::optional<unsigned> vector) = 0;
  /// INTx only: takes the ISR status (which deasserts the line) and unmasks it. Bits as VIRTIO 1.4, 4.1.4.5.
  virtual Result<std::uint8_t> acknowledge_interrupt() = 0;

  virtual memory::DmaSpace& dma() = 0;
  /// What comes unasked from the device's side is served on this loop.
  virtual Status attach(Loop& loop) = 0;
  virtual bool gone() const = 0;
};

/// VIRTIO 1.4, 3.1.1: reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK and its read-back. `wanted` is what the driver
/// implements; bits whose prerequisites are missing are dropped; VERSION_1 is added and required. Returns what was
/// agreed. On failure FAILED has been set and the error says which set was refused.
/// ENODEV: not a VIRTIO 1.x device.
Result<Features> negotiate(Transport& transport, const Features& wanted);

/// The last step: DRIVER_OK, and a look whether the device has accepted it (EIO when it needs a reset).
Status start_device(Transport& transport);

}  // namespace outboard::virtio
