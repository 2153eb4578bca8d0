#include <outboard/testing/fake_iommu.hpp>

#include <sys/mman.h>

#include <gtest/gtest.h>

#include <outboard/testing/manual_loop.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::testing {
namespace {

using memory::Access;
using memory::Iova;

constexpr std::uint64_t page = 4096;

int code_of(const Status& status) { return status ? 0 : status.error().code(); }

class FakeIommuTest : public ::testing::Test {
 protected:
  int map(std::uint64_t start, std::uint64_t size, std::uint64_t skip = 0) {
    return code_of(
        iommu_.map({Iova{start}, size}, MutableBytes(memory_->data() + skip, size), Access::read_write, nullptr, 0));
  }
  int unmap(std::uint64_t start, std::uint64_t size) { return code_of(iommu_.unmap({Iova{start}, size})); }

  ManualLoop loop_;
  memory::AddressMap map_{loop_};
  FakeIommu iommu_{map_};
  std::shared_ptr<memory::HostMemory> memory_ = *memory::HostMemory::anonymous(8 * page);
};

TEST_F(FakeIommuTest, DeviceReachesWhatIsMapped) {
  ASSERT_EQ(map(0x10000, 2 * page), 0);
  EXPECT_EQ(map_.current()->contiguous({Iova{0x11000}, 8}, memory::Access::read_write), memory_->data() + page);
  EXPECT_EQ(unmap(0x10000, 2 * page), 0);
  EXPECT_EQ(map_.current()->mapping_count(), 0U);
}

TEST_F(FakeIommuTest, RefusesWhatARealOneRefuses) {
  EXPECT_EQ(map(0x10001, page), EINVAL);
  EXPECT_EQ(map(0x10000, page + 1), EINVAL);
  EXPECT_EQ(map(0x10000, page, 64), EINVAL);
  EXPECT_EQ(map(0xfee00000, page), EINVAL) << "where interrupt messages go";
  EXPECT_EQ(map(UINT64_C(1) << 48, page), EINVAL);
  ASSERT_EQ(map(0x10000, 2 * page), 0);
  EXPECT_EQ(map(0x11000, page), EEXIST);
  EXPECT_EQ(unmap(0x10000, page), ENOENT);
  EXPECT_EQ(unmap(0x11000, page), ENOENT);
}

TEST_F(FakeIommuTest, FileHasToBeBehindTheMemoryWhereFilesAreRequired) {
  iommu_.require_files();
  EXPECT_EQ(map(0x10000, page), ENOTSUP);
  const UniqueFd fd = make_sealed_memfd(2 * page);
  const auto shared = *memory::HostMemory::map_file(fd, page, page, memory::Access::read_write);
  shared->data()[0] = std::byte{1};
  const MutableBytes bytes(shared->data(), page);
  EXPECT_EQ(code_of(iommu_.map({Iova{0x10000}, page}, bytes, Access::read_write, &fd, 0)), EINVAL)
      << "the wrong offset";
  EXPECT_EQ(code_of(iommu_.map({Iova{0x10000}, page}, bytes, Access::read_write, &fd, page)), 0);
}

TEST_F(FakeIommuTest, FailsWhenItIsAskedTo) {
  iommu_.fail_next_map(EIO);
  EXPECT_EQ(map(0x10000, page), EIO);
  EXPECT_EQ(map(0x10000, page), 0);
  iommu_.fail_unmaps(ENODEV);
  EXPECT_EQ(unmap(0x10000, page), ENODEV);
  iommu_.fail_unmaps(0);
  EXPECT_EQ(unmap(0x10000, page), 0);
}

TEST_F(FakeIommuTest, UnmapPumpsWhileAUserHoldsTheMemory) {
  struct SlowUser final : memory::MapUser {
    explicit SlowUser(Loop& its_loop) : loop(its_loop) {}
    Loop& map_loop() override { return loop; }
    void map_changed(memory::IovaRange, Loop::Task released) override { loop.post(std::move(released)); }
    Loop& loop;
  };
  ASSERT_EQ(map(0x10000, page), 0);
  ASSERT_EQ(map(0x20000, page, page), 0);
  SlowUser user(loop_);
  map_.add_user(user);
  EXPECT_EQ(unmap(0x10000, page), ETIMEDOUT) << "nobody pumps";
  iommu_.set_pump([this] { loop_.run_once(); });
  EXPECT_EQ(unmap(0x20000, page), 0);
  map_.remove_user(user);
}

}  // namespace
}  // namespace outboard::testing
