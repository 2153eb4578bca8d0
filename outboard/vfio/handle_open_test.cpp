// Opening a function: both interfaces, and each thing that can be in the way (docs/spec-map.md, VFIO-1 to VFIO-13).

#include <tests/support/vfio_handle_fixture.hpp>

#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

namespace outboard::vfio {
namespace {

namespace abi = vfio_abi;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::PlainFunction;

class Open : public testing::VfioHandleTest {
 protected:
  /// The unsigned long of a request, for FakeVfio::failures.
  template <typename Request>
  std::vector<int>& failures_of(Request request) {
    return kernel_.failures[static_cast<unsigned long>(request)];
  }
};

/// The same over both interfaces.
class EitherInterface : public Open, public ::testing::WithParamInterface<Interface> {
 protected:
  EitherInterface() { add({.cdev = "vfio0"}); }
};

INSTANTIATE_TEST_SUITE_P(Vfio, EitherInterface, ::testing::Values(Interface::group, Interface::cdev),
                         [](const auto& param) { return param.param == Interface::group ? "Group" : "Cdev"; });

TEST_P(EitherInterface, AFunctionIsDriven) {
  open(GetParam());
  EXPECT_EQ(handle_->interface(), GetParam());
  EXPECT_EQ(handle_->name(), name);
  EXPECT_EQ(handle_->identity()->vendor, 0x1234);
  EXPECT_EQ(get(PlainFunction::id_at), PlainFunction::id_value) << "memory is decoded after open";
  EXPECT_EQ(*handle_->msix_vector_count(), 4u);
  EXPECT_EQ(handle_->interrupts(pci::InterruptKind::request)->count, 1u);
}

TEST_P(EitherInterface, ClosingGivesItBackAndTheNextUserFindsItReset) {
  open(GetParam());
  put(PlainFunction::scratch_at, 5);
  ASSERT_TRUE(handle_->enable_bus_master());
  const auto window = bar().window(PlainFunction::area_at, 4096);
  ASSERT_TRUE(window);
  handle_.reset();
  EXPECT_FALSE(kernel_.in_use(address)) << "nothing of it is mapped any more";
  EXPECT_FALSE(function_->bus_master());
  open(GetParam());
  EXPECT_EQ(get(PlainFunction::scratch_at), 0u);
}

TEST_P(EitherInterface, WhatIsOpenedOnTheWayIsClosedWhenItFails) {
  device_->failures[abi::DeviceRequest::get_info] = {EIO};
  EXPECT_EQ(refusal(GetParam()).code(), EIO);
  EXPECT_FALSE(kernel_.in_use(address));
  open(GetParam());
}

TEST_P(EitherInterface, OneOfTwoWhoWantItGetsIt) {
  open(GetParam());
  for (const Interface interface : {Interface::group, Interface::cdev}) {
    const Error error = refusal(interface);
    EXPECT_EQ(error.code(), EBUSY) << error.message();
  }
  EXPECT_EQ(get(PlainFunction::id_at), PlainFunction::id_value);
}

TEST_F(Open, VFIO1_AnotherDriverIsNamed) {
  add();
  kernel_.tree.bind(address.text(), "nvme");
  const Error error = refusal();
  EXPECT_EQ(error.code(), EBUSY);
  EXPECT_EQ(error.subject(), name);
  EXPECT_EQ(error.what(), "the device is bound to 'nvme', not to vfio-pci");
  EXPECT_EQ(error.cure(), "to hand it over: outboard pci bind 0000:00:04.0");
}

TEST_F(Open, VFIO1_ADeviceWithoutADriverIsToBeBound) {
  add();
  kernel_.tree.bind(address.text(), "");
  EXPECT_EQ(refusal().code(), ENODEV);
  EXPECT_THAT(all_of(refusal()), HasSubstr("outboard pci bind 0000:00:04.0"));
}

TEST_F(Open, AFunctionThatIsNotThereIsNamed) {
  const Error error = refusal();
  EXPECT_EQ(error.code(), ENODEV);
  EXPECT_THAT(all_of(error), HasSubstr("no such PCI function"));
}

TEST_F(Open, VFIO2_AGroupThatIsNotViableListsTheCulprits) {
  add();
  kernel_.tree.add({.address = "0000:00:04.1", .driver = "e1000e", .group = 7});
  kernel_.tree.add({.address = "0000:00:04.2", .driver = "vfio-pci", .group = 7});
  kernel_.tree.add({.address = "0000:00:04.3", .driver = "", .group = 7});
  const Error error = refusal();
  EXPECT_EQ(error.code(), EPERM);
  EXPECT_THAT(error.what(), AllOf(HasSubstr("group 7"), HasSubstr("0000:00:04.1 is driven by 'e1000e'")));
  EXPECT_THAT(error.what(), ::testing::Not(HasSubstr("04.2")));
  EXPECT_EQ(error.cure(), "outboard pci bind 0000:00:04.1");
}

TEST_F(Open, VFIO3_ANodeThatMayNotBeOpenedIsNamedWithItsOwner) {
  add();
  const std::string node = kernel_.node("vfio/7");
  kernel_.open_failures[node] = EACCES;
  const Error error = refusal();
  EXPECT_EQ(error.code(), EACCES);
  EXPECT_THAT(error.what(), AllOf(HasSubstr(node), HasSubstr("user " + std::to_string(::getuid())), HasSubstr("0600")));
  EXPECT_THAT(error.cure(), HasSubstr("udev rule"));
}

TEST_F(Open, VFIO4_ANodeInUseNamesItsHolder) {
  add();
  const std::string node = kernel_.node("vfio/7");
  kernel_.open_failures[node] = EBUSY;
  EXPECT_THAT(refusal().what(), HasSubstr("another process has it open"));
  std::filesystem::create_directories(kernel_.node("proc/4711/fd"));
  std::filesystem::create_symlink(node, kernel_.node("proc/4711/fd/3"));
  std::ofstream(kernel_.node("proc/4711/comm")) << "qemu\n";
  EXPECT_THAT(refusal().what(), HasSubstr("process 4711 (qemu)"));
  EXPECT_EQ(refusal().code(), EBUSY);
  EXPECT_EQ(kernel_.paused, Duration{0}) << "and nobody waits for it";
}

TEST_F(Open, VFIO5_AMissingModuleIsNamed) {
  add();
  kernel_.type1_loaded = false;
  EXPECT_THAT(all_of(refusal()), HasSubstr("modprobe vfio_iommu_type1"));
  kernel_.type1_loaded = true;
  failures_of(abi::ContainerRequest::set_iommu) = {ENODEV};
  EXPECT_THAT(all_of(refusal()), HasSubstr("modprobe vfio_iommu_type1"));
  kernel_.open_failures[kernel_.node("vfio/vfio")] = ENOENT;
  EXPECT_THAT(all_of(refusal()), HasSubstr("modprobe vfio-pci"));
}

TEST_F(Open, VFIO6_WithoutInterruptRemappingParameterAndRiskAreNamed) {
  add();
  kernel_.interrupts_remapped = false;
  const Error error = refusal();
  EXPECT_EQ(error.code(), EPERM);
  EXPECT_THAT(all_of(error), AllOf(HasSubstr("forge"), HasSubstr("allow_unsafe_interrupts"), HasSubstr("risk")));
}

TEST_F(Open, VFIO7_WithoutAnIommuItFails) {
  add();
  kernel_.tree.remove("bus/pci/devices/0000:00:04.0/iommu_group");
  const Error error = refusal();
  EXPECT_EQ(error.code(), ENODEV);
  EXPECT_THAT(all_of(error), AllOf(HasSubstr("intel_iommu=on"), HasSubstr("interface=no-iommu")));
}

TEST_F(Open, VFIO7_WithoutAnIommuOnlyWhoAsksForItByNameIsLetIn) {
  kernel_.no_iommu_mode = true;
  add();
  EXPECT_EQ(refusal().code(), ENODEV);
  EXPECT_EQ(refusal(Interface::group).code(), ENODEV);
  open(Interface::no_iommu);
  EXPECT_EQ(handle_->interface(), Interface::no_iommu);
  EXPECT_TRUE(logged("without an IOMMU"));
  EXPECT_EQ(get(PlainFunction::id_at), PlainFunction::id_value);
  const auto buffer = handle_->dma().allocate(4096);
  ASSERT_FALSE(buffer);
  EXPECT_EQ(buffer.error().code(), ENOTSUP) << "it would take physical addresses";
}

TEST_F(Open, VFIO7_NoIommuIsRefusedWhereThereIsOne) {
  add();
  EXPECT_EQ(refusal(Interface::no_iommu).code(), EINVAL);
}

TEST_F(Open, VFIO8_WithoutIommufdItGoesByTheGroupAndSaysSo) {
  add();
  open();
  EXPECT_EQ(handle_->interface(), Interface::group);
  EXPECT_EQ(handle_->node(), kernel_.node("vfio/7"));
  EXPECT_TRUE(logged("opened by " + handle_->node()));
  handle_.reset();
  EXPECT_EQ(refusal(Interface::cdev).code(), ENOENT);
}

TEST_F(Open, WhereTheKernelHasBothTheNodeOfTheDeviceIsPreferred) {
  add({.cdev = "vfio0"});
  open();
  EXPECT_EQ(handle_->interface(), Interface::cdev);
}

TEST_F(Open, VFIO9_ABusyDeviceIsTriedAgainForAtMostASecond) {
  add();
  failures_of(abi::GroupRequest::get_device_fd) = {EAGAIN, EAGAIN};
  open();
  EXPECT_GT(kernel_.paused, Duration{0});
  handle_.reset();
  kernel_.paused = Duration{0};
  failures_of(abi::GroupRequest::get_device_fd).assign(100, EAGAIN);
  EXPECT_EQ(refusal().code(), EAGAIN);
  EXPECT_GE(kernel_.paused, std::chrono::seconds(1));
  EXPECT_LE(kernel_.paused, std::chrono::seconds(3));
  failures_of(abi::GroupRequest::get_device_fd).clear();
}

TEST_F(Open, VFIO10_AVirtualFunctionNeedsItsToken) {
  const std::string token = "12345678-1234-1234-1234-123456789abc";
  add({.cdev = "vfio0", .vf_token = token});
  for (const Interface interface : {Interface::group, Interface::cdev}) {
    const Error error = refusal(interface);
    EXPECT_EQ(error.code(), EACCES);
    EXPECT_THAT(all_of(error), HasSubstr("vf-token=UUID"));
    auto options = kernel_.options();
    options.interface.interface = interface;
    options.interface.vf_token = token;
    EXPECT_TRUE(Handle::open(address, options));
  }
  auto options = kernel_.options();
  options.interface = {.interface = Interface::cdev, .vf_token = "no-uuid", .nodes = options.interface.nodes};
  EXPECT_EQ(Handle::open(address, options).error().code(), EINVAL);
}

TEST_F(Open, ANodeThatIsRefusedWithATokenIsInUseOrTakesNone) {
  add({.cdev = "vfio0"});
  failures_of(abi::DeviceRequest::bind_iommufd) = {EINVAL};
  auto options = kernel_.options();
  options.interface.interface = Interface::cdev;
  options.interface.vf_token = "12345678-1234-1234-1234-123456789abc";
  const auto opened = Handle::open(address, options);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code(), EINVAL);
  EXPECT_THAT(opened.error().what(), AllOf(HasSubstr("is in use"), HasSubstr("takes no token")));
  EXPECT_THAT(opened.error().cure(), HasSubstr("interface=group"));
}

TEST_F(Open, VFIO11_LargerStructuresAreAskedForAgainAndTheirTailIgnored) {
  add({}, {.msix_vectors = 4});
  device_->change_region_info = [](unsigned, std::vector<std::byte>& answer) { answer.resize(answer.size() + 640); };
  kernel_.change_iommu_info = [](std::vector<std::byte>& answer) { answer.resize(answer.size() + 8000); };
  open();
  EXPECT_TRUE(bar().window(PlainFunction::area_at, 4096)) << "what was known is found";
}

TEST_F(Open, VFIO12_AChainThatLoopsIsLeftAndTheRestKept) {
  add();
  device_->change_region_info = [](unsigned index, std::vector<std::byte>& answer) {
    if (index != 0) return;
    const std::uint32_t next = sizeof(abi::RegionInfo);  // the first one is followed by itself
    std::memcpy(answer.data() + sizeof(abi::RegionInfo) + 4, &next, sizeof next);
  };
  open();
  EXPECT_TRUE(logged("leads nowhere"));
  EXPECT_EQ(get(PlainFunction::id_at), PlainFunction::id_value);
}

TEST_F(Open, VFIO12_AChainThatPointsOutsideOrBetweenIsLeft) {
  add();
  for (const std::uint32_t first : {4U, 34U, 4096U, UINT32_MAX - 7}) {
    log_.clear();
    device_->change_region_info = [first](unsigned index, std::vector<std::byte>& answer) {
      if (index == 0) std::memcpy(answer.data() + offsetof(abi::RegionInfo, cap_offset), &first, sizeof first);
    };
    open();
    EXPECT_TRUE(logged("leads nowhere")) << first;
    handle_.reset();
  }
}

TEST_F(Open, VFIO12_SparseAreasThatCannotBeAreLeftOut) {
  add();
  device_->change_region_info = [](unsigned index, std::vector<std::byte>& answer) {
    if (index != 0) return;
    const std::size_t capability = sizeof(abi::RegionInfo) + 8;
    const std::uint32_t count = 1U << 30;
    std::memcpy(answer.data() + capability + 8, &count, sizeof count);
    const abi::SparseMmapArea area{.offset = UINT64_MAX - 4095, .size = 8192};
    std::memcpy(answer.data() + capability + 16, &area, sizeof area);
  };
  open();
  EXPECT_TRUE(handle_->region(0)->areas.empty());
}

TEST_F(Open, VFIO12_AnIommuWhoseChainIsBrokenIsRefused) {
  add();
  kernel_.change_iommu_info = [](std::vector<std::byte>& answer) {
    const std::uint32_t next = 24;
    std::memcpy(answer.data() + 24 + 4, &next, sizeof next);
  };
  EXPECT_EQ(refusal().code(), EPROTO);
}

TEST_F(Open, AKernelThatDoesNotPadItsCapabilitiesIsUnderstood) {
  add();
  kernel_.pads_capabilities = false;
  kernel_.limits.ranges = {{memory::Iova{0x40000000}, 0x1000000}};
  open(Interface::group);
  EXPECT_EQ(handle_->dma().limits().valid, kernel_.limits.ranges);
}

TEST_F(Open, VFIO13_WhatIsNotKnownIsIgnored) {
  add();  // the fake has regions, interrupts and capabilities that nobody knows
  open();
  EXPECT_EQ(handle_->region(pci::region::vga)->size, 0u);
  EXPECT_EQ(handle_->region(pci::region::count).error().code(), EINVAL);
}

TEST_F(Open, AWrongVersionOfTheInterfaceIsRefused) {
  add();
  kernel_.failures[static_cast<unsigned long>(abi::ContainerRequest::get_api_version)] = {-1};
  EXPECT_EQ(refusal().code(), EPROTO);
}

TEST_F(Open, VFIO17_AFunctionThatReadsAsAllOnesIsNotThere) {
  add();
  device_->dead = true;
  EXPECT_EQ(refusal().code(), ENODEV);
}

}  // namespace
}  // namespace outboard::vfio
