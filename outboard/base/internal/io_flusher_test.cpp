#include <outboard/base/internal/io_flusher.hpp>

#include <sys/prctl.h>

#include <thread>

#include <gtest/gtest.h>

namespace outboard {
namespace {

constexpr int get_io_flusher = 58;  // PR_GET_IO_FLUSHER

/// Nobody may ask either who may not set it.
bool is_flusher() { return ::prctl(get_io_flusher, 0, 0, 0, 0) == 1; }

// Whether the kernel lets this process depends on who runs it: tests/system/vduse_life.sh has the right.

TEST(IoFlusher, HoldsForTheThreadAndThoseThatItStartsUntilItIsDestroyed) {
  const bool before = is_flusher();
  {
    const auto flusher = IoFlusher::begin();
    EXPECT_EQ(is_flusher(), flusher.has_value());
    if (!flusher) {
      EXPECT_EQ(flusher.error().code(), EPERM);
    }
    bool child = false;
    std::thread([&] { child = is_flusher(); }).join();
    EXPECT_EQ(child, flusher.has_value());
  }
  EXPECT_EQ(is_flusher(), before);
}

TEST(IoFlusher, TheInnerOneLeavesTheOuterOneAlone) {
  const auto outer = IoFlusher::begin();
  {
    const auto inner = IoFlusher::begin();
  }
  EXPECT_EQ(is_flusher(), outer.has_value());
}

TEST(IoFlusher, OfAnotherThreadIsNotOfThisOne) {
  const auto flusher = IoFlusher::begin();
  if (!flusher) return;  // without the right there is none
  EXPECT_TRUE(flusher->is_of_this_thread());
  bool here = true;
  std::thread([&] { here = flusher->is_of_this_thread(); }).join();
  EXPECT_FALSE(here);
}

}  // namespace
}  // namespace outboard
