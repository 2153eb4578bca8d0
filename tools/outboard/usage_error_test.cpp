#include <tools/outboard/usage_error.hpp>

#include <gtest/gtest.h>

namespace outboard::command {
namespace {

TEST(UsageError, AValueThatAnOptionDoesNotTakeIsWrongUsage) {
  EXPECT_TRUE(is_usage_error(Error(ERANGE, "300 is not between 1 and 256").on("--queues")));
  EXPECT_TRUE(is_usage_error(Error(EINVAL, "'12x' is not a size").on("--size")));
  EXPECT_FALSE(is_usage_error(Error(EINVAL, "the image has 1000 bytes").on("disk.raw")));
  EXPECT_FALSE(is_usage_error(Error(EIO, "writing").on("--ready-fd 9")));
}

}  // namespace
}  // namespace outboard::command
