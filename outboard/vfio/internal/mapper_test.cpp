// Memory for DMA through both kinds of IOMMU (docs/spec-map.md, VFIO-25 to VFIO-31).

#include <outboard/vfio/internal/mapper.hpp>

#include <fcntl.h>
#include <sys/mman.h>

#include <outboard/pci/registers.hpp>
#include <tests/support/vfio_handle_fixture.hpp>

namespace outboard::vfio {
namespace {

namespace abi = vfio_abi;
using memory::Access;
using memory::Iova;
using memory::IovaRange;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::PlainFunction;

constexpr std::uint64_t page = 4096;

class Dma : public testing::VfioHandleTest, public ::testing::WithParamInterface<Interface> {
 protected:
  Dma() { add({.cdev = "vfio0"}); }
  void SetUp() override { memory_ = {static_cast<std::byte*>(map_pages(PROT_READ | PROT_WRITE)), 16 * page}; }
  void TearDown() override {
    testing::VfioHandleTest::TearDown();
    ::munmap(memory_.data(), memory_.size());
  }
  static void* map_pages(int protection) {
    return ::mmap(nullptr, 16 * page, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  void start() {
    open(GetParam());
    ASSERT_TRUE(handle_->enable_bus_master());
  }
  memory::DmaMapper& mapper() { return handle_->dma_mapper(); }
  Status map(std::uint64_t iova, std::uint64_t size = page, Access access = Access::read_write) {
    return mapper().map({Iova{iova}, size}, memory_.first(std::min<std::uint64_t>(size, memory_.size())), access,
                        nullptr, 0);
  }
  Status unmap(std::uint64_t iova, std::uint64_t size = page) { return mapper().unmap({Iova{iova}, size}); }
  std::uint32_t device_reads(std::uint64_t iova) {
    EXPECT_TRUE(bar().write<std::uint64_t>(PlainFunction::dma_address_at, iova));
    put(PlainFunction::dma_length_at, 64);
    put(PlainFunction::dma_command_at, PlainFunction::dma_from_memory);
    return get(PlainFunction::dma_status_at);
  }

  MutableBytes memory_;
};

INSTANTIATE_TEST_SUITE_P(Vfio, Dma, ::testing::Values(Interface::group, Interface::cdev),
                         [](const auto& param) { return param.param == Interface::group ? "Type1" : "Iommufd"; });

TEST_P(Dma, ABufferIsReachedByTheDeviceAndNothingElse) {
  start();
  auto buffer = handle_->dma().allocate(4096, {.alignment = 4096});
  ASSERT_TRUE(buffer) << buffer.error().message();
  EXPECT_EQ(raw(buffer->iova()) % 4096, 0U);
  EXPECT_EQ(device_reads(raw(buffer->iova())), PlainFunction::dma_done);
  EXPECT_EQ(device_reads(0), PlainFunction::dma_failed + EFAULT);
}

TEST_P(Dma, AddressesComeFromTheRangesThatAreTrueAfterAttaching) {
  kernel_.limits.ranges = {{Iova{0}, 0x10000}, {Iova{0x40000000}, 0x1000000}};
  start();
  const auto limits = handle_->dma().limits();
  ASSERT_EQ(limits.valid.size(), 2U);
  EXPECT_EQ(limits.valid[0], (IovaRange{Iova{page}, 0x10000 - page})) << "never the first page";
  const auto buffer = handle_->dma().allocate(1 << 20);
  ASSERT_TRUE(buffer);
  EXPECT_TRUE((IovaRange{Iova{0x40000000}, 0x1000000}).contains(buffer->range()));
}

TEST_P(Dma, VFIO29_AnAddressOutsideTheRangesIsRefusedWithThem) {
  start();
  for (const std::uint64_t iova : {UINT64_C(0xfee00000), UINT64_C(1) << 60, UINT64_C(0)}) {
    const Status mapped = map(iova);
    ASSERT_FALSE(mapped) << iova;
    EXPECT_EQ(mapped.error().code(), EINVAL);
    EXPECT_THAT(mapped.error().what(), HasSubstr("[0x1000, 0xfedfffff]"));
  }
  EXPECT_EQ(map(0xfedff000, 2 * page).error().code(), EINVAL) << "nor one that straddles their end";
}

TEST_P(Dma, OnlyWholePagesAreMapped) {
  start();
  EXPECT_EQ(map(0x10800).error().code(), EINVAL);
  EXPECT_EQ(map(0x10000, 100).error().code(), EINVAL);
  EXPECT_EQ(map(0x10000, 0).error().code(), EINVAL);
  EXPECT_EQ(mapper().map({Iova{0x10000}, page}, memory_.subspan(8, page), Access::read, nullptr, 0).error().code(),
            EINVAL);
  EXPECT_EQ(mapper().map({Iova{UINT64_MAX - 100}, page}, memory_.first(page), Access::read, nullptr, 0).error().code(),
            EINVAL);
}

TEST_P(Dma, VFIO27_AnOverlapIsAnErrorWithBothRanges) {
  start();
  ASSERT_TRUE(map(0x10000, 4 * page));
  const Status again = map(0x12000, 4 * page);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code(), EEXIST);
  EXPECT_THAT(again.error().what(), AllOf(HasSubstr("[0x12000, 0x15fff]"), HasSubstr("[0x10000, 0x13fff]")));
  EXPECT_EQ(device_reads(0x10000), PlainFunction::dma_done) << "the old one stays";
}

TEST_P(Dma, VFIO25_TheLimitOfLockedMemoryIsReportedWithWhatIsNeeded) {
  kernel_.limits.lockable = 8 * page;
  start();
  ASSERT_TRUE(map(0x10000, 4 * page));
  const Status more = map(0x100000, 8 * page);
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code(), ENOMEM);
  EXPECT_THAT(more.error().what(),
              AllOf(HasSubstr("is 32768 bytes"), HasSubstr("49152 are needed for this device alone")));
  EXPECT_THAT(more.error().cure(), AllOf(HasSubstr("ulimit -l 48"), HasSubstr("LimitMEMLOCK")));
  EXPECT_TRUE(map(0x100000, 4 * page)) << "nothing of it was kept";
  EXPECT_EQ(handle_->dma().allocate(4096).error().code(), ENOMEM);
}

TEST_P(Dma, VFIO26_NoMappingsLeftIsReported) {
  kernel_.limits.max_mappings = 2;
  start();
  ASSERT_TRUE(map(0x10000));
  ASSERT_TRUE(map(0x20000));
  const Status third = map(0x30000);
  ASSERT_FALSE(third);
  if (GetParam() == Interface::cdev) return;  // an iommufd has no such limit
  EXPECT_EQ(third.error().code(), ENOSPC);
  EXPECT_THAT(third.error().cure(), HasSubstr("dma_entry_limit"));
}

TEST_P(Dma, VFIO28_MemoryThatCannotBePinnedIsNamed) {
  start();
  void* const read_only = map_pages(PROT_READ);
  const MutableBytes bytes(static_cast<std::byte*>(read_only), page);
  const Status mapped = mapper().map({Iova{0x10000}, page}, bytes, Access::read_write, nullptr, 0);
  ASSERT_FALSE(mapped);
  EXPECT_EQ(mapped.error().code(), EFAULT);
  EXPECT_THAT(mapped.error().what(), HasSubstr("read-only"));
  EXPECT_TRUE(mapper().map({Iova{0x10000}, page}, bytes, Access::read, nullptr, 0));
  EXPECT_TRUE(unmap(0x10000));
  ::munmap(read_only, 16 * page);
  EXPECT_EQ(mapper().map({Iova{0x10000}, page}, bytes, Access::read, nullptr, 0).error().code(), EFAULT);
}

TEST_P(Dma, WhatIsUnmappedIsOutOfReach) {
  start();
  ASSERT_TRUE(map(0x10000, 2 * page));
  EXPECT_EQ(unmap(0x10000).error().code(), ENOENT) << "a part";
  EXPECT_EQ(unmap(0x11000).error().code(), ENOENT);
  EXPECT_TRUE(unmap(0x10000, 2 * page));
  EXPECT_EQ(unmap(0x10000, 2 * page).error().code(), ENOENT);
  EXPECT_EQ(device_reads(0x10000), PlainFunction::dma_failed + EFAULT);
  EXPECT_TRUE(map(0x10000));
}

TEST_P(Dma, VFIO30_AnUnmapThatFailsQuarantinesTheAddressesAndEndsDma) {
  start();
  ASSERT_TRUE(map(0x10000));
  const auto number = GetParam() == Interface::group
                          ? static_cast<unsigned long>(abi::ContainerRequest::iommu_unmap_dma)
                          : static_cast<unsigned long>(abi::IommuRequest::ioas_unmap);
  kernel_.failures[number] = {EBUSY};
  EXPECT_EQ(unmap(0x10000).error().code(), EBUSY);
  EXPECT_FALSE(function_->bus_master());
  const Status enabled = handle_->enable_bus_master();
  ASSERT_FALSE(enabled) << "it could reach what nobody owns any more";
  EXPECT_EQ(enabled.error().code(), EIO);
  EXPECT_THAT(enabled.error().cure(), HasSubstr("close it"));
  EXPECT_FALSE(function_->bus_master());
  EXPECT_TRUE(handle_->enable_memory()) << "its registers are no danger";
  const Status again = map(0x10000);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code(), EEXIST);
  EXPECT_THAT(again.error().what(), HasSubstr("could not be unmapped"));
  EXPECT_TRUE(unmap(0x10000)) << "a second try may succeed";
  EXPECT_TRUE(handle_->enable_bus_master());
  EXPECT_TRUE(map(0x10000));
}

TEST_P(Dma, VFIO30_AnUnmapOfAnotherSizeCountsAsFailed) {
  start();
  ASSERT_TRUE(map(0x10000, 2 * page));
  kernel_.change_unmapped = [](std::uint64_t) { return 0; };
  EXPECT_EQ(unmap(0x10000, 2 * page).error().code(), EIO);
  EXPECT_EQ(map(0x11000).error().code(), EEXIST);
}

TEST_P(Dma, AMappingForReadingIsNotWritten) {
  start();
  ASSERT_TRUE(map(0x10000, page, Access::read));
  EXPECT_EQ(device_reads(0x10000), PlainFunction::dma_done);
  put(PlainFunction::dma_command_at, PlainFunction::dma_to_memory);
  EXPECT_GE(get(PlainFunction::dma_status_at), PlainFunction::dma_failed);
}

TEST_P(Dma, AfterTheRevokeNothingIsMappedAndUnmappingIsNoError) {
  start();
  ASSERT_TRUE(map(0x10000));
  auto buffer = handle_->dma().allocate(4096);
  handle_->revoke();
  EXPECT_TRUE(unmap(0x10000));
  EXPECT_EQ(map(0x10000).error().code(), ENODEV);
  buffer->bytes()[0] = std::byte{1};
}

TEST_P(Dma, AfterClosingNothingIsMappedThoughSomebodyHasTheDeviceOpen) {
  start();
  ASSERT_TRUE(map(0x10000));
  ASSERT_EQ(device_reads(0x10000), PlainFunction::dma_done);
  const auto bar = handle_->region(0).value();
  const DeviceFd copy{bar.fd->duplicate().value()};
  const auto config = handle_->region(pci::region::config).value();
  handle_.reset();
  ASSERT_TRUE(kernel_.in_use(address));
  const auto write = [&](std::uint64_t at, auto value) {
    EXPECT_EQ(kernel_.pwrite(copy.fd.get(), as_bytes_of(value), at), static_cast<ssize_t>(sizeof value));
  };
  write(config.fd_offset + raw(pci::Command::offset), le16(0x0006));
  write(bar.fd_offset + PlainFunction::dma_command_at, le32(PlainFunction::dma_from_memory));
  le32 status = 0;
  kernel_.pread(copy.fd.get(), as_writable_bytes_of(status), bar.fd_offset + PlainFunction::dma_status_at);
  EXPECT_EQ(status, PlainFunction::dma_failed + EFAULT);
}

TEST_P(Dma, HugePagesAreUsedWhereThereAreSomeAndOthersWhereNot) {
  auto options = kernel_.options();
  options.interface.interface = GetParam();
  options.huge_pages = true;
  auto handle = Handle::open(address, options);
  ASSERT_TRUE(handle);
  EXPECT_TRUE((*handle)->dma().allocate(1 << 20)) << "with or without huge pages on this machine";
}

}  // namespace
}  // namespace outboard::vfio
