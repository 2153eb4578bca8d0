#include <outboard/base/bytes.hpp>

#include <array>
#include <csignal>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/base/endian.hpp>

namespace outboard {
namespace {

TEST(CheckedArithmetic, SaysNothingInsteadOfWrapping) {
  EXPECT_EQ(checked_add(UINT64_MAX - 1, 1), UINT64_MAX);
  EXPECT_EQ(checked_add(UINT64_MAX, 1), std::nullopt);
  EXPECT_EQ(checked_multiply(UINT64_C(1) << 32, UINT64_C(1) << 31), UINT64_C(1) << 63);
  EXPECT_EQ(checked_multiply(UINT64_C(1) << 32, UINT64_C(1) << 32), std::nullopt);
  EXPECT_EQ(checked_multiply(0, UINT64_MAX), 0U);
}

TEST(RangeWithin, HoldsAtTheEdgesAndNeverWraps) {
  EXPECT_TRUE(range_within(0, 0, 0));
  EXPECT_TRUE(range_within(10, 0, 10));
  EXPECT_TRUE(range_within(4, 6, 10));
  EXPECT_FALSE(range_within(4, 7, 10));
  EXPECT_FALSE(range_within(11, 0, 10));
  EXPECT_FALSE(range_within(UINT64_MAX, 2, 10));
  EXPECT_FALSE(range_within(2, UINT64_MAX, 10));
}

TEST(CopyBytes, GoToTheBeginningAndTheRestStays) {
  std::array<std::byte, 4> to{};
  copy_bytes(std::array{std::byte{1}, std::byte{2}}, to);
  EXPECT_EQ(to, (std::array{std::byte{1}, std::byte{2}, std::byte{0}, std::byte{0}}));
  copy_bytes({}, to);
  copy_bytes({}, {});
  EXPECT_EQ(to[0], std::byte{1});
}

TEST(CopyBytesDeathTest, WithoutRoomForThemEndTheProcess) {
  std::array<std::byte, 4> to{};
  EXPECT_EXIT(copy_bytes(Bytes(to), MutableBytes(to).first(3)), ::testing::KilledBySignal(SIGABRT), "");
}

TEST(ByteReader, TakesBytesFromFrontToBack) {
  const std::array<unsigned char, 7> raw{1, 2, 0, 4, 5, 6, 7};
  ByteReader reader(std::as_bytes(std::span(raw)));
  EXPECT_EQ(*reader.read<std::uint8_t>(), 1);
  EXPECT_EQ(*reader.read<le16>(), 2);
  EXPECT_EQ(reader.take(3)->size(), 3U);
  EXPECT_EQ(reader.remaining(), 1U);
}

TEST(ByteReader, MissingBytesAreAnErrorAndNothingIsTaken) {
  const std::array<std::byte, 3> raw{};
  ByteReader reader(raw);
  EXPECT_EQ(reader.read<le32>().error().code(), EINVAL);
  EXPECT_EQ(reader.take(4).error().code(), EINVAL);
  EXPECT_EQ(reader.take(SIZE_MAX).error().code(), EINVAL);
  EXPECT_EQ(reader.remaining(), 3U);
  EXPECT_TRUE(reader.take(3).has_value());
  EXPECT_TRUE(reader.take(0).has_value());
}

TEST(ByteWriter, WhatDoesNotFitIsNotWrittenAtAll) {
  std::array<std::byte, 5> raw{};
  ByteWriter writer(raw);
  EXPECT_TRUE(writer.write(be16{0x0102}).has_value());
  EXPECT_EQ(writer.write(le32{0xffffffff}).error().code(), ENOSPC);
  EXPECT_EQ(writer.written(), 2U);
  EXPECT_EQ(raw, (std::array<std::byte, 5>{std::byte{1}, std::byte{2}}));
  EXPECT_TRUE(writer.write_bytes(std::vector<std::byte>(3)).has_value());
  EXPECT_EQ(writer.remaining(), 0U);
}

TEST(EndianInteger, LiesInItsOwnOrderAndReadsInTheHosts) {
  le32 little = 0x01020304;
  const be64 big = 0x0102030405060708;
  EXPECT_EQ(as_bytes_of(little)[0], std::byte{4});
  EXPECT_EQ(as_bytes_of(big)[0], std::byte{1});
  EXPECT_EQ(std::uint64_t{big}, 0x0102030405060708U);
  little |= 0x80000000;
  little &= 0xff0000ff;
  EXPECT_EQ(std::uint32_t{little}, 0x81000004U);
  EXPECT_EQ(std::uint32_t{le32::from_stored(little.stored())}, 0x81000004U);
}

}  // namespace
}  // namespace outboard
