// The fake kernel is as strict as the real one: what the kernel refuses is refused here, with its errno.

#include <tests/support/fake_vfio.hpp>

#include <fcntl.h>
#include <sys/mman.h>

#include <cstring>

#include <gtest/gtest.h>

#include <outboard/pci/registers.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <tests/support/plain_function.hpp>

namespace outboard::testing {
namespace {

namespace abi = vfio_abi;
using abi::ContainerRequest;
using abi::DeviceRequest;
using abi::GroupRequest;
using abi::IommuRequest;
using vfio::ContainerFd;
using vfio::DeviceFd;
using vfio::GroupFd;
using vfio::IommuFd;

class FakeVfioTest : public ::testing::Test {
 protected:
  FakeVfioTest() {
    auto made = PlainFunction::create(loop);
    function = made->get();
    device = &kernel.add({.cdev = "vfio0"}, std::move(*made), [this] { loop.run_until_idle(); });
  }
  template <typename Fd>
  Fd node(const char* name) {
    return Fd{UniqueFd(kernel.open(kernel.node(name)))};
  }
  int join(const GroupFd& group, const ContainerFd& container) {
    std::int32_t fd = container.fd.get();
    return kernel.call(group, GroupRequest::set_container, &fd);
  }
  /// A device that is open by its group.
  struct Open {
    ContainerFd container;
    GroupFd group;
    DeviceFd file;
  };
  Open open() {
    Open open{node<ContainerFd>("vfio/vfio"), node<GroupFd>("vfio/7"), {}};
    EXPECT_EQ(join(open.group, open.container), 0);
    EXPECT_EQ(kernel.call(open.container, ContainerRequest::set_iommu, abi::iommu_type::type1v2), 0);
    open.file.fd.reset(kernel.call(open.group, GroupRequest::get_device_fd, "0000:00:04.0"));
    EXPECT_TRUE(open.file.fd);
    return open;
  }
  int set_irqs(const DeviceFd& file, std::uint32_t flags, std::uint32_t index, std::uint32_t start, std::uint32_t count,
               const std::vector<std::int32_t>& fds = {}) {
    std::vector<std::byte> call(sizeof(abi::IrqSet) + 4 * fds.size());
    const abi::IrqSet set{static_cast<std::uint32_t>(call.size()), flags, index, start, count};
    std::memcpy(call.data(), &set, sizeof set);
    if (!fds.empty()) std::memcpy(call.data() + sizeof set, fds.data(), 4 * fds.size());
    return kernel.call(file, DeviceRequest::set_irqs, call.data());
  }

