#include <outboard/memory/dma_space.hpp>

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/base/internal/process_memory.hpp>
#include <outboard/memory/internal/buddy.hpp>
#include <outboard/memory/internal/iova_allocator.hpp>
#include <outboard/testing/fake_iommu.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <tests/support/denied_calls.hpp>
#include <tests/support/own_mappings.hpp>

namespace outboard::memory {
namespace {

constexpr std::uint64_t page = 4096;
constexpr std::uint64_t mib = UINT64_C(1) << 20;

int code_of(const auto& result) { return result ? 0 : result.error().code(); }

class DmaPoolTest : public ::testing::Test {
 protected:
  /// What the device finds at a buffer's address.
  std::byte* as_device(const DmaBuffer& buffer) {
    return map_.current()->contiguous(buffer.range(), Access::read_write);
  }

  testing::ManualLoop loop_;
  AddressMap map_{loop_};
  testing::FakeIommu iommu_{map_};
};

TEST_F(DmaPoolTest, DeviceAndDriverSeeTheSameBytes) {
  iommu_.require_files();
  DmaPool pool(iommu_);
  const auto small = *pool.allocate(100);
  const auto large = *pool.allocate(3 * mib);
  for (const DmaBuffer* buffer : {&small, &large}) {
    EXPECT_EQ(as_device(*buffer), buffer->data());
    EXPECT_TRUE(std::ranges::all_of(buffer->bytes(), [](std::byte b) { return b == std::byte{0}; }));
  }
  EXPECT_EQ(small.size(), 100U);
}

TEST_F(DmaPoolTest, SteadyStateMapsNothing) {
  DmaPool pool(iommu_);
  auto kept = *pool.allocate(64);
  for (int i = 0; i < 1000; ++i) {
    auto buffer = pool.allocate(4096);
    ASSERT_TRUE(buffer.has_value());
  }
  EXPECT_EQ(iommu_.maps(), 1U);
  EXPECT_EQ(iommu_.unmaps(), 0U);
}

TEST_F(DmaPoolTest, MemoryThatIsUsedAgainIsZeroed) {
  DmaPool pool(iommu_);
  std::byte* before = nullptr;
  {
    const auto buffer = *pool.allocate(256);
    before = buffer.data();
    std::ranges::fill(buffer.bytes(), std::byte{0xff});
  }
  const auto buffer = *pool.allocate(256);
  ASSERT_EQ(buffer.data(), before);
  EXPECT_TRUE(std::ranges::all_of(buffer.bytes(), [](std::byte b) { return b == std::byte{0}; }));
}

TEST_F(DmaPoolTest, AlignmentHoldsForBothAddresses) {
  DmaPool pool(iommu_);
  for (std::uint64_t alignment = 1; alignment <= 8 * mib; alignment *= 2) {
    const auto buffer = pool.allocate(10, {.alignment = alignment});
    ASSERT_TRUE(buffer.has_value()) << alignment << ": " << buffer.error().message();
    EXPECT_EQ(raw(buffer->iova()) % alignment, 0U);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->data()) % alignment, 0U);
  }
}

TEST_F(DmaPoolTest, AddressesThatAlignmentTookAreGivenBack) {
  DmaPool pool(iommu_);
  const auto once = [&] { EXPECT_TRUE(pool.allocate(16 * mib, {.alignment = 1024 * mib}).has_value()); };
  once();
  const std::uint64_t before = address_space_in_use();
  for (int i = 0; i < 20; ++i) once();
  EXPECT_LT(address_space_in_use(), before + 512 * mib);
}

