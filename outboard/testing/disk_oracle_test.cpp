#include <outboard/testing/disk_oracle.hpp>

#include <vector>

#include <gtest/gtest.h>

namespace outboard::testing {
namespace {

constexpr std::size_t size = DiskOracle::sector_size;
using Sectors = std::vector<std::byte>;
using Outcome = DiskOracle::Outcome;

class DiskOracleTest : public ::testing::Test {
 protected:
  /// The content of a new write, which has ended.
  Sectors write(std::uint64_t sector, Outcome outcome = Outcome::done, std::size_t count = 1) {
    Sectors data(count * size);
    oracle_.end_write(oracle_.begin_write(sector, data), outcome);
    return data;
  }
  void flush() { oracle_.end_flush(oracle_.begin_flush()); }
  /// What is wrong with a sector that has this content; empty: nothing.
  std::string wrong(std::uint64_t sector, Bytes data) { return oracle_.check_read(sector, data).value_or(""); }

  DiskOracle oracle_;
  const Sectors zeroes_ = Sectors(size);
};

TEST_F(DiskOracleTest, SectorThatWasNeverWrittenIsZero) {
  EXPECT_EQ(wrong(3, zeroes_), "");
  EXPECT_NE(wrong(4, Sectors(size, std::byte{1})), "");
}

TEST_F(DiskOracleTest, EachWriteHasItsOwnContentInEverySector) {
  const Sectors first = write(0, Outcome::done, 2), second = write(0, Outcome::done, 2);
  EXPECT_NE(first, second);
  EXPECT_TRUE(std::equal(first.begin(), first.begin() + size, first.begin() + size));
}

TEST_F(DiskOracleTest, AcknowledgedWriteIsReadAndNothingElse) {
  const Sectors old = write(3), last = write(3);
  EXPECT_EQ(wrong(3, last), "");
  EXPECT_EQ(wrong(3, old), "sector 3 has the content of write 1, which is not the last one");
  EXPECT_NE(wrong(3, zeroes_), "");
}

TEST_F(DiskOracleTest, ContentOfAnotherSectorIsWrong) {
  write(3);
  const Sectors other = write(4);
  EXPECT_NE(wrong(3, other), "");
}

TEST_F(DiskOracleTest, SectorOfTwoWritesIsTorn) {
  Sectors mixed = write(3);
  const Sectors last = write(3);
  std::copy(last.begin(), last.begin() + 256, mixed.begin());
  EXPECT_EQ(wrong(3, mixed), "sector 3 is torn");
}

TEST_F(DiskOracleTest, UnknownWriteIsOldOrNewUntilARead) {
  for (const bool keeps_old : {true, false}) {
    const Sectors old = write(3), unknown = write(3, Outcome::unknown);
    const Sectors &seen = keeps_old ? old : unknown, &other = keeps_old ? unknown : old;
    EXPECT_EQ(wrong(3, seen), "");
    EXPECT_NE(wrong(3, other), "") << "a read has shown that it is not there";
    EXPECT_EQ(wrong(3, seen), "");
  }
}

TEST_F(DiskOracleTest, UnknownWriteMayHaveWrittenSomeOfItsSectors) {
  const Sectors old = write(3, Outcome::done, 2);
  const Sectors unknown = write(3, Outcome::unknown, 2);
  Sectors mixed = old;
  std::copy(unknown.begin(), unknown.begin() + size, mixed.begin());
  EXPECT_EQ(wrong(3, mixed), "");
}

TEST_F(DiskOracleTest, WriteAfterAnUnknownOneSettlesIt) {
  const Sectors old = write(3), unknown = write(3, Outcome::unknown), last = write(3);
  EXPECT_NE(wrong(3, unknown), "");
  EXPECT_NE(wrong(3, old), "");
  EXPECT_EQ(wrong(3, last), "");
}

TEST_F(DiskOracleTest, SectorsAreNotQuietWhileTheyAreWritten) {
  Sectors data(2 * size);
  const auto number = oracle_.begin_write(3, data);
  EXPECT_FALSE(oracle_.quiet(3, 1));
  EXPECT_FALSE(oracle_.quiet(2, 2));
  EXPECT_FALSE(oracle_.quiet(4, 9));
  EXPECT_TRUE(oracle_.quiet(2, 1));
  EXPECT_TRUE(oracle_.quiet(5, 1));
  oracle_.end_write(number, Outcome::unknown);
  EXPECT_TRUE(oracle_.quiet(3, 1));
}

TEST_F(DiskOracleTest, PowerLossMayUndoWhatNoFlushHasCovered) {
  for (const bool is_lost : {true, false}) {
    const Sectors old = write(3);
    flush();
    const Sectors last = write(3);
    oracle_.power_lost();
    EXPECT_EQ(wrong(3, is_lost ? old : last), "");
    EXPECT_NE(wrong(3, is_lost ? last : old), "") << "it sticks to what was read";
  }
}

TEST_F(DiskOracleTest, PowerLossMayShowAnyContentSinceTheFlush) {
  write(3);
  flush();
  const Sectors middle = write(3);
  write(3);
  oracle_.power_lost();
  EXPECT_EQ(wrong(3, middle), "");
}

TEST_F(DiskOracleTest, FlushedWriteOutlivesAPowerLoss) {
  const Sectors old = write(3), last = write(3);
  flush();
  oracle_.power_lost();
  EXPECT_NE(wrong(3, old), "");
  EXPECT_EQ(wrong(3, last), "");
}

TEST_F(DiskOracleTest, FlushCoversOnlyWhatHadSucceededBefore) {
  const Sectors old = write(3);
  flush();
  const auto number = oracle_.begin_flush();
  write(3);
  oracle_.end_flush(number);
  oracle_.power_lost();
  EXPECT_EQ(wrong(3, old), "");
}

TEST_F(DiskOracleTest, FlushThatHasNotSucceededCoversNothing) {
  const Sectors old = write(3);
  flush();
  write(3);
  oracle_.begin_flush();
  oracle_.power_lost();
  EXPECT_EQ(wrong(3, old), "");
}

TEST_F(DiskOracleTest, EarlierFlushThatEndsLaterTakesNothingBack) {
  const Sectors old = write(3);
  const auto earlier = oracle_.begin_flush();
  write(3);
  flush();
  oracle_.end_flush(earlier);
  oracle_.power_lost();
  EXPECT_NE(wrong(3, old), "");
}

/// Content that a read has shown may still be lost with the power.
TEST_F(DiskOracleTest, ReadMakesNothingDurable) {
  const Sectors old = write(3);
  flush();
  const Sectors last = write(3);
  EXPECT_EQ(wrong(3, last), "");
  oracle_.power_lost();
  EXPECT_EQ(wrong(3, old), "");
}

TEST_F(DiskOracleTest, AnswerThatComesAfterALossOfPowerSaysNothing) {
  const Sectors old = write(3);
  flush();
  Sectors data(size);
  const auto number = oracle_.begin_write(3, data);
  oracle_.power_lost();
  oracle_.end_write(number, Outcome::done);
  EXPECT_EQ(wrong(3, old), "");
}

TEST_F(DiskOracleTest, FlushThatEndsAfterALossOfPowerCoversNothing) {
  const Sectors old = write(3);
  flush();
  write(3);
  const auto number = oracle_.begin_flush();
  oracle_.power_lost();
  oracle_.end_flush(number);
  EXPECT_EQ(wrong(3, old), "");
}

}  // namespace
}  // namespace outboard::testing
