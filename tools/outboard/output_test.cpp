#include <tools/outboard/output.hpp>

#include <gtest/gtest.h>

namespace outboard::command {
namespace {

TEST(Output, OnlyAReaderOfStdoutThatHasGoneIsPassedOverInSilence) {
  EXPECT_TRUE(nobody_reads(Error(EPIPE, "writing").on("standard output")));
  EXPECT_FALSE(nobody_reads(Error(EPIPE, "sending a message").on("vfio-user:/run/blk.sock")));
  EXPECT_FALSE(nobody_reads(Error(EPIPE, "sending a message")));
  EXPECT_FALSE(nobody_reads(Error(ENOSPC, "writing").on("standard output")));
}

}  // namespace
}  // namespace outboard::command
