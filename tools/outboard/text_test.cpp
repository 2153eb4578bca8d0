#include <tools/outboard/text.hpp>

#include <gtest/gtest.h>

namespace outboard::command {
namespace {

TEST(Text, SizesAreWholeWhereTheyAre) {
  EXPECT_EQ(size_text(0), "0 bytes");
  EXPECT_EQ(size_text(512), "512 bytes");
  EXPECT_EQ(size_text(64 << 20), "64 MiB");
  EXPECT_EQ(size_text(UINT64_C(3) << 29), "1.5 GiB");
  EXPECT_EQ(size_text((64 << 20) + 512), "64.0 MiB");
}

TEST(Text, SizesBeyondTheLargestUnitStayInIt) { EXPECT_EQ(size_text(UINT64_MAX), "16384.0 PiB"); }

TEST(Text, TimesHaveTheUnitThatKeepsThemShort) {
  EXPECT_EQ(time_text(Duration(850)), "850 ns");
  EXPECT_EQ(time_text(Duration(12'340)), "12.3 us");
  EXPECT_EQ(time_text(Duration(4'560'000)), "4.56 ms");
  EXPECT_EQ(time_text(Duration(1'200'000'000)), "1.20 s");
}

TEST(Text, RatesAreForASecond) { EXPECT_EQ(rate_text(210.5 * 1024 * 1024), "210.5 MiB/s"); }

}  // namespace
}  // namespace outboard::command
