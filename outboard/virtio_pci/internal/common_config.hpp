#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/state.hpp>
#include <outboard/virtio/device_core.hpp>
#include <outboard/virtio_pci/registers.hpp>

namespace outboard::virtio_pci {

/// The registers of VIRTIO 1.4, 4.1.4.3 in front of a DeviceCore, and what belongs to them alone: the selectors and the
/// MSI-X vectors. Control loop, but for the two vector calls, which any thread may make.
///
/// Reads of any width and alignment give the bytes of the registers as they are. A write has an effect when it covers one
/// field, one 32-bit half of a 64-bit field (4.1.3.1), or a whole 64-bit field; anything else is ignored.
class CommonConfig {
 public:
  /// `core` outlives it. `vectors`: entries of the MSI-X table.
  CommonConfig(virtio::DeviceCore& core, unsigned vectors);

  void read(std::uint64_t offset, MutableBytes into);
  void write(std::uint64_t offset, Bytes from);

  /// Where to signal, or spec::no_vector.
  std::uint16_t config_vector() const { return config_vector_.load(std::memory_order_relaxed); }
  std::uint16_t queue_vector(unsigned queue) const;

  /// Selectors and vectors as after a device reset.
  void reset();

  /// Section "VPCI", version 1: device_feature_select and driver_feature_select (32 bits each), queue_select, config_msix_vector, the
  /// number of queues and queue_msix_vector of each (16 bits each). Everything else is the core's.
  void save(StateWriter& writer) const;

  /// What save() wrote.
  struct Saved {
    std::uint32_t device_feature_select = 0;
    std::uint32_t driver_feature_select = 0;
    std::uint16_t queue_select = 0;
    std::uint16_t config_vector = spec::no_vector;
    std::vector<std::uint16_t> queue_vectors;
  };
  /// The next section of `from`. EINVAL: another number of queues, or a vector that the table does not have. ENOTSUP: as
  /// StateReader::section().
  Result<Saved> check_saved(StateReader& from) const;
  /// Takes what check_saved() has returned.
  void restore(const Saved& saved);

 private:
  struct Register;
  static const Register registers[];

  std::uint16_t checked_vector(std::uint16_t vector) const;
  bool selects_a_queue() const { return queue_select_ < vectors_of_queues_.size(); }
  void write_status(std::uint8_t value);
  void write_queue_reset(std::uint16_t value);
  void write_address(unsigned area, std::uint64_t value);
  std::uint64_t read_address(unsigned area) const;
  void write_register(const Register& field, std::uint64_t offset, std::uint64_t value, std::size_t width);

  virtio::DeviceCore& core_;
  unsigned vectors_;
  std::uint32_t device_feature_select_ = 0;
  std::uint32_t driver_feature_select_ = 0;
  std::uint16_t queue_select_ = 0;
  std::atomic<std::uint16_t> config_vector_{spec::no_vector};
  std::vector<std::atomic<std::uint16_t>> vectors_of_queues_;
};

}  // namespace outboard::virtio_pci
