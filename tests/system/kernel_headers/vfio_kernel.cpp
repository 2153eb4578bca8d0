/// <outboard/vfio_abi/kernel.hpp> against <linux/vfio.h> and <linux/iommufd.h> of a guest's kernel. Compiled by
/// kernel_headers_test.py; there is nothing to run.

#include <cstddef>

#include <kernel/iommufd.h>
#include <kernel/vfio.h>

#include <outboard/vfio_abi/kernel.hpp>

#include "same.hpp"

namespace abi = outboard::vfio_abi;

#define SAME_REQUEST(ours, theirs) static_assert(static_cast<unsigned long>(abi::ours) == (theirs))

static_assert(abi::api_version == VFIO_API_VERSION);
SAME_REQUEST(ContainerRequest::get_api_version, VFIO_GET_API_VERSION);
SAME_REQUEST(ContainerRequest::check_extension, VFIO_CHECK_EXTENSION);
SAME_REQUEST(ContainerRequest::set_iommu, VFIO_SET_IOMMU);
SAME_REQUEST(ContainerRequest::iommu_get_info, VFIO_IOMMU_GET_INFO);
SAME_REQUEST(ContainerRequest::iommu_map_dma, VFIO_IOMMU_MAP_DMA);
SAME_REQUEST(ContainerRequest::iommu_unmap_dma, VFIO_IOMMU_UNMAP_DMA);
SAME_REQUEST(GroupRequest::get_status, VFIO_GROUP_GET_STATUS);
SAME_REQUEST(GroupRequest::set_container, VFIO_GROUP_SET_CONTAINER);
SAME_REQUEST(GroupRequest::unset_container, VFIO_GROUP_UNSET_CONTAINER);
SAME_REQUEST(GroupRequest::get_device_fd, VFIO_GROUP_GET_DEVICE_FD);
SAME_REQUEST(DeviceRequest::get_info, VFIO_DEVICE_GET_INFO);
SAME_REQUEST(DeviceRequest::get_region_info, VFIO_DEVICE_GET_REGION_INFO);
SAME_REQUEST(DeviceRequest::get_irq_info, VFIO_DEVICE_GET_IRQ_INFO);
SAME_REQUEST(DeviceRequest::set_irqs, VFIO_DEVICE_SET_IRQS);
SAME_REQUEST(DeviceRequest::reset, VFIO_DEVICE_RESET);
SAME_REQUEST(DeviceRequest::ioeventfd, VFIO_DEVICE_IOEVENTFD);
SAME_REQUEST(DeviceRequest::feature, VFIO_DEVICE_FEATURE);
SAME_REQUEST(DeviceRequest::bind_iommufd, VFIO_DEVICE_BIND_IOMMUFD);
SAME_REQUEST(DeviceRequest::attach_iommufd_pt, VFIO_DEVICE_ATTACH_IOMMUFD_PT);
SAME_REQUEST(DeviceRequest::detach_iommufd_pt, VFIO_DEVICE_DETACH_IOMMUFD_PT);
SAME_REQUEST(IommuRequest::destroy, IOMMU_DESTROY);
SAME_REQUEST(IommuRequest::ioas_alloc, IOMMU_IOAS_ALLOC);
SAME_REQUEST(IommuRequest::ioas_iova_ranges, IOMMU_IOAS_IOVA_RANGES);
SAME_REQUEST(IommuRequest::ioas_map, IOMMU_IOAS_MAP);
SAME_REQUEST(IommuRequest::ioas_unmap, IOMMU_IOAS_UNMAP);

static_assert(abi::iommu_type::type1 == VFIO_TYPE1_IOMMU && abi::iommu_type::type1v2 == VFIO_TYPE1v2_IOMMU &&
              abi::iommu_type::noiommu == VFIO_NOIOMMU_IOMMU);

SAME_SIZE(abi::GroupStatus, vfio_group_status);
SAME_PLACE(abi::GroupStatus, vfio_group_status, flags);
static_assert(abi::group_flag::viable == VFIO_GROUP_FLAGS_VIABLE &&
              abi::group_flag::container_set == VFIO_GROUP_FLAGS_CONTAINER_SET);

SAME_SIZE(abi::Type1Info, vfio_iommu_type1_info);
SAME_PLACE(abi::Type1Info, vfio_iommu_type1_info, flags);
SAME_PLACE(abi::Type1Info, vfio_iommu_type1_info, iova_pgsizes);
SAME_PLACE(abi::Type1Info, vfio_iommu_type1_info, cap_offset);
static_assert(abi::type1_flag::pgsizes == VFIO_IOMMU_INFO_PGSIZES && abi::type1_flag::caps == VFIO_IOMMU_INFO_CAPS);
static_assert(abi::type1_capability::iova_range == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE &&
              abi::type1_capability::migration == VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION &&
              abi::type1_capability::dma_avail == VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL);