  static constexpr std::uint32_t none = 1, eventfd = 4, mask = 8, unmask = 16, trigger = 32;
  FakeVfio kernel;
  ManualLoop loop;
  PlainFunction* function = nullptr;
  FakeVfioDevice* device = nullptr;
};

TEST_F(FakeVfioTest, TheOrderOfTheGroupsDoorIsKept) {
  const auto container = node<ContainerFd>("vfio/vfio");
  EXPECT_EQ(kernel.call(container, ContainerRequest::set_iommu, abi::iommu_type::type1v2), -EINVAL)
      << "without a group";
  abi::Type1Info info{.argsz = sizeof info};
  EXPECT_EQ(kernel.call(container, ContainerRequest::iommu_get_info, &info), -EINVAL);
  const auto group = node<GroupFd>("vfio/7");
  EXPECT_EQ(kernel.open(kernel.node("vfio/7")), -EBUSY) << "a group is opened once";
  EXPECT_EQ(kernel.call(group, GroupRequest::get_device_fd, "0000:00:04.0"), -EINVAL);
  std::int32_t wrong = 0;
  EXPECT_EQ(kernel.call(group, GroupRequest::set_container, &wrong), -EBADF);
  EXPECT_EQ(join(group, container), 0);
  EXPECT_EQ(join(group, container), -EINVAL) << "once";
  EXPECT_EQ(kernel.call(container, ContainerRequest::set_iommu, abi::iommu_type::type1v2), 0);
  EXPECT_EQ(kernel.call(container, ContainerRequest::set_iommu, abi::iommu_type::type1v2), -EINVAL) << "once";
  EXPECT_EQ(kernel.call(group, GroupRequest::get_device_fd, "0000:00:05.0"), -ENODEV);
}

TEST_F(FakeVfioTest, ANumberMeansAnotherCallOnEachKindOfFile) {
  const Open all = open();
  abi::Type1DmaMap map{.argsz = sizeof map};
  EXPECT_EQ(kernel.ioctl(all.file.fd.get(), static_cast<unsigned long>(ContainerRequest::iommu_map_dma),
                         reinterpret_cast<std::uintptr_t>(&map)),
            -ENOTTY)
      << "on a device it is a hot reset";
  EXPECT_EQ(kernel.ioctl(all.group.fd.get(), static_cast<unsigned long>(DeviceRequest::reset), 0), -ENOTTY);
}

TEST_F(FakeVfioTest, ShortStructuresAreRefusedAndLongerAnswersAnnounced) {
  const Open all = open();
  abi::DeviceInfo device_info{.argsz = 12};
  EXPECT_EQ(kernel.call(all.file, DeviceRequest::get_info, &device_info), -EINVAL);
  abi::RegionInfo region{.argsz = 24};
  EXPECT_EQ(kernel.call(all.file, DeviceRequest::get_region_info, &region), -EINVAL);
  region.argsz = sizeof region;
  EXPECT_EQ(kernel.call(all.file, DeviceRequest::get_region_info, &region), 0);
  EXPECT_GT(region.argsz, sizeof region);
  EXPECT_EQ(region.cap_offset, 0U);
  EXPECT_NE(region.flags & abi::region_flag::caps, 0U);
  abi::IrqInfo irq{.argsz = 12};
  EXPECT_EQ(kernel.call(all.file, DeviceRequest::get_irq_info, &irq), -EINVAL);
}

TEST_F(FakeVfioTest, InterruptsAreCheckedAsTheKernelDoes) {
  const Open all = open();
  EXPECT_EQ(set_irqs(all.file, none | trigger, 2, 0, 0), -EINVAL) << "nothing is enabled";
  EXPECT_EQ(set_irqs(all.file, none | eventfd | trigger, 2, 0, 1, {-1}), -EINVAL) << "two kinds of data";
  EXPECT_EQ(set_irqs(all.file, none | mask | unmask, 0, 0, 1), -ENOTTY) << "two actions";
  EXPECT_EQ(set_irqs(all.file, eventfd | trigger, 2, 4, 1, {-1}), -EINVAL) << "beyond the count";
  EXPECT_EQ(set_irqs(all.file, eventfd | trigger, 2, 0, 2, {-1}), -EINVAL) << "data for one of two";
  EXPECT_EQ(set_irqs(all.file, eventfd | trigger, 2, 0, 1, {1000}), -EBADF);
  EXPECT_EQ(set_irqs(all.file, none | unmask, 0, 0, 1), -EINVAL) << "INTx is not enabled";
  const auto line = EventFd::create();
  EXPECT_EQ(set_irqs(all.file, eventfd | trigger, 1, 0, 1, {line->get()}), 0);
  EXPECT_EQ(set_irqs(all.file, eventfd | trigger, 2, 0, 1, {line->get()}), -EINVAL) << "one mode at a time";
  EXPECT_EQ(set_irqs(all.file, eventfd | trigger, 1, 1, 1, {line->get()}), -EINVAL) << "MSI does not grow";
  EXPECT_EQ(set_irqs(all.file, none | mask, 1, 0, 1), -ENOTTY);
  EXPECT_EQ(set_irqs(all.file, none | trigger, 1, 0, 0), 0);
  EXPECT_EQ(set_irqs(all.file, none | trigger, 1, 0, 0), -EINVAL) << "once";
  EXPECT_EQ(set_irqs(all.file, none | trigger, 4, 0, 0), -EINVAL) << "the request was not armed";
}

TEST_F(FakeVfioTest, AnMsiVectorWithoutAnEventfdIsAViolation) {
  const Open all = open();
  const auto line = EventFd::create();
  EXPECT_EQ(set_irqs(all.file, eventfd | trigger, 1, 0, 2, {line->get(), -1}), 0);
  ASSERT_EQ(kernel.violations().size(), 1U);
}

TEST_F(FakeVfioTest, AMappedBarKeepsTheDeviceOpenAndFaultsWithoutDecoding) {
  Open all = open();
  abi::RegionInfo region{.argsz = sizeof region};
  ASSERT_EQ(kernel.call(all.file, DeviceRequest::get_region_info, &region), 0);
  void* const at = kernel.map(all.file.fd.get(), 4096, PROT_READ, region.offset + PlainFunction::area_at, nullptr);
  ASSERT_NE(at, nullptr);
  EXPECT_EQ(kernel.map(all.file.fd.get(), 4096, PROT_READ, region.offset, nullptr), nullptr) << "not an area";
  abi::RegionInfo config{.argsz = sizeof config, .index = 7};
  ASSERT_EQ(kernel.call(all.file, DeviceRequest::get_region_info, &config), 0);
  const le16 off = 0;
  EXPECT_EQ(kernel.pwrite(all.file.fd.get(), as_bytes_of(off), config.offset + 4), 2);
  EXPECT_EQ(kernel.violations().size(), 1U);
  le32 id = 0;
  EXPECT_EQ(kernel.pread(all.file.fd.get(), as_writable_bytes_of(id), region.offset), -EIO);
  all = {};
  EXPECT_TRUE(kernel.in_use({0, 0, 4, 0}));
  EXPECT_EQ(kernel.open(kernel.node("vfio/7")), -EBUSY);
  kernel.unmap(at, 4096);
  EXPECT_FALSE(kernel.in_use({0, 0, 4, 0}));
}

TEST_F(FakeVfioTest, TheDoorsExcludeEachOther) {
  const auto iommufd = node<IommuFd>("iommu");
  const auto first = node<DeviceFd>("vfio/devices/vfio0"), second = node<DeviceFd>("vfio/devices/vfio0");
  abi::BindIommufd bind{.argsz = 16, .iommufd = iommufd.fd.get()};
  EXPECT_EQ(kernel.call(first, DeviceRequest::reset, std::uintptr_t{0}), -EINVAL) << "not before it is bound";
  {
    const auto group = node<GroupFd>("vfio/7");
    EXPECT_EQ(kernel.call(first, DeviceRequest::bind_iommufd, &bind), -EBUSY);
  }
  EXPECT_EQ(kernel.call(first, DeviceRequest::bind_iommufd, &bind), 0);
  EXPECT_EQ(kernel.call(first, DeviceRequest::bind_iommufd, &bind), -EINVAL);
  EXPECT_EQ(kernel.call(second, DeviceRequest::bind_iommufd, &bind), -EINVAL);
  EXPECT_EQ(kernel.open(kernel.node("vfio/7")), -EBUSY);
}

TEST_F(FakeVfioTest, RangesAreTrueOnlyAfterAttaching) {
  const auto iommufd = node<IommuFd>("iommu");
  const auto file = node<DeviceFd>("vfio/devices/vfio0");
  abi::BindIommufd bind{.argsz = 16, .iommufd = iommufd.fd.get()};
  ASSERT_EQ(kernel.call(file, DeviceRequest::bind_iommufd, &bind), 0);
  abi::IoasAlloc alloc{.size = sizeof alloc};
  ASSERT_EQ(kernel.call(iommufd, IommuRequest::ioas_alloc, &alloc), 0);
  abi::IovaBounds bounds[4];
  abi::IoasIovaRanges ranges{.size = sizeof ranges,
                             .ioas_id = alloc.out_ioas_id,
                             .num_iovas = 4,
                             .allowed_iovas = reinterpret_cast<std::uintptr_t>(bounds)};
  ASSERT_EQ(kernel.call(iommufd, IommuRequest::ioas_iova_ranges, &ranges), 0);
  EXPECT_EQ(bounds[0].end, UINT64_MAX);
  abi::AttachIommufdPt attach{.argsz = sizeof attach, .pt_id = 99};
  EXPECT_EQ(kernel.call(file, DeviceRequest::attach_iommufd_pt, &attach), -ENOENT);
  attach.pt_id = alloc.out_ioas_id;
  ASSERT_EQ(kernel.call(file, DeviceRequest::attach_iommufd_pt, &attach), 0);
  ranges.num_iovas = 1;
  EXPECT_EQ(kernel.call(iommufd, IommuRequest::ioas_iova_ranges, &ranges), -EMSGSIZE);
  EXPECT_EQ(ranges.num_iovas, 2U);
  EXPECT_EQ(kernel.call(iommufd, IommuRequest::ioas_iova_ranges, &ranges), 0);
  EXPECT_EQ(bounds[0].end, 0xfedfffffU);
  abi::IommuDestroy destroy{.size = sizeof destroy, .id = alloc.out_ioas_id};
  EXPECT_EQ(kernel.call(iommufd, IommuRequest::destroy, &destroy), -EBUSY);
}

/// The rules of VFIO_IOMMU_MAP_DMA (type 1) and IOMMU_IOAS_MAP (iommufd), which differ.
class FakeAddressSpaceTest : public ::testing::TestWithParam<FakeAddressSpace::Kind> {
 protected:
  int map(std::uint64_t iova, std::uint64_t size, memory::Access access = memory::Access::read_write) {
    return space.map({memory::Iova{iova}, size}, reinterpret_cast<std::uintptr_t>(pages), access);
  }
  int unmap(std::uint64_t iova, std::uint64_t size) { return space.unmap({memory::Iova{iova}, size}, unmapped); }
  bool type1() const { return GetParam() == FakeAddressSpace::Kind::type1v2; }

