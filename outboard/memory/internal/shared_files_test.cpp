#include <outboard/memory/internal/shared_files.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <vector>

#include <gtest/gtest.h>

#include <outboard/memory/fault_guard.hpp>
#include <tests/support/own_mappings.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::memory {
namespace {

constexpr std::uint64_t page = 4096;

class SharedFilesTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(install_fault_guard()); }

  SharedFiles::Window map(const UniqueFd& fd, std::uint64_t offset, std::uint64_t size,
                          Access access = Access::read_write) {
    auto window = files_.map(fd, offset, size, access);
    EXPECT_TRUE(window) << window.error().message();
    return window.value_or(SharedFiles::Window{});
  }

  std::shared_ptr<Budget> budget_ =
      Budget::with({.descriptors = 0, .mappings = 8, .address_space = 1024 * page});  // 4 for each of two
  std::shared_ptr<Budget::Share> share_ = *budget_->join(0);
  SharedFiles files_{share_};
};

TEST_F(SharedFilesTest, AllWindowsOnOneFileAreInOneMapping) {
  const UniqueFd fd = testing::make_memfd(64 * page);
  std::vector<SharedFiles::Window> windows;
  for (std::uint64_t i = 0; i < 64; ++i) {
    windows.push_back(map(*fd.duplicate(), i * page, page));
    *(windows[i].memory->data() + windows[i].offset) = static_cast<std::byte>(i);
  }
  for (std::uint64_t i = 0; i < 64; ++i) {
    EXPECT_EQ(windows[i].memory, windows[0].memory);
    std::byte seen{0xff};
    ASSERT_EQ(::pread(fd.get(), &seen, 1, static_cast<off_t>(i * page)), 1);
    EXPECT_EQ(seen, static_cast<std::byte>(i));
  }
}

TEST_F(SharedFilesTest, AMappingIsGoneWithItsLastWindowAndCanBeHadAgain) {
  for (int round = 0; round < 100; ++round) {
    const UniqueFd fd = testing::make_memfd(2 * page);
    const auto first = map(fd, 0, page), second = map(fd, page, page);
    EXPECT_EQ(first.memory, second.memory);
  }
}

TEST_F(SharedFilesTest, MoreFilesThanTheShareHasAreRefused) {
  std::vector<SharedFiles::Window> windows;
  for (int i = 0; i < 8; ++i) windows.push_back(map(testing::make_memfd(page), 0, page));
  const UniqueFd one_more = testing::make_memfd(page);
  EXPECT_EQ(files_.map(one_more, 0, page, Access::read_write).error().code(), ENOSPC);
  windows.pop_back();
  EXPECT_TRUE(files_.map(one_more, 0, page, Access::read_write));
}

TEST_F(SharedFilesTest, AFileThatIsTooLargeIsMappedWhereTheWindowIs) {
  const UniqueFd fd = testing::make_memfd(UINT64_C(1) << 60);
  const auto window = map(fd, UINT64_C(1) << 50, 2 * page);
  EXPECT_EQ(window.memory->size(), 2 * page);
  const auto inside = map(fd, (UINT64_C(1) << 50) + page, page);
  EXPECT_EQ(inside.memory, window.memory);
  EXPECT_EQ(inside.offset, page);
  EXPECT_EQ(files_.map(fd, 0, 2048 * page, Access::read_write).error().code(), ENOSPC);
}

TEST_F(SharedFilesTest, AFileThatHasGrownIsMappedAgain) {
  const UniqueFd fd = testing::make_memfd(page);
  const auto before = map(fd, 0, page);
  ASSERT_EQ(::ftruncate(fd.get(), 2 * page), 0);
  const auto after = map(fd, page, page);
  EXPECT_NE(after.memory, before.memory);
  EXPECT_EQ(map(fd, 0, 2 * page).memory, after.memory);
}

TEST_F(SharedFilesTest, WritingIsNotGivenByAMappingForReading) {
  const UniqueFd fd = testing::make_memfd(page);
  const auto to_read = map(fd, 0, page, Access::read);
  const auto to_write = map(fd, 0, page, Access::read_write);
  EXPECT_NE(to_read.memory, to_write.memory);
  *(to_write.memory->data()) = std::byte{1};
}

TEST_F(SharedFilesTest, VU34_AWindowBeyondTheFileIsRefusedAlsoWhereAMappingKnowsIt) {
  const UniqueFd fd = testing::make_memfd(4 * page);
  const auto window = map(fd, 0, page);
  ASSERT_EQ(::ftruncate(fd.get(), 2 * page), 0);
  EXPECT_EQ(files_.map(fd, 2 * page, page, Access::read_write).error().code(), EINVAL);
  EXPECT_EQ(files_.map(fd, page / 2, page, Access::read_write).error().code(), EINVAL);
}

TEST_F(SharedFilesTest, VU35_WhatWasLostIsNotGivenOutAgain) {
  const UniqueFd fd = testing::make_memfd(2 * page);
  const auto lost = map(fd, 0, 2 * page);
  ASSERT_EQ(::ftruncate(fd.get(), page), 0);
  EXPECT_EQ(*reinterpret_cast<volatile unsigned char*>(lost.memory->data() + page), 0);
  ASSERT_TRUE(lost.memory->poisoned());
  ASSERT_EQ(::ftruncate(fd.get(), 2 * page), 0);
  const auto fresh = map(fd, page, page);
  EXPECT_NE(fresh.memory, lost.memory);
  EXPECT_FALSE(fresh.memory->poisoned());
  EXPECT_EQ(map(fd, 0, page).memory, lost.memory) << "what lies before is there still";
}

}  // namespace
}  // namespace outboard::memory
