#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <tuple>

#include <tests/support/temp_dir.hpp>
#include <tests/support/vfio_user_client_fixture.hpp>

// Regions that a server describes, rightly or wrongly.

namespace outboard::vfio_user {
namespace {

namespace abi = vfio_abi;
using testing::joined;
using ClientRows = testing::VfioUserClientTest;

class ClientRegions : public ClientRows {
 protected:
  /// BAR 0 as described, all else as usual. The region as the client sees it.
  Result<pci::RegionInfo> bar0(Bytes payload, const std::vector<int>& fds = {}) {
    std::tie(server_, socket_) = testing::VfioUserPeer::pair();
    reply_version();
    reply_info();
    reply(Command::device_get_region_info, first_region_id, payload, fds);
    reply_regions(1);
    // A second question comes before those about interrupts.
    if (second_) {
      server_.send(Command::device_get_region_info, *second_, {.flags = 1, .id = first_irq_id, .fds = fds});
      irq_id_ = first_irq_id + 1;
    }
    reply_irqs();
    auto client = make();
    if (!client) return client.error();
    client_ = std::move(*client);
    return client_->region(0);
  }
  static std::size_t mappings() {
    std::ifstream maps("/proc/self/maps");
    return static_cast<std::size_t>(std::count(std::istreambuf_iterator<char>(maps), {}, '\n'));
  }
  static abi::RegionInfo mappable(std::uint32_t argsz = 32, std::uint32_t cap_offset = 0) {
    return {.argsz = argsz,
            .flags = cap_offset == 0 ? 7u : 15u,
            .index = 0,
            .cap_offset = cap_offset,
            .size = bar_size,
            .offset = 0};
  }
  static abi::SparseMmapCapability sparse(std::uint32_t areas, std::uint32_t next = 0) {
    return {.header = {.id = 1, .version = 1, .next = next}, .nr_areas = areas, .reserved = 0};
  }

