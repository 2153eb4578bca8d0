#pragma once

#include <cstdint>

#include <outboard/testing/manual_loop.hpp>
#include <outboard/virtio/device_core.hpp>
#include <outboard/virtio/transport.hpp>

namespace outboard::testing {

/// The least that can lie between a driver and a DeviceCore with one queue: nothing is pumped and nothing mapped but by
/// whoever tests. Doorbells are kicks; interrupts are the test's (virtio::TransportEvents).
class CoreTransport final : public virtio::Transport {
 public:
  CoreTransport(virtio::DeviceCore& core, ManualLoop& loop, memory::DmaSpace& dma)
      : core_(core), loop_(loop), dma_(dma) {}

  unsigned rings = 0;  ///< of the doorbell

  std::string name() const override { return "core"; }
  std::uint32_t device_id() const override { return core_.identity().device_id; }
  Result<virtio::Features> device_features() override { return core_.offered(); }
  Status write_driver_features(const virtio::Features& features) override {
    for (unsigned word = 0; word < virtio::Features::words; ++word)
      core_.write_driver_features(word, features.word(word));
    return {};
  }
  Result<std::uint8_t> status() override { return core_.status(); }
  Status write_status(std::uint8_t status) override {
    core_.write_status(status);
    return {};
  }
  Status reset() override {
    core_.write_status(0);
    loop_.run_until_idle();
    return core_.status() == 0 ? Status() : Status(Error(ETIMEDOUT, "a device reset"));
  }
  std::uint32_t config_size() const override { return 0; }
  Status read_config(std::uint32_t, MutableBytes) override { return Error(EINVAL, "no configuration"); }
  Status write_config(std::uint32_t, Bytes) override { return Error(EINVAL, "no configuration"); }
  Result<std::uint16_t> queue_count() override { return static_cast<std::uint16_t>(core_.queue_count()); }
  Result<std::uint16_t> queue_max_size(unsigned queue) override { return core_.queue_max_size(queue); }
  Result<virtio::Doorbell> setup_queue(unsigned queue, const virtio::QueueSetup& setup) override {
    core_.set_queue_size(queue, setup.size);
    if (core_.queue_size(queue) != setup.size) return Error(EPROTO, "the size reads back differently");
    core_.set_queue_address(queue, 0, setup.descriptors);
    core_.set_queue_address(queue, 1, setup.driver);
    core_.set_queue_address(queue, 2, setup.device);
    core_.enable_queue(queue);
    return virtio::Doorbell::call(
        [](void* self, std::uint32_t value) {
          auto& transport = *static_cast<CoreTransport*>(self);
          ++transport.rings;
          transport.core_.kick(value & 0xffff);
        },
        this);
  }
  Status reset_queue(unsigned) override { return Error(ENOTSUP, "not here"); }
  Result<unsigned> enable_vectors(unsigned) override { return 0U; }
  const EventFd& vector(unsigned) const override { return no_event_; }
  Status set_config_vector(std::optional<unsigned>) override { return {}; }
  Result<std::uint8_t> acknowledge_interrupt() override { return std::uint8_t{3}; }
  memory::DmaSpace& dma() override { return dma_; }
  Status attach(Loop&) override { return {}; }
  bool gone() const override { return false; }

 private:
  virtio::DeviceCore& core_;
  ManualLoop& loop_;
  memory::DmaSpace& dma_;
  EventFd no_event_;
};

}  // namespace outboard::testing
