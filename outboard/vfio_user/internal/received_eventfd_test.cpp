// What counts as an eventfd, with /proc and without.

#include <sys/syscall.h>
#include <unistd.h>

#include <array>

#include <gtest/gtest.h>

#include <outboard/vfio_user/internal/received_eventfd.hpp>
#include <tests/support/denied_calls.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::vfio_user {
namespace {

void check_what_is_taken() {
  EXPECT_TRUE(adopt_eventfd(std::move(*EventFd::create()).release()));
  EXPECT_EQ(adopt_eventfd(UniqueFd()).error().code(), EINVAL);
  const testing::TempDir folder;
  EXPECT_EQ(adopt_eventfd(folder.make_file("file", 8)).error().code(), EINVAL);
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  for (const int end : ends) EXPECT_EQ(adopt_eventfd(UniqueFd(end)).error().code(), EINVAL);
}

TEST(ReceivedEventFd, OnlyAnEventFdIsTaken) { check_what_is_taken(); }

TEST(ReceivedEventFd, OnlyAnEventFdIsTakenWithoutProc) {
  std::vector<long> reads_links{SYS_readlinkat};
#ifdef SYS_readlink
  reads_links.push_back(SYS_readlink);
#endif
  for (const int error : {ENOENT, EPERM}) testing::with_calls_denied(reads_links, error, check_what_is_taken);
}

}  // namespace
}  // namespace outboard::vfio_user