  UniqueFd file_ = testing::make_sealed_memfd(bar_size);
  std::optional<std::vector<std::byte>> second_;
};

TEST_F(ClientRegions, AreasAreMapped) {
  const auto region = bar0(
      joined(mappable(80, 32), sparse(2), abi::SparseMmapArea{0x1000, 0x1000}, abi::SparseMmapArea{0x3000, 0x1000}),
      {file_.get()});
  ASSERT_TRUE(region) << region.error().message();
  ASSERT_EQ(region->areas.size(), 2u);
  const auto window = client_->map_window(0, 0x1800, 0x800);
  ASSERT_TRUE(window) << window.error().message();
  window->write<std::uint32_t>(4, 0xabcd);
  std::uint32_t value = 0;
  ASSERT_EQ(::pread(file_.get(), &value, 4, 0x1804), 4);
  EXPECT_EQ(value, 0xabcdu);
  EXPECT_EQ(error_of(client_->map_window(0, 0x1800, 0x801)), ENOTSUP);
  EXPECT_EQ(error_of(client_->map_window(0, 0, 4)), ENOTSUP);
  EXPECT_EQ(error_of(client_->map_window(0, 0x3000, bar_size)), EINVAL);
}

TEST_F(ClientRegions, AWindowIntoAHugeAreaMapsItsOwnPagesOnly) {
  constexpr std::uint64_t huge = UINT64_C(1) << 40;
  file_ = testing::make_sealed_memfd(huge);
  auto info = mappable();
  info.size = huge;
  ASSERT_TRUE(bar0(joined(info), {file_.get()}));
  const std::size_t before = mappings();
  const auto window = client_->map_window(0, huge / 2 + 4092, 8);  // across two pages
  ASSERT_TRUE(window) << window.error().message();
  window->write<std::uint32_t>(4, 0xabcd);
  std::uint32_t value = 0;
  ASSERT_EQ(::pread(file_.get(), &value, 4, static_cast<off_t>(huge / 2 + 4096)), 4);
  EXPECT_EQ(value, 0xabcdu);

  server_.close();
  ASSERT_TRUE(client_->process());

  EXPECT_EQ(window->read<std::uint32_t>(0), UINT32_MAX);
  EXPECT_EQ(window->read<std::uint32_t>(4), UINT32_MAX);
  EXPECT_LE(mappings(), before + 10);
}

TEST_F(ClientRegions, ADescriptionThatNeedsMoreRoomIsAskedForOnceMore) {
  second_ = joined(mappable(2000, 32), sparse(1), abi::SparseMmapArea{0x1000, 0x1000});
  second_->resize(2000);
  const auto region = bar0(joined(mappable(2000)), {file_.get()});
  ASSERT_TRUE(region) << region.error().message();
  EXPECT_EQ(region->areas.size(), 1u);
}

TEST_F(ClientRegions, VU78_ADescriptionThatGrowsAgainIsRefused) {
  second_ = joined(mappable(3000));
  EXPECT_EQ(error_of(bar0(joined(mappable(2000)))), EPROTO);
}

TEST_F(ClientRegions, VU78_ADescriptionOfAbsurdSizeIsRefusedWithoutASecondTry) {
  EXPECT_EQ(error_of(bar0(joined(mappable(UINT32_MAX)))), EPROTO);
}

TEST_F(ClientRegions, VU78_AnArgszBelowTheFixedPartIsRefused) {
  EXPECT_EQ(error_of(bar0(joined(mappable(31)))), EPROTO);
}

TEST_F(ClientRegions, VU78_ADescriptionOfAnotherRegionIsRefused) {
  auto info = mappable();
  info.index = 1;
  EXPECT_EQ(error_of(bar0(joined(info), {file_.get()})), EPROTO);
}

TEST_F(ClientRegions, VU78_AChainThatLoopsOrPointsOutsideIsRefused) {
  const abi::SparseMmapArea area{0x1000, 0x1000};
  for (const std::uint32_t cap_offset : {8u, 31u, 33u, 44u, 64u, 0x40000000u, UINT32_MAX - 7}) {
    EXPECT_EQ(error_of(bar0(joined(mappable(64, cap_offset), sparse(1), area), {file_.get()})), EPROTO) << cap_offset;
  }
  for (const std::uint32_t next : {32u, 8u, 33u, 64u, 0x80000000u, UINT32_MAX}) {
    EXPECT_EQ(error_of(bar0(joined(mappable(64, 32), sparse(1, next), area), {file_.get()})), EPROTO) << next;
  }
}

TEST_F(ClientRegions, VU78_MoreAreasThanBytesAreRefused) {
  const abi::SparseMmapArea area{0x1000, 0x1000};
  for (const std::uint32_t count : {2u, 0x10000000u, UINT32_MAX}) {
    EXPECT_EQ(error_of(bar0(joined(mappable(64, 32), sparse(count), area), {file_.get()})), EPROTO);
  }
}

TEST_F(ClientRegions, VU78_ABarWhoseSizeIsNoPowerOfTwoIsRefused) {
  auto info = mappable();
  for (const std::uint64_t size : {UINT64_C(3), bar_size + 1, UINT64_MAX}) {
    info.size = size;
    EXPECT_EQ(error_of(bar0(joined(info))), EPROTO);
  }
}

TEST_F(ClientRegions, VU78_AnOffsetThatWrapsIsNotMapped) {
  auto info = mappable();
  for (const std::uint64_t offset : {UINT64_MAX - 0xfff, UINT64_MAX - 0x3fff, UINT64_C(0x1000), UINT64_C(1)}) {
    info.offset = offset;
    const auto region = bar0(joined(info), {file_.get()});
    ASSERT_TRUE(region);
    EXPECT_TRUE(region->areas.empty()) << offset;
  }
}

TEST_F(ClientRegions, VU78_AreasThatCannotBeMappedAreDropped) {
  const auto region =
      bar0(joined(mappable(144, 32), sparse(6), abi::SparseMmapArea{0x1001, 0x1000}, abi::SparseMmapArea{0x1000, 0x800},
                  abi::SparseMmapArea{0x3000, 0x2000}, abi::SparseMmapArea{UINT64_MAX - 0xfff, 0x2000},
                  abi::SparseMmapArea{0x2000, 0x1000}, abi::SparseMmapArea{0x2000, 0x2000}),
           {file_.get()});
  ASSERT_TRUE(region);
  ASSERT_EQ(region->areas.size(), 1u);
  EXPECT_EQ(region->areas[0].offset, 0x2000u);
}

TEST_F(ClientRegions, VU79_MmapWithoutADescriptorIsATrappedRegion) {
  const auto region = bar0(joined(mappable()));
  ASSERT_TRUE(region);
  EXPECT_TRUE(region->areas.empty());
  EXPECT_EQ(error_of(client_->map_window(0, 0, 4096)), ENOTSUP);
}

TEST_F(ClientRegions, VU79_AFileShorterThanTheAreaIsATrappedRegion) {
  const UniqueFd small = testing::make_sealed_memfd(0x3000);
  EXPECT_TRUE(bar0(joined(mappable()), {small.get()})->areas.empty());
  const UniqueFd other(::eventfd(0, EFD_CLOEXEC));
  EXPECT_TRUE(bar0(joined(mappable()), {other.get()})->areas.empty());
}

TEST_F(ClientRegions, TwoDescriptorsForARegionAreRefused) {
  EXPECT_EQ(error_of(bar0(joined(mappable()), {file_.get(), file_.get()})), EPROTO);
}

TEST_F(ClientRegions, WithoutConfigurationSpaceThereIsNoFunction) {
  reply_version();
  reply_info();
  for (std::uint32_t index = 0; index < 9; ++index) {
    if (index == 7) {
      reply_error(Command::device_get_region_info, first_region_id + 7, EINVAL);
    } else {
      reply_region(plain_region(index));
    }
  }
  reply_irqs();
  EXPECT_FALSE(make());
}

}  // namespace
}  // namespace outboard::vfio_user
