#pragma once

#include <memory>
#include <vector>

#include <outboard/memory/address_map.hpp>
#include <outboard/memory/dma_space.hpp>
#include <outboard/testing/fake_iommu.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/virtio/device_core.hpp>
#include <outboard/virtio/transport.hpp>

namespace outboard::testing {

/// A virtio::Transport to a device in this process, through only a DeviceCore, an address map and an eventfd for each
/// interrupt. For tests of device types: the test runs the device's loop; calls that wait for the device run it too. One
/// thread.
class LoopbackTransport final : public virtio::Transport, private virtio::TransportEvents {
 public:
  struct Options {
    bool packed = false;
    bool poll = false;  ///< the device polls its queues; its loop must be run all the same
    unsigned vectors = 16;  ///< vectors of the device; 0: the driver must poll
    virtio::Features without{};
    Duration stop_timeout = std::chrono::seconds(2);
    Log log{};
    std::vector<ManualLoop*> queue_loops{};  ///< run together with the device's own
  };

  /// The device outlives the transport.
  LoopbackTransport(virtio::Device& device, ManualLoop& device_loop, const Options& options);
  ~LoopbackTransport() override;

  virtio::DeviceCore& core() { return *core_; }
  FakeIommu& iommu() { return iommu_; }
  /// The number of interrupts of a queue.
  unsigned interrupts(unsigned queue) const { return interrupts_.at(queue); }
  void pump();

  std::string name() const override { return "loopback"; }
  std::uint32_t device_id() const override { return core_->identity().device_id; }
  Result<virtio::Features> device_features() override { return core_->offered(); }
  Status write_driver_features(const virtio::Features& features) override;
  Result<std::uint8_t> status() override { return core_->status(); }
  Status write_status(std::uint8_t status) override;
  Status reset() override;
  std::uint32_t config_size() const override { return core_->identity().config_size; }
  Status read_config(std::uint32_t offset, MutableBytes into) override;
  Status write_config(std::uint32_t offset, Bytes from) override;
  Result<std::uint16_t> queue_count() override { return static_cast<std::uint16_t>(core_->queue_count()); }
  Result<std::uint16_t> queue_max_size(unsigned queue) override { return core_->queue_max_size(queue); }
  Result<virtio::Doorbell> setup_queue(unsigned queue, const virtio::QueueSetup& setup) override;
  Status reset_queue(unsigned queue) override;
  Result<unsigned> enable_vectors(unsigned wanted) override;
  const EventFd& vector(unsigned index) const override { return vectors_.at(index); }
  Status set_config_vector(std::optional<unsigned> vector) override;
  Result<std::uint8_t> acknowledge_interrupt() override { return std::uint8_t{3}; }
  memory::DmaSpace& dma() override { return dma_; }
  Status attach(Loop&) override { return {}; }
  bool gone() const override { return false; }

 private:
  struct Bell {
    LoopbackTransport* transport = nullptr;
    unsigned queue = 0;
  };

  void notify_queue(unsigned queue) override;
  void notify_config() override;
  static void rung(void* context, std::uint32_t value);

  Options options_;
  ManualLoop& loop_;
  memory::AddressMap map_;
  FakeIommu iommu_;
  memory::DmaPool dma_;
  std::unique_ptr<virtio::DeviceCore> core_;
  std::vector<EventFd> vectors_;
  std::vector<std::optional<unsigned>> queue_vectors_;
  std::optional<unsigned> config_vector_;
  std::vector<unsigned> interrupts_;
  std::vector<Bell> bells_;
};

}  // namespace outboard::testing
