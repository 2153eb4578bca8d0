#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include <outboard/testing/plain_dma.hpp>
#include <outboard/virtio/spec.hpp>
#include <outboard/virtio/transport.hpp>

namespace outboard::testing {

/// A virtio::Transport without a device: it records what the driver does, and behaves as the test sets its public members,
/// which may change at any time.
class FakeTransport final : public virtio::Transport {
 public:
  struct Queue {
    std::uint16_t max_size = 256;
    virtio::QueueSetup setup;
    bool enabled = false;
    std::vector<std::uint32_t> rings;  ///< values written to the doorbell
    std::vector<unsigned> refuses_vectors;
  };

  explicit FakeTransport(unsigned count = 1) : queues(count) {}

  std::uint32_t type = 63;  ///< device ID
  virtio::Features offered{virtio::Feature::version_1};
  virtio::Features accepted{};
  bool takes_features = true;
  bool takes_driver_ok = true;
  bool resets = true;  ///< false: a reset never ends
  bool has_gone = false;
  std::vector<std::uint8_t> statuses;  ///< as written
  std::uint8_t current_status = 0;
  std::vector<Queue> queues;
  std::vector<std::byte> config;
  std::vector<EventFd> vectors;  ///< for enable_vectors()
  std::optional<unsigned> config_vector;
  std::function<void(unsigned queue)> on_ring;  ///< called for each doorbell
  PlainDma space;

  Queue& queue(unsigned index) { return queues.at(index); }

  std::string name() const override { return "fake"; }
  std::uint32_t device_id() const override { return type; }
  Result<virtio::Features> device_features() override { return offered; }
  Status write_driver_features(const virtio::Features& features) override {
    accepted = features;
    return {};
  }
  Result<std::uint8_t> status() override { return current_status; }
  Status write_status(std::uint8_t status) override {
    statuses.push_back(status);
    current_status = status;
    if (!takes_features) current_status &= static_cast<std::uint8_t>(~virtio::spec::status::features_ok);
    if (!takes_driver_ok && (status & virtio::spec::status::driver_ok) != 0)
      current_status =
          static_cast<std::uint8_t>((status & ~virtio::spec::status::driver_ok) | virtio::spec::status::needs_reset);
    return {};
  }
  Status reset() override {
    statuses.push_back(0);
    if (!resets) return Error(ETIMEDOUT, "the device does not come to rest").on(name());
    current_status = 0;
    for (auto& queue : queues) queue.enabled = false;
    return {};
  }
  std::uint32_t config_size() const override { return static_cast<std::uint32_t>(config.size()); }
  Status read_config(std::uint32_t offset, MutableBytes into) override {
    if (!range_within(offset, into.size(), config.size())) return Error(EINVAL, "beyond the configuration");
    copy_bytes(Bytes(config).subspan(offset, into.size()), into);
    return {};
  }
  Status write_config(std::uint32_t offset, Bytes from) override {
    if (!range_within(offset, from.size(), config.size())) return Error(EINVAL, "beyond the configuration");
    copy_bytes(from, MutableBytes(config).subspan(offset));
    return {};
  }
  Result<std::uint16_t> queue_count() override { return static_cast<std::uint16_t>(queues.size()); }
  Result<std::uint16_t> queue_max_size(unsigned index) override {
    return index < queues.size() ? queues[index].max_size : std::uint16_t{0};
  }
  Result<virtio::Doorbell> setup_queue(unsigned index, const virtio::QueueSetup& setup) override {
    if (setup.vector && std::ranges::count(queue(index).refuses_vectors, *setup.vector) != 0)
      return Error(ENOSPC, "NO_VECTOR");
    queue(index).setup = setup;
    queue(index).enabled = true;
    contexts_[index] = {this, index};
    return virtio::Doorbell::call(&FakeTransport::rung, &contexts_[index]);
  }
  Status reset_queue(unsigned index) override {
    queue(index).enabled = false;
    return {};
  }
  Result<unsigned> enable_vectors(unsigned wanted) override {
    return std::min(wanted, static_cast<unsigned>(vectors.size()));
  }
  const EventFd& vector(unsigned index) const override { return vectors.at(index); }
  Status set_config_vector(std::optional<unsigned> vector) override {
    config_vector = vector;
    return {};
  }
  Result<std::uint8_t> acknowledge_interrupt() override { return std::uint8_t{0}; }
  memory::DmaSpace& dma() override { return space; }
  Status attach(Loop&) override { return {}; }
  bool gone() const override { return has_gone; }
  void on_gone(std::move_only_function<void()> told) override { told_gone_ = std::move(told); }
  /// The device is removed.
  void go() {
    has_gone = true;
    if (told_gone_) told_gone_();
  }

 private:
  struct Context {
    FakeTransport* transport = nullptr;
    unsigned queue = 0;
  };
  static void rung(void* context, std::uint32_t value) {
    auto& [transport, queue] = *static_cast<Context*>(context);
    transport->queues[queue].rings.push_back(value);
    if (transport->on_ring) transport->on_ring(queue);
  }

  std::map<unsigned, Context> contexts_;
  std::move_only_function<void()> told_gone_;
};

}  // namespace outboard::testing
