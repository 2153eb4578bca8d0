#include <tools/outboard/pattern.hpp>

#include <gtest/gtest.h>

#include <vector>

namespace outboard::command {
namespace {

std::vector<std::byte> filled(std::uint64_t seed, std::uint64_t offset, std::size_t size) {
  std::vector<std::byte> bytes(size);
  Pattern(seed).fill(offset, bytes);
  return bytes;
}

TEST(PatternTest, WhatWasFilledHasNoDifference) {
  EXPECT_EQ(Pattern(7).first_difference(4096, filled(7, 4096, 8192)), std::nullopt);
}

TEST(PatternTest, PiecesGiveTheSameAsTheWhole) {
  const auto whole = filled(7, 0, 2048), part = filled(7, 1024, 1024);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 1024));
}

TEST(PatternTest, AnotherPlaceOrSeedIsAnotherPattern) {
  EXPECT_EQ(Pattern(7).first_difference(512, filled(7, 0, 512)), 512u);
  EXPECT_EQ(Pattern(8).first_difference(0, filled(7, 0, 512)), 0u);
}

TEST(PatternTest, TheFirstDifferentSectorIsTold) {
  auto bytes = filled(7, 0, 4096);
  bytes[1537] ^= std::byte{1};
  bytes[3000] ^= std::byte{1};
  EXPECT_EQ(Pattern(7).first_difference(0, bytes), 1536u);
}

}  // namespace
}  // namespace outboard::command