TEST_F(DmaPoolTest, HighestAddressIsKept) {
  testing::FakeIommu high(map_, {.page_size = page, .valid = {{Iova{0x8000'0000}, 0x1'0000'0000}}});
  DmaPool pool(high);
  const auto anywhere = *pool.allocate(1024 * mib);
  for (const std::uint64_t size : {UINT64_C(64), 4 * mib}) {
    const auto buffer = pool.allocate(size, {.highest = Iova{0xffff'ffff}});
    ASSERT_TRUE(buffer.has_value());
    EXPECT_LE(raw(buffer->range().last()), 0xffff'ffffU);
    EXPECT_EQ(code_of(pool.allocate(size, {.highest = Iova{0x7fff'ffff}})), ENOSPC);
  }
}

TEST_F(DmaPoolTest, AddressesComeFromTheValidRangesOnly) {
  const std::vector<IovaRange> valid{{Iova{0}, 3 * mib}, {Iova{16 * mib}, 2 * mib}};
  testing::FakeIommu iommu(map_, {.page_size = page, .valid = valid});
  DmaPool pool(iommu);
  std::vector<DmaBuffer> buffers;
  while (auto buffer = pool.allocate(mib + page)) {
    EXPECT_NE(raw(buffer->iova()), 0U);
    EXPECT_TRUE(std::ranges::any_of(valid, [&](const IovaRange& range) { return range.contains(buffer->range()); }));
    buffers.push_back(std::move(*buffer));
  }
  EXPECT_EQ(buffers.size(), 3U);
  EXPECT_EQ(code_of(pool.allocate(2 * mib)), ENOSPC);
  buffers.clear();
  EXPECT_TRUE(pool.allocate(2 * mib).has_value());
}

TEST_F(DmaPoolTest, LargeBufferIsGivenBackWhenItGoes) {
  DmaPool pool(iommu_);
  Iova first{};
  {
    const auto buffer = *pool.allocate(5 * mib);
    first = buffer.iova();
    EXPECT_EQ(iommu_.mapping_count(), 1U);
  }
  EXPECT_EQ(iommu_.mapping_count(), 0U);
  EXPECT_EQ(pool.allocate(5 * mib)->iova(), first);
}

TEST_F(DmaPoolTest, ArenaWhoseUnmapFailsIsNotUsedAgain) {
  DmaPool pool(iommu_);
  auto buffer = *pool.allocate(5 * mib);
  const MutableBytes bytes = buffer.bytes();
  const IovaRange range = buffer.range();
  iommu_.fail_unmaps(EIO);
  buffer.reset();
  iommu_.fail_unmaps(0);
  bytes[0] = std::byte{1};  // still there: the device may write to it
  const auto next = *pool.allocate(5 * mib);
  EXPECT_FALSE(next.range().overlaps(range));
  EXPECT_NE(next.data(), bytes.data());
  EXPECT_EQ(::munmap(bytes.data(), bytes.size()), 0);
}

TEST_F(DmaPoolTest, PagesThatTheDeviceHoldsDoNotStayMapped) {
  auto limits = testing::FakeIommu::default_limits();
  limits.device_holds_pages = true;
  testing::FakeIommu iommu(map_, limits);
  const auto mapped = [] {
    return std::ranges::count_if(testing::own_mappings(), [](const testing::OwnMapping& one) {
      return one.file.find("outboard-dma") != std::string::npos;
    });
  };
  const auto before = mapped();
  {
    DmaPool pool(iommu);
    const auto buffer = pool.allocate(64);
    EXPECT_GT(mapped(), before);
    iommu.fail_unmaps(EIO);
  }
  EXPECT_EQ(mapped(), before);
}

TEST_F(DmaPoolTest, RefusalOfTheMapperIsPassedOnAndLeavesNothingBehind) {
  DmaPool pool(iommu_);
  iommu_.fail_next_map(ENODEV);
  EXPECT_EQ(code_of(pool.allocate(64)), ENODEV);
  const auto first = pool.allocate(64);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(iommu_.mapping_count(), 1U);
}

TEST_F(DmaPoolTest, PageSizeBelowThatOfTheHostIsTheHosts) {
  for (const std::uint64_t size : {UINT64_C(0), UINT64_C(1), UINT64_C(512), 3 * page}) {
    auto limits = testing::FakeIommu::default_limits();
    limits.page_size = size;
    testing::FakeIommu iommu(map_, limits);
    DmaPool pool(iommu);
    EXPECT_EQ(pool.limits().page_size, page_size()) << size;
  }
}

TEST_F(DmaPoolTest, PageSizeThatAPeerMadeUpIsAnErrorOfTheAllocation) {
  for (const unsigned log2 : {47U, 62U, 63U}) {
    auto limits = testing::FakeIommu::default_limits();
    limits.page_size = UINT64_C(1) << log2;
    testing::FakeIommu iommu(map_, limits);
    DmaPool pool(iommu);
    EXPECT_EQ(code_of(pool.allocate(64)), ENOMEM) << log2;
    EXPECT_EQ(code_of(pool.allocate(3 * mib)), ENOMEM) << log2;
    EXPECT_EQ(iommu.maps(), 0U);
  }
}

TEST_F(DmaPoolTest, NoMoreMappingsAreMadeThanTheDeviceTakes) {
  auto limits = testing::FakeIommu::default_limits();
  limits.max_mappings = 2;
  testing::FakeIommu iommu(map_, limits);
  DmaPool pool(iommu);
  const auto a = *pool.allocate(64);
  const auto b = *pool.allocate(4 * mib);
  EXPECT_EQ(code_of(pool.allocate(4 * mib)), ENOSPC);
  EXPECT_TRUE(pool.allocate(64).has_value()) << "from the arena that is there";
}

TEST_F(DmaPoolTest, SenselessRequestsAreRefused) {
  DmaPool pool(iommu_);
  EXPECT_EQ(code_of(pool.allocate(0)), EINVAL);
  EXPECT_EQ(code_of(pool.allocate(64, {.alignment = 0})), EINVAL);
  EXPECT_EQ(code_of(pool.allocate(64, {.alignment = 48})), EINVAL);
  EXPECT_EQ(code_of(pool.allocate(UINT64_MAX)), ENOMEM);
  EXPECT_NE(code_of(pool.allocate(64, {.alignment = UINT64_C(1) << 63})), 0);
}

TEST_F(DmaPoolTest, MemoryOfTheCallersIsMappedInWholePages) {
  DmaPool pool(iommu_);
  const auto memory = *HostMemory::anonymous(4 * page);
  const MutableBytes bytes(memory->data(), 4 * page);
  EXPECT_EQ(code_of(pool.map(bytes.first(100), nullptr, 0)), EINVAL);
  EXPECT_EQ(code_of(pool.map(bytes.subspan(64, page), nullptr, 0)), EINVAL);
  EXPECT_EQ(code_of(pool.map({}, nullptr, 0)), EINVAL);
  {
    const auto buffer = pool.map(bytes, nullptr, 0);
    ASSERT_TRUE(buffer.has_value());
    EXPECT_EQ(as_device(*buffer), bytes.data());
  }
  EXPECT_EQ(iommu_.mapping_count(), 0U);
}

TEST_F(DmaPoolTest, PoolGivesBackWhatItHas) {
  {
    DmaPool pool(iommu_);
    const auto a = *pool.allocate(64);
    const auto b = *pool.allocate(4 * mib);
  }
  EXPECT_EQ(iommu_.mapping_count(), 0U);
}

TEST_F(DmaPoolTest, BuffersNeverOverlap) {
  std::mt19937_64 random(7);
  DmaPool pool(iommu_, {.arena_size = 64 << 10});
  std::vector<DmaBuffer> buffers;
  for (int step = 0; step < 3000; ++step) {
    if (!buffers.empty() && random() % 2 == 0) {
      std::swap(buffers[random() % buffers.size()], buffers.back());
      const std::byte mark = buffers.back().data()[0];
      ASSERT_TRUE(std::ranges::all_of(buffers.back().bytes(), [&](std::byte b) { return b == mark; }));
      buffers.pop_back();
      continue;
    }
    auto buffer = pool.allocate(1 + random() % 6000, {.alignment = UINT64_C(1) << random() % 13});
    ASSERT_TRUE(buffer.has_value());
    std::ranges::fill(buffer->bytes(), static_cast<std::byte>(step));
    buffers.push_back(std::move(*buffer));
  }
}

TEST(Buddy, HalvesJoinAgain) {
  Buddy buddy(1024);
  std::vector<std::uint64_t> offsets;
  while (const auto offset = buddy.allocate(64)) offsets.push_back(*offset);
  EXPECT_EQ(offsets.size(), 16U);
  EXPECT_FALSE(buddy.allocate(1).has_value());
  for (const auto offset : offsets) EXPECT_TRUE(buddy.release(offset));
  EXPECT_FALSE(buddy.release(0)) << "released already";
  EXPECT_EQ(buddy.allocate(1024), 0U);
}

TEST(Buddy, LargerThanTheWholeIsNothing) {
  Buddy buddy(1024);
  EXPECT_FALSE(buddy.allocate(1025).has_value());
}

TEST(IovaAllocator, TakesGapsAndTheLastAddress) {
  IovaAllocator addresses({{Iova{UINT64_MAX - 3 * page + 1}, 3 * page}});
  const auto a = *addresses.allocate(page, page, Iova{UINT64_MAX});
  const auto b = *addresses.allocate(page, page, Iova{UINT64_MAX});
  const auto c = *addresses.allocate(page, page, Iova{UINT64_MAX});
  EXPECT_EQ(c.last(), Iova{UINT64_MAX});
  EXPECT_EQ(code_of(addresses.allocate(page, page, Iova{UINT64_MAX})), ENOSPC);
  addresses.release(b);
  EXPECT_EQ(addresses.allocate(page, page, Iova{UINT64_MAX})->start, b.start);
  EXPECT_EQ(code_of(addresses.allocate(UINT64_MAX, page, Iova{UINT64_MAX})), ENOSPC);
  EXPECT_LT(raw(a.start), raw(b.start));
}

TEST_F(DmaPoolTest, WithoutMemoryFilesItSaysSoAndHasMemoryOnceThereAreSome) {
  DmaPool pool(iommu_);
  for (const int error : {ENOSYS, EPERM}) {
    outboard::testing::with_calls_denied({SYS_memfd_create}, error, [&] {
      const auto refused = pool.allocate(4096);
      ASSERT_FALSE(refused);
      EXPECT_EQ(refused.error().code(), error);
      EXPECT_EQ(refused.error().message().rfind("creating a memory file for DMA: ", 0), 0U)
          << refused.error().message();
      EXPECT_EQ(refused.error().cure(), "have the filter of system calls allow memfd_create");
    });
  }
  EXPECT_EQ(iommu_.maps(), 0U);
  EXPECT_TRUE(pool.allocate(4096));
}

}  // namespace
}  // namespace outboard::memory
