#include <tools/outboard/command.hpp>

#include <gtest/gtest.h>

namespace outboard::command {
namespace {

TEST(Command, OnlyAReaderOfStdoutThatHasGoneIsPassedOverInSilence) {
  EXPECT_TRUE(nobody_reads(Error(EPIPE, "writing").on("standard output")));
  EXPECT_FALSE(nobody_reads(Error(EPIPE, "sending a message").on("vfio-user:/run/blk.sock")));
  EXPECT_FALSE(nobody_reads(Error(EPIPE, "sending a message")));
  EXPECT_FALSE(nobody_reads(Error(ENOSPC, "writing").on("standard output")));
}

TEST(Command, AValueThatAnOptionDoesNotTakeIsWrongUsage) {
  EXPECT_TRUE(is_usage_error(Error(ERANGE, "300 is not between 1 and 256").on("--queues")));
  EXPECT_TRUE(is_usage_error(Error(EINVAL, "'12x' is not a size").on("--size")));
  EXPECT_FALSE(is_usage_error(Error(EINVAL, "the image has 1000 bytes").on("disk.raw")));
  EXPECT_FALSE(is_usage_error(Error(EIO, "writing").on("--ready-fd 9")));
}

TEST(Command, SecondsAreNumbersInTheirRange) {
  for (const char* good : {"0.01", "2", "1e2", "86400"}) {
    double seconds = 0;
    CLI::App app;
    add_seconds(app, "--seconds", seconds, 0.01, "");
    EXPECT_NO_THROW(app.parse(std::string("--seconds ") + good)) << good;
    EXPECT_GT(seconds, 0);
  }
  for (const char* bad : {"0", "0.001", "86401", "nan", "inf", "soon", "1s", "\"\""}) {
    double seconds = 7;
    CLI::App app;
    add_seconds(app, "--seconds", seconds, 0.01, "");
    EXPECT_THROW(app.parse(std::string("--seconds ") + bad), CLI::ParseError) << bad;
    EXPECT_EQ(seconds, 7) << bad;
  }
}

}  // namespace
}  // namespace outboard::command
