#include <outboard/base/result.hpp>

#include <gtest/gtest.h>

namespace outboard {
namespace {

TEST(Error, NeverReadsAsSuccess) {
  EXPECT_EQ(Error(0).code(), EIO);
  EXPECT_EQ(Error(-EINVAL).code(), EIO);
  EXPECT_EQ(Error(ENOENT).code(), ENOENT);
  EXPECT_FALSE(Error(ENOENT).what().empty());
}

TEST(Error, SaysWhatOnWhatAndWhatWouldMendIt) {
  const Error error = Error(EBUSY, "it is in use").while_doing("opening the disk").on("disk.raw").cure("close it");
  EXPECT_EQ(error.message(), "disk.raw: opening the disk: it is in use");
  EXPECT_EQ(error.cure(), "close it");
  EXPECT_EQ(error.subject(), "disk.raw");
  EXPECT_EQ(error.code(), EBUSY);
}

TEST(Error, TakesErrnoWithItsText) {
  errno = ENOENT;
  const Error error = Error::from_errno("opening");
  EXPECT_EQ(error.code(), ENOENT);
  EXPECT_EQ(error.message(), "opening: No such file or directory");
}

Result<int> half(int number) {
  if (number % 2 != 0) return Error(EDOM, "odd");
  return number / 2;
}

Result<int> quarter(int number) {
  OUTBOARD_TRY(const int once, half(number));
  OUTBOARD_CHECK(half(once));
  return once / 2;
}

TEST(Result, TryAndCheckReturnTheFirstError) {
  EXPECT_EQ(*quarter(8), 2);
  EXPECT_EQ(quarter(7).error().code(), EDOM);
  EXPECT_EQ(quarter(6).error().code(), EDOM);
}

}  // namespace
}  // namespace outboard
