#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <outboard/base/loop.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/virtio/transport.hpp>
#include <outboard/virtio_pci/internal/structures.hpp>

namespace outboard::virtio_pci {

/// A virtio device that is driven as a modern PCI function: VIRTIO 1.4, 4.1, driver side. One thread at a time, that of
/// the handle. What the device says is checked; each wait has a timeout.
class Transport final : public virtio::Transport {
 public:
  /// How long, and how, the transport waits.
  struct Options {
    Duration timeout = std::chrono::seconds(5);  ///< of a device or queue reset
    const Clock* clock = nullptr;  ///< nullptr: the machine's
    /// What is done while waiting, `interval` long at most; empty: sleeps.
    std::function<void(Duration interval)> wait{};
  };

  /// Finds the structures and switches memory decoding and bus mastering on. The handle must outlive the transport.
  /// ENODEV: not a virtio function, or one that lacks a structure. ENOTSUP: a transitional one.
  static Result<std::unique_ptr<Transport>> open(pci::Handle& handle, Options options);
  /// With default options.
  static Result<std::unique_ptr<Transport>> open(pci::Handle& handle) { return open(handle, Options{}); }
  ~Transport() override;

  std::string name() const override { return handle_.name(); }
  std::uint32_t device_id() const override { return device_id_; }

  Result<virtio::Features> device_features() override;
  Status write_driver_features(const virtio::Features& features) override;
  /// ENODEV: the device is gone (all-ones).
  Result<std::uint8_t> status() override;
  Status write_status(std::uint8_t status) override;
  Status reset() override;

  std::uint32_t config_size() const override { return structures_.device ? structures_.device->length() : 0; }
  /// A range of 1, 2, 4 or 8 bytes at its natural alignment is read as one field (8: as two halves), as 4.1.3.1 wants it;
  /// anything else in pieces of at most 4 bytes.
  Status read_config(std::uint32_t offset, MutableBytes into) override;
  Status write_config(std::uint32_t offset, Bytes from) override;

  Result<std::uint16_t> queue_count() override;
  Result<std::uint16_t> queue_max_size(unsigned queue) override;
  Result<virtio::Doorbell> setup_queue(unsigned queue, const virtio::QueueSetup& setup) override;
  Status reset_queue(unsigned queue) override;

  /// MSI-X where the function has it, else INTx (one vector for everything), else none. EBUSY: enabled already.
  Result<unsigned> enable_vectors(unsigned wanted) override;
  const EventFd& vector(unsigned index) const override;
  Status set_config_vector(std::optional<unsigned> vector) override;
  Result<std::uint8_t> acknowledge_interrupt() override;

  memory::DmaSpace& dma() override { return handle_.dma(); }
  Status attach(Loop& loop) override { return handle_.attach(loop); }
  void detach() override { handle_.detach(); }
  bool gone() const override { return gone_ || handle_.gone(); }
  /// Takes the place of what was given to Handle::on_gone().
  void on_gone(std::move_only_function<void()> told) override;

 private:
  struct CalledDoorbell;

  Transport(pci::Handle& handle, std::uint32_t device_id, const Structures& structures, Options options);

  template <typename T>
  Result<T> common(std::size_t field) const {
    return structures_.common.read<T>(field);
  }
  template <typename T>
  Status set_common(std::size_t field, T value) const {
    return structures_.common.write<T>(field, value);
  }
  Status set_address(std::size_t field, memory::Iova address) const;

  Error removed();
  Status select(unsigned queue);
  Status set_queue_size(unsigned queue, std::uint16_t size);
  Status set_queue_vector(unsigned queue, std::optional<unsigned> vector);
  Result<virtio::Doorbell> find_doorbell(unsigned queue, std::uint16_t notify_off);
  Result<virtio::Doorbell> doorbell_by_eventfd(unsigned queue, std::uint64_t offset, std::uint32_t width);
  Status read_once(std::uint32_t offset, MutableBytes into) const;
  Status wait_until(const std::function<Result<bool>()>& done, const char* what);
  bool uses_msix() const { return interrupts_.count() != 0 && interrupts_.kind() == pci::InterruptKind::msix; }

  pci::Handle& handle_;
  std::uint32_t device_id_;
  Structures structures_;
  Options options_;
  const Clock& clock_;
  std::optional<virtio::Features> offered_;
  virtio::Features accepted_;
  pci::InterruptSet interrupts_;
  std::vector<std::unique_ptr<CalledDoorbell>> doorbells_;
  bool gone_ = false;
};

}  // namespace outboard::virtio_pci

namespace outboard::pci {

/// The virtio device behind a function. Found by its argument's type, so that the driver of a device, which knows no
/// transport, can be started on a handle: `blk::Driver::start(*handle)`. As virtio_pci::Transport::open.
inline Result<std::unique_ptr<virtio::Transport>> open_virtio_transport(Handle& handle) {
  return virtio_pci::Transport::open(handle);
}

}  // namespace outboard::pci
