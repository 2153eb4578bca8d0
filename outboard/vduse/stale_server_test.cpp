#include <outboard/vduse/stale_server.hpp>

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/testing/temp_dir.hpp>

namespace outboard::vduse {
namespace {

using ::testing::HasSubstr;

TEST(StaleServer, ItsFolderIsNobodyElsesToWriteToWhateverTheUmask) {
  const outboard::testing::TempDir dir;
  const mode_t before = ::umask(0);
  const auto folder = make_run_folder(dir.path("run"));
  ::umask(before);
  ASSERT_TRUE(folder) << folder.error().message();
  for (const std::string& each : {dir.path("run"), *folder}) {
    struct stat info{};
    ASSERT_EQ(::stat(each.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 07777, 0755U) << each;
  }
  EXPECT_TRUE(make_run_folder(dir.path("run"))) << "it is there";
}

TEST(StaleServer, Row55_ALockSaysWhoHasItAndIsNobodyElsesToRead) {
  const outboard::testing::TempDir dir;
  const std::string path = dir.path("lock");
  const auto held = lock_name(path, Duration(0));
  ASSERT_TRUE(held);
  EXPECT_THAT(lock_name(path, Duration(0)).error().message(), HasSubstr("process " + std::to_string(::getpid())));
  struct stat info{};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
}

TEST(StaleServer, WhatIsInALockIsNotRepeated) {
  const outboard::testing::TempDir dir;
  const std::string path = dir.path("lock");
  const auto held = lock_name(path, Duration(0));
  ASSERT_TRUE(held);
  std::ofstream(path) << "\x1b[2J";
  EXPECT_THAT(lock_name(path, Duration(0)).error().message(), HasSubstr("another process"));
}

TEST(StaleServer, ALockThatIsALinkIsNotFollowed) {
  const outboard::testing::TempDir dir;
  ASSERT_EQ(::symlink(dir.path("elsewhere").c_str(), dir.path("lock").c_str()), 0);
  EXPECT_EQ(lock_name(dir.path("lock"), Duration(0)).error().code(), ELOOP);
  EXPECT_NE(::access(dir.path("elsewhere").c_str(), F_OK), 0);
}

TEST(StaleServer, AProcessThatHasGoneIsNotWaitedFor) {
  EXPECT_TRUE(wait_for_end_of(0, 0, Duration(0)));
  EXPECT_TRUE(wait_for_end_of(::getppid(), 1, Duration(0))) << "another one of that number";
}

}  // namespace
}  // namespace outboard::vduse
