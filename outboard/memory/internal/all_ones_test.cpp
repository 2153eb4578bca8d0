#include <outboard/memory/internal/all_ones.hpp>

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

#include <gtest/gtest.h>

namespace outboard::memory {
namespace {

constexpr std::uint64_t page = 4096;

/// Mapped pages that read as zeros.
class Window {
 public:
  explicit Window(std::uint64_t size) : size_(size) {
    void* const mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    data_ = mapped == MAP_FAILED ? nullptr : static_cast<std::byte*>(mapped);
  }
  ~Window() { ::munmap(data_, size_); }
  Window(const Window&) = delete;
  Window& operator=(const Window&) = delete;
  MutableBytes bytes() const { return {data_, size_}; }
  bool reads_as(std::byte value) const {
    return std::ranges::all_of(bytes(), [value](std::byte each) { return each == value; });
  }

 private:
  std::byte* data_;
  std::uint64_t size_;
};

/// No descriptor can be opened while this lives.
class NoDescriptors {
 public:
  NoDescriptors() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit none{0, before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &none);
  }
  ~NoDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;

 private:
  rlimit before_{};
};

TEST(AllOnes, AWindowReadsAsOnesAndTakesWrites) {
  for (const std::uint64_t pages : {1U, 16U, 17U, 1000U}) {
    const Window window(pages * page);
    ASSERT_TRUE(cover_with_ones(window.bytes()));
    EXPECT_TRUE(window.reads_as(std::byte{0xff})) << pages;
    window.bytes().back() = std::byte{1};
    EXPECT_EQ(window.bytes().back(), std::byte{1});
  }
}

TEST(AllOnes, TheSpareServesWhereNoDescriptorCanBeHad) {
  const UniqueFd spare = file_of_ones(page);
  const Window window(5 * page);
  const NoDescriptors none;
  ASSERT_TRUE(cover_with_ones(window.bytes(), &spare));
  EXPECT_TRUE(window.reads_as(std::byte{0xff}));
}

TEST(AllOnes, WhatWasThereGoesAlsoWithoutOnes) {
  const Window window(5 * page);
  std::ranges::fill(window.bytes(), std::byte{0x5a});
  const NoDescriptors none;
  ASSERT_TRUE(cover_with_ones(window.bytes()));
  EXPECT_TRUE(window.reads_as(std::byte{0}));
}

TEST(AllOnes, NoWindowIsCovered) { EXPECT_TRUE(cover_with_ones({})); }

}  // namespace
}  // namespace outboard::memory
