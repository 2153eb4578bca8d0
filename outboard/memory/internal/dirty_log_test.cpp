#include <outboard/memory/internal/dirty_log.hpp>

#include <map>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace outboard::memory {
namespace {

constexpr std::uint64_t kib = 1024, mib = kib * kib, gib = kib * mib;

/// The numbers of the bits that a report has set.
std::vector<std::uint64_t> reported(DirtyLog& log, IovaRange range, std::uint64_t page = DirtyLog::page_size) {
  std::vector<std::byte> bitmap(DirtyLog::bitmap_size(range.size, page), std::byte{0xff});
  EXPECT_TRUE(log.report(range, page, bitmap));
  std::vector<std::uint64_t> bits;
  for (std::uint64_t bit = 0; bit < bitmap.size() * 8; ++bit) {
    if ((bitmap[bit / 8] >> (bit % 8) & std::byte{1}) != std::byte{0}) bits.push_back(bit);
  }
  return bits;
}

using Bits = std::vector<std::uint64_t>;

TEST(DirtyLog, ReportsThePagesOfAWriteOnce) {
  DirtyLog log;
  log.written({Iova{0x1fff}, 2});
  log.written({Iova{0x41000}, 0x1000});
  EXPECT_EQ(reported(log, {Iova{0}, mib}), (Bits{1, 2, 0x41}));
  EXPECT_EQ(reported(log, {Iova{0}, mib}), Bits{});
}

TEST(DirtyLog, CountsFromTheStartOfTheRange) {
  DirtyLog log;
  log.written({Iova{0x41000}, 1});
  EXPECT_EQ(reported(log, {Iova{0x3f000}, 3 * 4096}), Bits{2});
}

TEST(DirtyLog, KeepsWhatIsBesideTheRange) {
  DirtyLog log;
  log.written({Iova{0}, mib});
  EXPECT_EQ(reported(log, {Iova{0x3000}, 0x1000}), Bits{0});
  EXPECT_EQ(reported(log, {Iova{0}, 0x5000}), (Bits{0, 1, 2, 4}));
}

TEST(DirtyLog, ReportsLargerPages) {
  DirtyLog log;
  log.written({Iova{0x5000}, 1});
  log.written({Iova{0x7000}, 1});
  log.written({Iova{2 * mib + 0x5000}, 1});
  EXPECT_EQ(reported(log, {Iova{0}, 4 * mib}, 2 * mib), (Bits{0, 1}));
  EXPECT_EQ(reported(log, {Iova{0}, 4 * mib}, 2 * mib), Bits{});
}

TEST(DirtyLog, HasTheLastPageOfAll) {
  DirtyLog log;
  log.written({Iova{UINT64_MAX}, 1});
  log.written({Iova{UINT64_MAX - mib + 1}, 1});
  EXPECT_EQ(reported(log, {Iova{UINT64_MAX - mib + 1}, mib}), (Bits{0, 255}));
}

TEST(DirtyLog, AWriteOfNothingIsNone) {
  DirtyLog log;
  log.written({Iova{0x1000}, 0});
  EXPECT_EQ(reported(log, {Iova{0}, mib}), Bits{});
}

TEST(DirtyLog, ForgetsWhenItIsRestarted) {
  DirtyLog log;
  log.written({Iova{0x1000}, 1});
  ASSERT_TRUE(log.restart({}));
  EXPECT_EQ(reported(log, {Iova{0}, mib}), Bits{});
}

TEST(DirtyLog, IsTheSameAsASet) {
  DirtyLog log;
  std::mt19937_64 random(7);
  for (unsigned round = 0; round < 50; ++round) {
    std::map<std::uint64_t, bool> pages;
    for (unsigned write = 0; write < 40; ++write) {
      const std::uint64_t at = random() % gib, size = 1 + random() % (64 * kib);
      log.written({Iova{at}, size});
      for (std::uint64_t page = at / 4096; page <= (at + size - 1) / 4096; ++page) pages[page] = true;
    }
    Bits expected;
    for (const auto& [page, dirty] : pages) expected.push_back(page);
    ASSERT_EQ(reported(log, {Iova{0}, 2 * gib}), expected) << round;
  }
}

// What a peer asks for.

TEST(DirtyLog, RefusesWhatMakesNoSense) {
  DirtyLog log;
  std::vector<std::byte> bitmap(8);
  const auto code = [&](IovaRange range, std::uint64_t page) {
    const auto done = log.report(range, page, bitmap);
    return done ? 0 : done.error().code();
  };
  EXPECT_EQ(code({Iova{0}, 64 * 4096}, 4096), 0);
  EXPECT_EQ(code({Iova{0}, 65 * 4096}, 4096), EINVAL) << "the bitmap is too small";
  EXPECT_EQ(code({Iova{0}, 0}, 4096), EINVAL);
  EXPECT_EQ(code({Iova{0}, 4096}, 0), EINVAL);
  EXPECT_EQ(code({Iova{0}, 4096}, 2048), EINVAL);
  EXPECT_EQ(code({Iova{0}, 4096}, 4096 * 3), EINVAL);
  EXPECT_EQ(code({Iova{1}, 4096}, 4096), EINVAL);
  EXPECT_EQ(code({Iova{UINT64_MAX - 4095}, 8192}, 4096), EINVAL);
}

TEST(DirtyLog, ReportsOnlyTheRangesThatItWasGiven) {
  DirtyLog log;
  const std::vector<IovaRange> ranges{{Iova{0}, mib}, {Iova{gib}, mib}};
  ASSERT_TRUE(log.restart(ranges));
  std::vector<std::byte> bitmap(DirtyLog::bitmap_size(mib, 4096));
  EXPECT_TRUE(log.report({Iova{gib}, mib}, 4096, bitmap));
  EXPECT_FALSE(log.report({Iova{gib + mib}, mib}, 4096, bitmap));
  EXPECT_FALSE(log.report({Iova{mib / 2}, mib}, 4096, bitmap));
}

TEST(DirtyLog, RefusesRangesThatMakeNoSense) {
  DirtyLog log;
  const std::vector<IovaRange> empty{{Iova{0}, 0}}, wraps{{Iova{UINT64_MAX}, 2}};
  EXPECT_EQ(log.restart(empty).error().code(), EINVAL);
  EXPECT_EQ(log.restart(wraps).error().code(), EINVAL);
  EXPECT_EQ(log.restart(std::vector<IovaRange>(DirtyLog::max_ranges + 1, {Iova{0}, 1})).error().code(), ENOSPC);
}

/// In time that does not depend on how many pages that would be.
TEST(DirtyLog, ReportsAllAddressesAtOnce) {
  DirtyLog log;
  log.written({Iova{UINT64_C(3) << 62}, 1});
  EXPECT_EQ(reported(log, {Iova{0}, UINT64_MAX}, UINT64_C(1) << 62), Bits{3});
}

TEST(DirtyLog, CountsEverythingAsWrittenWhereItHasNoRoom) {
  DirtyLog log;
  for (std::uint64_t block = 0; block <= DirtyLog::max_blocks; ++block)
    log.written({Iova{block * DirtyLog::block_pages * 4096}, 1});
  EXPECT_EQ(reported(log, {Iova{0x7000}, 2 * 4096}), (Bits{0, 1}));
  ASSERT_TRUE(log.restart({}));
  EXPECT_EQ(reported(log, {Iova{0x7000}, 2 * 4096}), Bits{});
}

TEST(DirtyLog, CountsEverythingAsWrittenByAWriteOfTooMuch) {
  DirtyLog log;
  log.written({Iova{0}, UINT64_MAX});
  EXPECT_EQ(reported(log, {Iova{0x7000}, 2 * 4096}), (Bits{0, 1}));
}

}  // namespace
}  // namespace outboard::memory
