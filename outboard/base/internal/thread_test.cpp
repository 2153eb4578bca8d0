#include <outboard/base/internal/thread.hpp>

#include <sys/syscall.h>

#include <gtest/gtest.h>

#include <tests/support/denied_calls.hpp>

namespace outboard {
namespace {

TEST(AThread, RunsItsBody) {
  bool ran = false;
  auto thread = start_thread("a test", [&ran] { ran = true; });
  ASSERT_TRUE(thread) << thread.error().message();
  thread->join();
  EXPECT_TRUE(ran);
}

TEST(AThread, ThatCannotBeStartedIsAnErrorWithACure) {
  for (const int code : {EAGAIN, EPERM}) {
    // Where there is no clone3, the C library calls clone.
    testing::with_calls_denied({SYS_clone3, SYS_clone}, code, [code] {
      const auto thread = start_thread("disk I/O", [] { FAIL() << "it runs"; });
      ASSERT_FALSE(thread);
      EXPECT_EQ(thread.error().code(), code);
      EXPECT_NE(thread.error().message().find("disk I/O"), std::string::npos);
      EXPECT_FALSE(thread.error().cure().empty());
    });
  }
}

}  // namespace
}  // namespace outboard
