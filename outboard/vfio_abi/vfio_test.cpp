#include <gtest/gtest.h>
#include <linux/vfio.h>

#include <outboard/vfio_abi/vfio.hpp>

// Against the header of the machine that builds; a test of the guests compares with that of their kernel.

namespace outboard::vfio_abi {
namespace {

TEST(VfioAbi, StructuresHaveTheLayoutOfTheKernel) {
  EXPECT_EQ(offsetof(RegionInfo, cap_offset), offsetof(vfio_region_info, cap_offset));
  EXPECT_EQ(offsetof(RegionInfo, size), offsetof(vfio_region_info, size));
  EXPECT_EQ(offsetof(RegionInfo, offset), offsetof(vfio_region_info, offset));
  EXPECT_EQ(sizeof(RegionInfo), sizeof(vfio_region_info));
  EXPECT_EQ(sizeof(IrqInfo), sizeof(vfio_irq_info));
  EXPECT_EQ(offsetof(IrqInfo, count), offsetof(vfio_irq_info, count));
  EXPECT_EQ(sizeof(IrqSet), offsetof(vfio_irq_set, data));
  EXPECT_EQ(offsetof(IrqSet, start), offsetof(vfio_irq_set, start));
  EXPECT_EQ(offsetof(DeviceInfo, num_regions), offsetof(vfio_device_info, num_regions));
  EXPECT_EQ(offsetof(DeviceInfo, num_irqs), offsetof(vfio_device_info, num_irqs));
  EXPECT_EQ(sizeof(CapabilityHeader), sizeof(vfio_info_cap_header));
  EXPECT_EQ(sizeof(SparseMmapCapability), sizeof(vfio_region_info_cap_sparse_mmap));
  EXPECT_EQ(sizeof(SparseMmapArea), sizeof(vfio_region_sparse_mmap_area));
  EXPECT_EQ(sizeof(TypeCapability), sizeof(vfio_region_info_cap_type));
  EXPECT_EQ(sizeof(DeviceFeature), sizeof(vfio_device_feature));
}

TEST(VfioAbi, ConstantsAreThoseOfTheKernel) {
  EXPECT_EQ(device_flag::reset, VFIO_DEVICE_FLAGS_RESET);
  EXPECT_EQ(device_flag::pci, VFIO_DEVICE_FLAGS_PCI);
  EXPECT_EQ(region_flag::read, VFIO_REGION_INFO_FLAG_READ);
  EXPECT_EQ(region_flag::write, VFIO_REGION_INFO_FLAG_WRITE);
  EXPECT_EQ(region_flag::mmap, VFIO_REGION_INFO_FLAG_MMAP);
  EXPECT_EQ(region_flag::caps, VFIO_REGION_INFO_FLAG_CAPS);
  EXPECT_EQ(region_capability::sparse_mmap, VFIO_REGION_INFO_CAP_SPARSE_MMAP);
  EXPECT_EQ(region_capability::type, VFIO_REGION_INFO_CAP_TYPE);
  EXPECT_EQ(region_capability::msix_mappable, VFIO_REGION_INFO_CAP_MSIX_MAPPABLE);
  EXPECT_EQ(irq_flag::eventfd, VFIO_IRQ_INFO_EVENTFD);
  EXPECT_EQ(irq_flag::maskable, VFIO_IRQ_INFO_MASKABLE);
  EXPECT_EQ(irq_flag::automasked, VFIO_IRQ_INFO_AUTOMASKED);
  EXPECT_EQ(irq_flag::noresize, VFIO_IRQ_INFO_NORESIZE);
  EXPECT_EQ(irq_set_flag::data_bits, VFIO_IRQ_SET_DATA_TYPE_MASK);
  EXPECT_EQ(irq_set_flag::action_bits, VFIO_IRQ_SET_ACTION_TYPE_MASK);
  EXPECT_EQ(irq_set_flag::data_eventfd, VFIO_IRQ_SET_DATA_EVENTFD);
  EXPECT_EQ(irq_set_flag::action_trigger, VFIO_IRQ_SET_ACTION_TRIGGER);
  EXPECT_EQ(dma_map_flag::read, VFIO_DMA_MAP_FLAG_READ);
  EXPECT_EQ(dma_map_flag::write, VFIO_DMA_MAP_FLAG_WRITE);
  EXPECT_EQ(device_feature_flag::feature_mask, VFIO_DEVICE_FEATURE_MASK);
  EXPECT_EQ(device_feature_flag::probe, VFIO_DEVICE_FEATURE_PROBE);
  EXPECT_EQ(pci_num_regions, VFIO_PCI_NUM_REGIONS);
  EXPECT_EQ(pci_num_irqs, VFIO_PCI_NUM_IRQS);
}

}  // namespace
}  // namespace outboard::vfio_abi
