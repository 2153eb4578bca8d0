#include <tools/outboard/blk/histogram.hpp>

#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace outboard::command {
namespace {

TEST(HistogramTest, EmptyGivesZero) {
  const auto histogram = std::make_unique<Histogram>();
  EXPECT_EQ(histogram->quantile(0.5), 0u);
  EXPECT_EQ(histogram->count(), 0u);
}

TEST(HistogramTest, SmallValuesAreExact) {
  const auto histogram = std::make_unique<Histogram>();
  for (std::uint64_t value = 1; value <= 50; ++value) histogram->record(value);
  EXPECT_EQ(histogram->quantile(0.5), 25u);
  EXPECT_EQ(histogram->quantile(0.98), 49u);
  EXPECT_EQ(histogram->quantile(1.0), 50u);
}

TEST(HistogramTest, LargeValuesAreKnownToASixtyFourth) {
  for (const std::uint64_t value :
       {UINT64_C(64), UINT64_C(65), UINT64_C(1000), UINT64_C(123456789), UINT64_C(1) << 40}) {
    const auto histogram = std::make_unique<Histogram>();
    histogram->record(value);
    histogram->record(value * 4);
    EXPECT_GE(histogram->quantile(0.5), value);
    EXPECT_LE(histogram->quantile(0.5), value + value / 64);
  }
}

TEST(HistogramTest, TheLargestNumberHasABucket) {
  const auto histogram = std::make_unique<Histogram>();
  histogram->record(UINT64_MAX);
  EXPECT_EQ(histogram->quantile(0.999), UINT64_MAX);
}

TEST(HistogramTest, AQuantileIsNeverAboveWhatWasRecorded) {
  const auto histogram = std::make_unique<Histogram>();
  for (int i = 0; i < 1000; ++i) histogram->record(10'001);
  EXPECT_EQ(histogram->quantile(0.5), 10'001u);
  EXPECT_EQ(histogram->quantile(0.999), 10'001u);
}

}  // namespace
}  // namespace outboard::command