SAME_SIZE(abi::IovaRangeCapability, vfio_iommu_type1_info_cap_iova_range);
SAME_PLACE(abi::IovaRangeCapability, vfio_iommu_type1_info_cap_iova_range, nr_iovas);
SAME_SIZE(abi::IovaBounds, vfio_iova_range);
SAME_PLACE(abi::IovaBounds, vfio_iova_range, end);
SAME_SIZE(abi::IovaBounds, iommu_iova_range);
SAME_PLACE_AS(abi::IovaBounds, end, iommu_iova_range, last);
SAME_SIZE(abi::DmaAvailCapability, vfio_iommu_type1_info_dma_avail);
SAME_PLACE(abi::DmaAvailCapability, vfio_iommu_type1_info_dma_avail, avail);

SAME_SIZE(abi::Type1DmaMap, vfio_iommu_type1_dma_map);
SAME_PLACE(abi::Type1DmaMap, vfio_iommu_type1_dma_map, flags);
SAME_PLACE(abi::Type1DmaMap, vfio_iommu_type1_dma_map, vaddr);
SAME_PLACE(abi::Type1DmaMap, vfio_iommu_type1_dma_map, iova);
SAME_PLACE(abi::Type1DmaMap, vfio_iommu_type1_dma_map, size);
SAME_SIZE(abi::Type1DmaUnmap, vfio_iommu_type1_dma_unmap);
SAME_PLACE(abi::Type1DmaUnmap, vfio_iommu_type1_dma_unmap, flags);
SAME_PLACE(abi::Type1DmaUnmap, vfio_iommu_type1_dma_unmap, iova);
SAME_PLACE(abi::Type1DmaUnmap, vfio_iommu_type1_dma_unmap, size);

SAME_SIZE(abi::DeviceIoEventFd, vfio_device_ioeventfd);
SAME_PLACE(abi::DeviceIoEventFd, vfio_device_ioeventfd, offset);
SAME_PLACE(abi::DeviceIoEventFd, vfio_device_ioeventfd, data);
SAME_PLACE(abi::DeviceIoEventFd, vfio_device_ioeventfd, fd);
static_assert(abi::device_feature::pci_vf_token == VFIO_DEVICE_FEATURE_PCI_VF_TOKEN &&
              abi::device_feature::low_power_entry == VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY &&
              abi::device_feature::low_power_entry_with_wakeup == VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP &&
              abi::device_feature::low_power_exit == VFIO_DEVICE_FEATURE_LOW_POWER_EXIT);

// Newer kernels append to these; the part that we send is what the oldest with the call knows.
static_assert(offsetof(abi::BindIommufd, token_uuid_ptr) <= sizeof(vfio_device_bind_iommufd));
SAME_PLACE(abi::BindIommufd, vfio_device_bind_iommufd, flags);
SAME_PLACE(abi::BindIommufd, vfio_device_bind_iommufd, iommufd);
SAME_PLACE(abi::BindIommufd, vfio_device_bind_iommufd, out_devid);
#ifdef VFIO_DEVICE_BIND_FLAG_TOKEN
static_assert(abi::bind_flag::token == VFIO_DEVICE_BIND_FLAG_TOKEN);
SAME_PLACE(abi::BindIommufd, vfio_device_bind_iommufd, token_uuid_ptr);
#endif
static_assert(sizeof(abi::AttachIommufdPt) <= sizeof(vfio_device_attach_iommufd_pt));
SAME_PLACE(abi::AttachIommufdPt, vfio_device_attach_iommufd_pt, pt_id);

SAME_SIZE(abi::IommuDestroy, iommu_destroy);
SAME_PLACE(abi::IommuDestroy, iommu_destroy, id);
SAME_SIZE(abi::IoasAlloc, iommu_ioas_alloc);
SAME_PLACE(abi::IoasAlloc, iommu_ioas_alloc, out_ioas_id);
SAME_SIZE(abi::IoasIovaRanges, iommu_ioas_iova_ranges);
SAME_PLACE(abi::IoasIovaRanges, iommu_ioas_iova_ranges, ioas_id);
SAME_PLACE(abi::IoasIovaRanges, iommu_ioas_iova_ranges, num_iovas);
SAME_PLACE(abi::IoasIovaRanges, iommu_ioas_iova_ranges, allowed_iovas);
SAME_PLACE(abi::IoasIovaRanges, iommu_ioas_iova_ranges, out_iova_alignment);
SAME_SIZE(abi::IoasMap, iommu_ioas_map);
SAME_PLACE(abi::IoasMap, iommu_ioas_map, flags);
SAME_PLACE(abi::IoasMap, iommu_ioas_map, ioas_id);
SAME_PLACE(abi::IoasMap, iommu_ioas_map, user_va);
SAME_PLACE(abi::IoasMap, iommu_ioas_map, length);
SAME_PLACE(abi::IoasMap, iommu_ioas_map, iova);
static_assert(abi::ioas_map_flag::fixed_iova == IOMMU_IOAS_MAP_FIXED_IOVA &&
              abi::ioas_map_flag::writeable == IOMMU_IOAS_MAP_WRITEABLE &&
              abi::ioas_map_flag::readable == IOMMU_IOAS_MAP_READABLE);
SAME_SIZE(abi::IoasUnmap, iommu_ioas_unmap);
SAME_PLACE(abi::IoasUnmap, iommu_ioas_unmap, ioas_id);
SAME_PLACE(abi::IoasUnmap, iommu_ioas_unmap, iova);
SAME_PLACE(abi::IoasUnmap, iommu_ioas_unmap, length);
