#include <outboard/pci/function.hpp>

#include <gtest/gtest.h>

#include <outboard/pci/local_handle.hpp>
#include <tests/support/idle_function.hpp>

// What reaches a function that checks nothing itself: the rules of pci::Function, and the same through a handle.

namespace outboard::pci {
namespace {

using testing::IdleFunction;

class FunctionTest : public ::testing::Test {
 protected:
  std::vector<std::byte> data_ = std::vector<std::byte>(IdleFunction::config_size);
  IdleFunction function_;
};

TEST_F(FunctionTest, VU52_AnAccessBeyondARegionDoesNotReachIt) {
  for (const auto& [one, error] : testing::refused_reads) {
    const auto read = function_.read_region(one.region, one.offset, MutableBytes(data_).first(one.length));
    ASSERT_FALSE(read) << one.region << " " << one.offset;
    EXPECT_EQ(read.error().code(), error) << one.region << " " << one.offset;
    EXPECT_EQ(function_.check_read(one.region, one.offset, one.length).error().code(), error);
  }
  for (const auto& [one, error] : testing::refused_writes()) {
    const auto written = function_.write_region(one.region, one.offset, Bytes(data_).first(one.length));
    ASSERT_FALSE(written) << one.region << " " << one.offset;
    EXPECT_EQ(written.error().code(), error) << one.region << " " << one.offset;
  }
  EXPECT_EQ(function_.check_read(0, 8, UINT64_MAX).error().code(), EINVAL);
  EXPECT_EQ(function_.reads, std::vector<IdleFunction::Access>());
  EXPECT_EQ(function_.writes, std::vector<IdleFunction::Access>());
}

TEST_F(FunctionTest, AnAccessWithinARegionReachesIt) {
  EXPECT_TRUE(function_.check_read(0, 0, IdleFunction::bar_size));
  EXPECT_TRUE(function_.read_region(0, 0, MutableBytes(data_).first(IdleFunction::bar_size)));
  EXPECT_TRUE(function_.read_region(region::config, IdleFunction::config_size - 1, MutableBytes(data_).first(1)));
  EXPECT_TRUE(function_.write_region(1, 13, Bytes(data_).first(3)));
  EXPECT_EQ(function_.reads, (std::vector<IdleFunction::Access>{{0, 0, IdleFunction::bar_size},
                                                                {region::config, IdleFunction::config_size - 1, 1}}));
  EXPECT_EQ(function_.writes, (std::vector<IdleFunction::Access>{{1, 13, 3}}));
}

TEST_F(FunctionTest, VU54_AnAccessOfNothingSucceedsWithoutIt) {
  EXPECT_TRUE(function_.read_region(0, IdleFunction::bar_size, {}));
  EXPECT_TRUE(function_.write_region(1, 4, {}));
  EXPECT_TRUE(function_.reads.empty());
  EXPECT_TRUE(function_.writes.empty());
}

TEST(FunctionBehindAHandle, VU52_AnAccessBeyondARegionDoesNotReachIt) {
  auto made = std::make_unique<IdleFunction>();
  IdleFunction& function = *made;
  const auto handle = LocalHandle::over(std::move(made), {}, "local:idle").value();
  std::vector<std::byte> data(IdleFunction::config_size);
  for (const auto& [one, error] : testing::refused_reads) {
    const auto read = handle->read_region(one.region, one.offset, MutableBytes(data).first(one.length));
    ASSERT_FALSE(read) << one.region << " " << one.offset;
    EXPECT_EQ(read.error().code(), error) << one.region << " " << one.offset;
    EXPECT_EQ(read.error().subject(), "local:idle");
  }
  for (const auto& [one, error] : testing::refused_writes()) {
    for (const bool posted : {false, true}) {
      const Bytes from = Bytes(data).first(one.length);
      const auto written = posted ? handle->post_write(one.region, one.offset, from)
                                  : handle->write_region(one.region, one.offset, from);
      ASSERT_FALSE(written) << one.region << " " << one.offset;
      EXPECT_EQ(written.error().code(), error) << one.region << " " << one.offset;
    }
  }
  EXPECT_EQ(function.reads, std::vector<IdleFunction::Access>());
  EXPECT_EQ(function.writes, std::vector<IdleFunction::Access>());
}

}  // namespace
}  // namespace outboard::pci
