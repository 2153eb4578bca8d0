/// <outboard/vfio_abi/vfio.hpp> against <linux/vfio.h> of a guest's kernel. Compiled by kernel_headers_test.py; there is
/// nothing to run.

#include <cstddef>

#include <kernel/vfio.h>

#include <outboard/vfio_abi/vfio.hpp>

#include "same.hpp"

namespace abi = outboard::vfio_abi;

// The kernel appends to it what vfio-user does not have.
static_assert(sizeof(abi::DeviceInfo) <= sizeof(vfio_device_info));
SAME_PLACE(abi::DeviceInfo, vfio_device_info, argsz);
SAME_PLACE(abi::DeviceInfo, vfio_device_info, flags);
SAME_PLACE(abi::DeviceInfo, vfio_device_info, num_regions);
SAME_PLACE(abi::DeviceInfo, vfio_device_info, num_irqs);
static_assert(abi::device_flag::reset == VFIO_DEVICE_FLAGS_RESET && abi::device_flag::pci == VFIO_DEVICE_FLAGS_PCI);

SAME_SIZE(abi::RegionInfo, vfio_region_info);
SAME_PLACE(abi::RegionInfo, vfio_region_info, flags);
SAME_PLACE(abi::RegionInfo, vfio_region_info, index);
SAME_PLACE(abi::RegionInfo, vfio_region_info, cap_offset);
SAME_PLACE(abi::RegionInfo, vfio_region_info, size);
SAME_PLACE(abi::RegionInfo, vfio_region_info, offset);
static_assert(abi::region_flag::read == VFIO_REGION_INFO_FLAG_READ &&
              abi::region_flag::write == VFIO_REGION_INFO_FLAG_WRITE &&
              abi::region_flag::mmap == VFIO_REGION_INFO_FLAG_MMAP &&
              abi::region_flag::caps == VFIO_REGION_INFO_FLAG_CAPS);

SAME_SIZE(abi::CapabilityHeader, vfio_info_cap_header);
SAME_PLACE(abi::CapabilityHeader, vfio_info_cap_header, id);
SAME_PLACE(abi::CapabilityHeader, vfio_info_cap_header, version);
SAME_PLACE(abi::CapabilityHeader, vfio_info_cap_header, next);
static_assert(abi::region_capability::sparse_mmap == VFIO_REGION_INFO_CAP_SPARSE_MMAP &&
              abi::region_capability::type == VFIO_REGION_INFO_CAP_TYPE &&
              abi::region_capability::msix_mappable == VFIO_REGION_INFO_CAP_MSIX_MAPPABLE);
SAME_SIZE(abi::SparseMmapCapability, vfio_region_info_cap_sparse_mmap);
SAME_PLACE(abi::SparseMmapCapability, vfio_region_info_cap_sparse_mmap, nr_areas);
SAME_SIZE(abi::SparseMmapArea, vfio_region_sparse_mmap_area);
SAME_PLACE(abi::SparseMmapArea, vfio_region_sparse_mmap_area, offset);
SAME_PLACE(abi::SparseMmapArea, vfio_region_sparse_mmap_area, size);
SAME_SIZE(abi::TypeCapability, vfio_region_info_cap_type);
SAME_PLACE(abi::TypeCapability, vfio_region_info_cap_type, type);
SAME_PLACE(abi::TypeCapability, vfio_region_info_cap_type, subtype);

SAME_SIZE(abi::IrqInfo, vfio_irq_info);
SAME_PLACE(abi::IrqInfo, vfio_irq_info, flags);
SAME_PLACE(abi::IrqInfo, vfio_irq_info, index);
SAME_PLACE(abi::IrqInfo, vfio_irq_info, count);
static_assert(abi::irq_flag::eventfd == VFIO_IRQ_INFO_EVENTFD && abi::irq_flag::maskable == VFIO_IRQ_INFO_MASKABLE &&
              abi::irq_flag::automasked == VFIO_IRQ_INFO_AUTOMASKED &&
              abi::irq_flag::noresize == VFIO_IRQ_INFO_NORESIZE);

static_assert(sizeof(abi::IrqSet) == offsetof(vfio_irq_set, data));
SAME_PLACE(abi::IrqSet, vfio_irq_set, flags);
SAME_PLACE(abi::IrqSet, vfio_irq_set, index);
SAME_PLACE(abi::IrqSet, vfio_irq_set, start);
SAME_PLACE(abi::IrqSet, vfio_irq_set, count);
static_assert(abi::irq_set_flag::data_bits == VFIO_IRQ_SET_DATA_TYPE_MASK &&
              abi::irq_set_flag::action_bits == VFIO_IRQ_SET_ACTION_TYPE_MASK &&
              abi::irq_set_flag::data_none == VFIO_IRQ_SET_DATA_NONE &&
              abi::irq_set_flag::data_eventfd == VFIO_IRQ_SET_DATA_EVENTFD &&
              abi::irq_set_flag::action_mask == VFIO_IRQ_SET_ACTION_MASK &&
              abi::irq_set_flag::action_unmask == VFIO_IRQ_SET_ACTION_UNMASK &&
              abi::irq_set_flag::action_trigger == VFIO_IRQ_SET_ACTION_TRIGGER);

static_assert(abi::dma_map_flag::read == VFIO_DMA_MAP_FLAG_READ && abi::dma_map_flag::write == VFIO_DMA_MAP_FLAG_WRITE);
static_assert(abi::dma_unmap_flag::get_dirty_bitmap == VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP &&
              abi::dma_unmap_flag::all == VFIO_DMA_UNMAP_FLAG_ALL);
SAME_SIZE(abi::DeviceFeature, vfio_device_feature);
SAME_PLACE(abi::DeviceFeature, vfio_device_feature, flags);
static_assert(abi::device_feature_flag::feature_mask == VFIO_DEVICE_FEATURE_MASK &&
              abi::device_feature_flag::get == VFIO_DEVICE_FEATURE_GET &&
              abi::device_feature_flag::set == VFIO_DEVICE_FEATURE_SET &&
              abi::device_feature_flag::probe == VFIO_DEVICE_FEATURE_PROBE);
static_assert(abi::pci_num_regions == VFIO_PCI_NUM_REGIONS && abi::pci_num_irqs == VFIO_PCI_NUM_IRQS);
