#pragma once

#include <cstddef>
#include <cstdint>

#include <outboard/base/endian.hpp>

/// Layout only: VIRTIO 1.4, 4.1 Virtio Over PCI Bus, the same for a device and a driver. Modern devices only.
namespace outboard::virtio_pci::spec {

/// 4.1.2 PCI Device Discovery: device 0x1040 + virtio device ID. So only IDs 1...63 can be expressed on PCI.
constexpr std::uint16_t vendor_id = 0x1af4;
constexpr std::uint16_t first_transitional_device = 0x1000, last_transitional_device = 0x103f;
constexpr std::uint16_t first_modern_device = 0x1040, last_modern_device = 0x107f;

/// 4.1.4 Virtio Structure PCI Capabilities: vendor-specific ones, each for a structure.
enum class Structure : std::uint8_t {
  common = 1,
  notify = 2,
  isr = 3,
  device = 4,
  pci_cfg = 5,
  shared_memory = 8,
  vendor = 9,
};

struct Capability {
  std::uint8_t cap_vndr;
  std::uint8_t cap_next;
  std::uint8_t cap_len;
  std::uint8_t cfg_type;
  std::uint8_t bar;
  std::uint8_t id;
  std::uint8_t padding[2];
  le32 offset;
  le32 length;
};
static_assert(sizeof(Capability) == 16);
static_assert(offsetof(Capability, cfg_type) == 3 && offsetof(Capability, bar) == 4 && offsetof(Capability, id) == 5);
static_assert(offsetof(Capability, offset) == 8 && offsetof(Capability, length) == 12);

/// What follows a Capability: 4.1.4.4 (notify), 4.1.4.9 (the access window), 4.1.4.7 (shared memory).
constexpr std::uint8_t notify_off_multiplier = 16, notify_capability_size = 20;
constexpr std::uint8_t pci_cfg_data = 16, pci_cfg_capability_size = 20;
constexpr std::uint8_t shared_memory_offset_hi = 16, shared_memory_length_hi = 20, shared_memory_capability_size = 24;

/// 4.1.4.3 Common configuration structure layout.
struct CommonConfig {
  le32 device_feature_select;
  le32 device_feature;
  le32 driver_feature_select;
  le32 driver_feature;
  le16 config_msix_vector;
  le16 num_queues;
  std::uint8_t device_status;
  std::uint8_t config_generation;

  le16 queue_select;
  le16 queue_size;
  le16 queue_msix_vector;
  le16 queue_enable;
  le16 queue_notify_off;
  le64 queue_desc;
  le64 queue_driver;
  le64 queue_device;
  le16 queue_notif_config_data;
  le16 queue_reset;

  le16 admin_queue_index;
  le16 admin_queue_num;
};
static_assert(sizeof(CommonConfig) == 0x40);
static_assert(offsetof(CommonConfig, config_msix_vector) == 0x10 && offsetof(CommonConfig, device_status) == 0x14);
static_assert(offsetof(CommonConfig, queue_select) == 0x16 && offsetof(CommonConfig, queue_notify_off) == 0x1e);
static_assert(offsetof(CommonConfig, queue_desc) == 0x20 && offsetof(CommonConfig, queue_device) == 0x30);
static_assert(offsetof(CommonConfig, queue_notif_config_data) == 0x38 && offsetof(CommonConfig, queue_reset) == 0x3a);
static_assert(offsetof(CommonConfig, admin_queue_num) == 0x3e);

/// A driver of before 1.2 knew no more of it; a device may still have no more.
constexpr std::uint32_t common_config_min_size = 0x38;

/// 4.1.5.1.2 MSI-X Vector Configuration.
constexpr std::uint16_t no_vector = 0xffff;
constexpr unsigned max_vectors = 0x800;

/// 4.1.4.5 ISR status capability.
namespace isr {
constexpr std::uint8_t queue = 1, config = 2;
}

/// 4.1.5.2 Available Buffer Notifications, with NOTIFICATION_DATA: index, then where the ring stands.
constexpr std::uint32_t notification(std::uint16_t queue, std::uint16_t position) {
  return queue | (std::uint32_t{position} << 16);
}

}  // namespace outboard::virtio_pci::spec
