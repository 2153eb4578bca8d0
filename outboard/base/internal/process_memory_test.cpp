#include <outboard/base/internal/process_memory.hpp>

#include <sys/mman.h>

#include <bit>
#include <cstddef>

#include <gtest/gtest.h>

namespace outboard {
namespace {

TEST(ProcessMemory, APageIsAPowerOfTwo) { EXPECT_TRUE(std::has_single_bit(page_size())); }

TEST(ProcessMemory, WhatIsMappedCounts) {
  const std::uint64_t before = address_space_in_use();
  ASSERT_GT(before, 0U);
  constexpr std::size_t size = std::size_t{1} << 30;
  void* const mapped = ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  EXPECT_GE(address_space_in_use(), before + size / 2);
  ::munmap(mapped, size);
}

}  // namespace
}  // namespace outboard