  FakeAddressSpace::Limits limits;
  FakeAddressSpace space{GetParam(), limits};
  alignas(4096) std::byte pages[8 * 4096];
  std::uint64_t unmapped = 77;
};

INSTANTIATE_TEST_SUITE_P(Kinds, FakeAddressSpaceTest,
                         ::testing::Values(FakeAddressSpace::Kind::type1v2, FakeAddressSpace::Kind::ioas));

TEST_P(FakeAddressSpaceTest, MapsAreChecked) {
  EXPECT_EQ(map(0x10800, 4096), -EINVAL);
  EXPECT_EQ(map(0x10000, 100), -EINVAL);
  EXPECT_EQ(map(0x10000, 4096, static_cast<memory::Access>(0)), -EINVAL);
  EXPECT_EQ(map(0xfee00000, 4096), -EINVAL);
  EXPECT_EQ(map(UINT64_MAX - 4095, 8192), -EOVERFLOW);
  EXPECT_EQ(map(0x10000, 8192), 0);
  EXPECT_EQ(map(0x11000, 8192), -EEXIST);
  EXPECT_EQ(map(0x10000, 8192), -EEXIST) << "nor is the same again fine";
}

TEST_P(FakeAddressSpaceTest, UnmapsAreOfWholeMappings) {
  EXPECT_EQ(map(0x10000, 8192), 0);
  EXPECT_EQ(map(0x12000, 4096), 0);
  EXPECT_EQ(unmap(0x10000, 4096), type1() ? -EINVAL : -ENOENT);
  EXPECT_EQ(unmap(0x10000, 0), -EINVAL);
  EXPECT_EQ(unmap(0x40000, 4096), type1() ? 0 : -ENOENT);
  EXPECT_EQ(unmap(0x10000, 0x4000), 0);
  EXPECT_EQ(unmapped, 3U * 4096);
}

}  // namespace
}  // namespace outboard::testing
