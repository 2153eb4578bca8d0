#pragma once

#include <memory>
#include <string>
#include <vector>

#include <outboard/memory/dma_space.hpp>
#include <outboard/virtio/transport.hpp>

#include "node.hpp"

namespace outboard::vhost {

/// Puts a driver's memory into the kernel's table, for the device to see.
class Mapper final : public memory::DmaMapper {
 public:
  explicit Mapper(const Node& node) : node_(node) {}
  Status map(memory::IovaRange range, MutableBytes memory, memory::Access access, const UniqueFd* fd,
             std::uint64_t offset) override;
  Status unmap(memory::IovaRange range) override;
  memory::DmaSpace::Limits limits() const override;

 private:
  const Node& node_;
};

/// A virtio device behind /dev/vhost-vdpa-N, for the drivers of the library. Minimal: what the tests of VDUSE need.
class Transport final : public virtio::Transport {
 public:
  static Result<std::unique_ptr<Transport>> open(const std::string& path);

  const Node& node() const { return node_; }

  std::string name() const override { return "vhost-vdpa:" + node_.path(); }
  std::uint32_t device_id() const override { return device_id_; }
  Result<virtio::Features> device_features() override;
  Status write_driver_features(const virtio::Features& features) override;
  Result<std::uint8_t> status() override { return node_.status(); }
  Status write_status(std::uint8_t status) override { return node_.set_status(status); }
  Status reset() override;
  std::uint32_t config_size() const override { return config_size_; }
  Status read_config(std::uint32_t offset, MutableBytes into) override { return node_.read_config(offset, into); }
  /// VDUSE drops what a driver writes.
  Status write_config(std::uint32_t, Bytes) override { return Error(ENOTSUP, "writing configuration").on(name()); }
  Result<std::uint16_t> queue_count() override;
  Result<std::uint16_t> queue_max_size(unsigned queue) override;
  Result<virtio::Doorbell> setup_queue(unsigned queue, const virtio::QueueSetup& setup) override;
  Status reset_queue(unsigned) override { return Error(ENOTSUP, "resetting a queue").on(name()); }
  Result<unsigned> enable_vectors(unsigned wanted) override;
  const EventFd& vector(unsigned index) const override { return vectors_.at(index); }
  Status set_config_vector(std::optional<unsigned> vector) override;
  Result<std::uint8_t> acknowledge_interrupt() override { return std::uint8_t{3}; }
  memory::DmaSpace& dma() override { return dma_; }
  Status attach(Loop&) override { return {}; }
  bool gone() const override { return false; }

 private:
  explicit Transport(Node node) : node_(std::move(node)), mapper_(node_), dma_(mapper_) {}
  Status set_rings(unsigned queue, const virtio::QueueSetup& setup);

  Node node_;
  Mapper mapper_;
  memory::DmaPool dma_;
  std::uint32_t device_id_ = 0;
  std::uint32_t config_size_ = 0;
  bool packed_ = false;
  std::vector<EventFd> vectors_;
  std::vector<EventFd> kicks_;
};

}  // namespace outboard::vhost
