#pragma once

#include <cstddef>
#include <cstdint>

/// The structures of <linux/vfio.h> that vfio-user borrowed from it: layout only, in the byte order of the host. Ours,
/// because those of the distribution are too old; names follow the kernel's without their prefixes. Checked against the
/// header of the guest's kernel by a test.
namespace outboard::vfio_abi {

/// struct vfio_device_info, as far as vfio-user has it (the kernel appends cap_offset and padding).
struct DeviceInfo {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint32_t num_regions;
  std::uint32_t num_irqs;
};
static_assert(sizeof(DeviceInfo) == 16);
static_assert(offsetof(DeviceInfo, flags) == 4 && offsetof(DeviceInfo, num_regions) == 8 &&
              offsetof(DeviceInfo, num_irqs) == 12);

namespace device_flag {
constexpr std::uint32_t reset = 1U << 0;  ///< DEVICE_RESET works
constexpr std::uint32_t pci = 1U << 1;
}  // namespace device_flag

/// struct vfio_region_info. A chain of capabilities may follow, the first one `cap_offset` bytes from argsz.
struct RegionInfo {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint32_t index;
  std::uint32_t cap_offset;
  std::uint64_t size;
  std::uint64_t offset;  ///< of the region in the descriptor that is mapped
};
static_assert(sizeof(RegionInfo) == 32);
static_assert(offsetof(RegionInfo, flags) == 4 && offsetof(RegionInfo, index) == 8 &&
              offsetof(RegionInfo, cap_offset) == 12 && offsetof(RegionInfo, size) == 16 &&
              offsetof(RegionInfo, offset) == 24);

namespace region_flag {
constexpr std::uint32_t read = 1U << 0;
constexpr std::uint32_t write = 1U << 1;
constexpr std::uint32_t mmap = 1U << 2;
constexpr std::uint32_t caps = 1U << 3;
}  // namespace region_flag

/// struct vfio_info_cap_header.
struct CapabilityHeader {
  std::uint16_t id;
  std::uint16_t version;
  std::uint32_t next;  ///< from the start of the info structure; 0 ends the chain
};
static_assert(sizeof(CapabilityHeader) == 8);
static_assert(offsetof(CapabilityHeader, version) == 2 && offsetof(CapabilityHeader, next) == 4);

namespace region_capability {
constexpr std::uint16_t sparse_mmap = 1;
constexpr std::uint16_t type = 2;
constexpr std::uint16_t msix_mappable = 3;  ///< a header and nothing else
}  // namespace region_capability

/// struct vfio_region_info_cap_sparse_mmap. `nr_areas` areas follow.
struct SparseMmapCapability {
  CapabilityHeader header;
  std::uint32_t nr_areas;
  std::uint32_t reserved;
};
static_assert(sizeof(SparseMmapCapability) == 16 && offsetof(SparseMmapCapability, nr_areas) == 8);

/// struct vfio_region_sparse_mmap_area; relative to the region.
struct SparseMmapArea {
  std::uint64_t offset;
  std::uint64_t size;
};
static_assert(sizeof(SparseMmapArea) == 16 && offsetof(SparseMmapArea, size) == 8);

/// struct vfio_region_info_cap_type.
struct TypeCapability {
  CapabilityHeader header;
  std::uint32_t type;
  std::uint32_t subtype;
};
static_assert(sizeof(TypeCapability) == 16 && offsetof(TypeCapability, type) == 8 &&
              offsetof(TypeCapability, subtype) == 12);

/// struct vfio_irq_info.
struct IrqInfo {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint32_t index;
  std::uint32_t count;
};
static_assert(sizeof(IrqInfo) == 16);
static_assert(offsetof(IrqInfo, flags) == 4 && offsetof(IrqInfo, index) == 8 && offsetof(IrqInfo, count) == 12);

namespace irq_flag {
constexpr std::uint32_t eventfd = 1U << 0;
constexpr std::uint32_t maskable = 1U << 1;
constexpr std::uint32_t automasked = 1U << 2;
constexpr std::uint32_t noresize = 1U << 3;  ///< vectors are enabled all at once
}  // namespace irq_flag

/// struct vfio_irq_set, without the data that follows.
struct IrqSet {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint32_t index;
  std::uint32_t start;
  std::uint32_t count;
};
static_assert(sizeof(IrqSet) == 20);
static_assert(offsetof(IrqSet, flags) == 4 && offsetof(IrqSet, index) == 8 && offsetof(IrqSet, start) == 12 &&
              offsetof(IrqSet, count) == 16);

namespace irq_set_flag {
constexpr std::uint32_t data_none = 1U << 0;
constexpr std::uint32_t data_bool = 1U << 1;
constexpr std::uint32_t data_eventfd = 1U << 2;
constexpr std::uint32_t action_mask = 1U << 3;
constexpr std::uint32_t action_unmask = 1U << 4;
constexpr std::uint32_t action_trigger = 1U << 5;
constexpr std::uint32_t data_bits = data_none | data_bool | data_eventfd;
constexpr std::uint32_t action_bits = action_mask | action_unmask | action_trigger;
}  // namespace irq_set_flag

/// VFIO_DMA_MAP_FLAG_*: what the device may do.
namespace dma_map_flag {
constexpr std::uint32_t read = 1U << 0;
constexpr std::uint32_t write = 1U << 1;
}  // namespace dma_map_flag

/// VFIO_DMA_UNMAP_FLAG_*.
namespace dma_unmap_flag {
constexpr std::uint32_t get_dirty_bitmap = 1U << 0;
constexpr std::uint32_t all = 1U << 1;
}  // namespace dma_unmap_flag

/// struct vfio_device_feature, without the data that follows.
struct DeviceFeature {
  std::uint32_t argsz;
  std::uint32_t flags;
};
static_assert(sizeof(DeviceFeature) == 8 && offsetof(DeviceFeature, flags) == 4);

namespace device_feature_flag {
constexpr std::uint32_t feature_mask = 0xffff;
constexpr std::uint32_t get = 1U << 16;
constexpr std::uint32_t set = 1U << 17;
constexpr std::uint32_t probe = 1U << 18;
}  // namespace device_feature_flag

/// The features that concern migration.
namespace device_feature {
constexpr std::uint32_t migration = 1;
constexpr std::uint32_t mig_device_state = 2;
constexpr std::uint32_t dma_logging_start = 6;
constexpr std::uint32_t dma_logging_stop = 7;
constexpr std::uint32_t dma_logging_report = 8;
}  // namespace device_feature

/// struct vfio_device_feature_migration.
struct Migration {
  std::uint64_t flags;
};
static_assert(sizeof(Migration) == 8);

namespace migration_flag {
constexpr std::uint64_t stop_copy = 1U << 0;
constexpr std::uint64_t p2p = 1U << 1;
constexpr std::uint64_t pre_copy = 1U << 2;
}  // namespace migration_flag

/// struct vfio_device_feature_mig_state.
struct MigrationDeviceState {
  std::uint32_t device_state;  ///< those of <outboard/pci/migration.hpp>
  std::uint32_t data_fd;
};
static_assert(sizeof(MigrationDeviceState) == 8 && offsetof(MigrationDeviceState, data_fd) == 4);

/// struct vfio_device_feature_dma_logging_control; `num_ranges` ranges follow, or point to them.
struct DmaLoggingControl {
  std::uint64_t page_size;
  std::uint32_t num_ranges;  ///< 0: everything
  std::uint32_t reserved;
};
static_assert(sizeof(DmaLoggingControl) == 16 && offsetof(DmaLoggingControl, num_ranges) == 8);

struct DmaLoggingRange {
  std::uint64_t iova;
  std::uint64_t length;
};
static_assert(sizeof(DmaLoggingRange) == 16 && offsetof(DmaLoggingRange, length) == 8);

/// struct vfio_device_feature_dma_logging_report; the bitmap follows, or is pointed to.
struct DmaLoggingReport {
  std::uint64_t iova;
  std::uint64_t length;
  std::uint64_t page_size;
};
static_assert(sizeof(DmaLoggingReport) == 24 && offsetof(DmaLoggingReport, length) == 8 &&
              offsetof(DmaLoggingReport, page_size) == 16);

/// The indexes of a VFIO PCI device's regions and interrupts are those of <outboard/pci/function.hpp>.
constexpr std::uint32_t pci_num_regions = 9;
constexpr std::uint32_t pci_num_irqs = 5;

}  // namespace outboard::vfio_abi
