#pragma once

#include <cstddef>
#include <cstdint>

#include <outboard/vfio_abi/vfio.hpp>

/// What of <linux/vfio.h> and <linux/iommufd.h> only the kernel speaks: the ioctls of its descriptors, and their structures.
/// Layout only, as <outboard/vfio_abi/vfio.hpp>, and checked in the same way.
namespace outboard::vfio_abi {

/// An ioctl's number says nothing about the kind of file it is for: 0x3b71 is VFIO_IOMMU_MAP_DMA on a container and
/// VFIO_DEVICE_PCI_HOT_RESET on a device. So each kind of file has requests of its own type.
constexpr unsigned long ioctl_number(unsigned number) { return 0x3b00UL | number; }

/// /dev/vfio/vfio.
enum class ContainerRequest : unsigned long {
  get_api_version = ioctl_number(0x64),
  check_extension = ioctl_number(0x65),
  set_iommu = ioctl_number(0x66),
  iommu_get_info = ioctl_number(0x70),
  iommu_map_dma = ioctl_number(0x71),
  iommu_unmap_dma = ioctl_number(0x72),
};

/// /dev/vfio/GROUP.
enum class GroupRequest : unsigned long {
  get_status = ioctl_number(0x67),
  set_container = ioctl_number(0x68),
  unset_container = ioctl_number(0x69),
  get_device_fd = ioctl_number(0x6a),
};

/// A device: from GroupRequest::get_device_fd, or /dev/vfio/devices/vfioN.
enum class DeviceRequest : unsigned long {
  get_info = ioctl_number(0x6b),
  get_region_info = ioctl_number(0x6c),
  get_irq_info = ioctl_number(0x6d),
  set_irqs = ioctl_number(0x6e),
  reset = ioctl_number(0x6f),
  ioeventfd = ioctl_number(0x74),
  feature = ioctl_number(0x75),
  bind_iommufd = ioctl_number(0x76),
  attach_iommufd_pt = ioctl_number(0x77),
  detach_iommufd_pt = ioctl_number(0x78),
};

/// /dev/iommu.
enum class IommuRequest : unsigned long {
  destroy = ioctl_number(0x80),
  ioas_alloc = ioctl_number(0x81),
  ioas_iova_ranges = ioctl_number(0x84),
  ioas_map = ioctl_number(0x85),
  ioas_unmap = ioctl_number(0x86),
};

constexpr int api_version = 0;

/// What VFIO_CHECK_EXTENSION asks for, and VFIO_SET_IOMMU sets.
namespace iommu_type {
constexpr unsigned long type1 = 1, type1v2 = 3, noiommu = 8;
}

/// struct vfio_group_status.
struct GroupStatus {
  std::uint32_t argsz;
  std::uint32_t flags;
};
static_assert(sizeof(GroupStatus) == 8 && offsetof(GroupStatus, flags) == 4);

namespace group_flag {
constexpr std::uint32_t viable = 1U << 0;  ///< every device of the group is bound to VFIO, or to nothing
constexpr std::uint32_t container_set = 1U << 1;
}  // namespace group_flag

/// struct vfio_iommu_type1_info. A chain of capabilities may follow.
struct Type1Info {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint64_t iova_pgsizes;  ///< a bit for each size of page
  std::uint32_t cap_offset;
  std::uint32_t pad;
};
static_assert(sizeof(Type1Info) == 24);
static_assert(offsetof(Type1Info, flags) == 4 && offsetof(Type1Info, iova_pgsizes) == 8 &&
              offsetof(Type1Info, cap_offset) == 16);

namespace type1_flag {
constexpr std::uint32_t pgsizes = 1U << 0;
constexpr std::uint32_t caps = 1U << 1;
}  // namespace type1_flag

namespace type1_capability {
constexpr std::uint16_t iova_range = 1;
constexpr std::uint16_t migration = 2;
constexpr std::uint16_t dma_avail = 3;
}  // namespace type1_capability

/// struct vfio_iommu_type1_info_cap_iova_range. `nr_iovas` ranges follow.
struct IovaRangeCapability {
  CapabilityHeader header;
  std::uint32_t nr_iovas;
  std::uint32_t reserved;
};
static_assert(sizeof(IovaRangeCapability) == 16 && offsetof(IovaRangeCapability, nr_iovas) == 8);

/// struct vfio_iova_range, and struct iommu_iova_range, which is the same.
struct IovaBounds {
  std::uint64_t start;
  std::uint64_t end;  ///< the last address
};
static_assert(sizeof(IovaBounds) == 16 && offsetof(IovaBounds, end) == 8);

/// struct vfio_iommu_type1_info_dma_avail.
struct DmaAvailCapability {
  CapabilityHeader header;
  std::uint32_t avail;
};
static_assert(offsetof(DmaAvailCapability, avail) == 8);

/// struct vfio_iommu_type1_dma_map.
struct Type1DmaMap {
  std::uint32_t argsz;
  std::uint32_t flags;  ///< dma_map_flag
  std::uint64_t vaddr;
  std::uint64_t iova;
  std::uint64_t size;
};
static_assert(sizeof(Type1DmaMap) == 32);
static_assert(offsetof(Type1DmaMap, flags) == 4 && offsetof(Type1DmaMap, vaddr) == 8 &&
              offsetof(Type1DmaMap, iova) == 16 && offsetof(Type1DmaMap, size) == 24);

/// struct vfio_iommu_type1_dma_unmap, without the bitmap.
struct Type1DmaUnmap {
  std::uint32_t argsz;
  std::uint32_t flags;  ///< dma_unmap_flag
  std::uint64_t iova;
  std::uint64_t size;  ///< written back: how much was unmapped
};
static_assert(sizeof(Type1DmaUnmap) == 24);
static_assert(offsetof(Type1DmaUnmap, flags) == 4 && offsetof(Type1DmaUnmap, iova) == 8 &&
              offsetof(Type1DmaUnmap, size) == 16);

/// struct vfio_device_ioeventfd. `flags`: the width in bytes, 1, 2, 4 or 8.
struct DeviceIoEventFd {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint64_t offset;
  std::uint64_t data;
  std::int32_t fd;
  std::uint32_t reserved;
};
static_assert(sizeof(DeviceIoEventFd) == 32 && offsetof(DeviceIoEventFd, offset) == 8 &&
              offsetof(DeviceIoEventFd, data) == 16 && offsetof(DeviceIoEventFd, fd) == 24);

/// The features of VFIO_DEVICE_FEATURE that we use.
namespace device_feature {
constexpr std::uint32_t pci_vf_token = 0;
constexpr std::uint32_t low_power_entry = 3;
constexpr std::uint32_t low_power_entry_with_wakeup = 4;
constexpr std::uint32_t low_power_exit = 5;
}  // namespace device_feature

/// Of VFIO_DEVICE_FEATURE_DMA_LOGGING_START: LOG_MAX_RANGES, with pages of 4 KiB. More are E2BIG, none is EINVAL.
constexpr std::size_t max_dma_logging_ranges = 256;

/// struct vfio_device_feature_dma_logging_control, with its pointer to ranges.
struct KernelDmaLoggingControl {
  DmaLoggingControl control;
  std::uint64_t ranges;  ///< pointer to DmaLoggingRange
};
static_assert(sizeof(KernelDmaLoggingControl) == 24 && offsetof(KernelDmaLoggingControl, ranges) == 16);

/// struct vfio_device_feature_dma_logging_report, with its pointer to the bitmap.
struct KernelDmaLoggingReport {
  DmaLoggingReport report;
  std::uint64_t bitmap;  ///< pointer to words of 64 bits, in which bits are set and none is cleared
};
static_assert(sizeof(KernelDmaLoggingReport) == 32 && offsetof(KernelDmaLoggingReport, bitmap) == 24);

/// struct vfio_device_bind_iommufd.
struct BindIommufd {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::int32_t iommufd;
  std::uint32_t out_devid;
  std::uint64_t token_uuid_ptr;
};
static_assert(sizeof(BindIommufd) == 24);
static_assert(offsetof(BindIommufd, flags) == 4 && offsetof(BindIommufd, iommufd) == 8 &&
              offsetof(BindIommufd, out_devid) == 12 && offsetof(BindIommufd, token_uuid_ptr) == 16);

namespace bind_flag {
constexpr std::uint32_t token = 1U << 0;
}

/// struct vfio_device_attach_iommufd_pt, as far as every kernel has it.
struct AttachIommufdPt {
  std::uint32_t argsz;
  std::uint32_t flags;
  std::uint32_t pt_id;  ///< of an IOAS; written back: of what was made for it
};
static_assert(sizeof(AttachIommufdPt) == 12 && offsetof(AttachIommufdPt, pt_id) == 8);

// iommufd: the first field is the size of the structure.

/// struct iommu_destroy.
struct IommuDestroy {
  std::uint32_t size;
  std::uint32_t id;
};
static_assert(sizeof(IommuDestroy) == 8 && offsetof(IommuDestroy, id) == 4);

/// struct iommu_ioas_alloc.
struct IoasAlloc {
  std::uint32_t size;
  std::uint32_t flags;
  std::uint32_t out_ioas_id;
};
static_assert(sizeof(IoasAlloc) == 12 && offsetof(IoasAlloc, out_ioas_id) == 8);

/// struct iommu_ioas_iova_ranges.
struct IoasIovaRanges {
  std::uint32_t size;
  std::uint32_t ioas_id;
  std::uint32_t num_iovas;  ///< written back: how many there are
  std::uint32_t reserved;
  std::uint64_t allowed_iovas;  ///< pointer to IovaBounds
  std::uint64_t out_iova_alignment;
};
static_assert(sizeof(IoasIovaRanges) == 32);
static_assert(offsetof(IoasIovaRanges, ioas_id) == 4 && offsetof(IoasIovaRanges, num_iovas) == 8 &&
              offsetof(IoasIovaRanges, allowed_iovas) == 16 && offsetof(IoasIovaRanges, out_iova_alignment) == 24);

namespace ioas_map_flag {
constexpr std::uint32_t fixed_iova = 1U << 0;
constexpr std::uint32_t writeable = 1U << 1;
constexpr std::uint32_t readable = 1U << 2;
}  // namespace ioas_map_flag

/// struct iommu_ioas_map.
struct IoasMap {
  std::uint32_t size;
  std::uint32_t flags;
  std::uint32_t ioas_id;
  std::uint32_t reserved;
  std::uint64_t user_va;
  std::uint64_t length;
  std::uint64_t iova;
};
static_assert(sizeof(IoasMap) == 40);
static_assert(offsetof(IoasMap, flags) == 4 && offsetof(IoasMap, ioas_id) == 8 && offsetof(IoasMap, user_va) == 16 &&
              offsetof(IoasMap, length) == 24 && offsetof(IoasMap, iova) == 32);

/// struct iommu_ioas_unmap.
struct IoasUnmap {
  std::uint32_t size;
  std::uint32_t ioas_id;
  std::uint64_t iova;
  std::uint64_t length;  ///< written back: how much was unmapped
};
static_assert(sizeof(IoasUnmap) == 24);
static_assert(offsetof(IoasUnmap, ioas_id) == 4 && offsetof(IoasUnmap, iova) == 8 && offsetof(IoasUnmap, length) == 16);

}  // namespace outboard::vfio_abi
