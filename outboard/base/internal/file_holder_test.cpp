#include <outboard/base/internal/file_holder.hpp>

#include <sys/sysmacros.h>

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

#include <tests/support/temp_dir.hpp>

namespace outboard {
namespace {

/// A file as stat(2) tells it; nodes cannot be made without root.
struct stat file(mode_t type, ino_t inode, dev_t number) {
  struct stat result{};
  result.st_mode = type | 0600;
  result.st_dev = 1;
  result.st_ino = inode;
  result.st_rdev = number;
  return result;
}

TEST(FileHolder, ADeviceIsTheSameUnderTheNodeOfAnotherContainer) {
  for (const mode_t type : {S_IFBLK, S_IFCHR}) {
    EXPECT_TRUE(is_same_file(file(type, 10, makedev(259, 0)), file(type, 20, makedev(259, 0))));
    EXPECT_FALSE(is_same_file(file(type, 10, makedev(259, 0)), file(type, 10, makedev(259, 1))));
  }
}

TEST(FileHolder, ABlockDeviceIsNoCharacterDeviceOfTheSameNumber) {
  EXPECT_FALSE(is_same_file(file(S_IFBLK, 10, makedev(4, 0)), file(S_IFCHR, 20, makedev(4, 0))));
}

TEST(FileHolder, AnyOtherFileIsTheSameByItsInode) {
  EXPECT_TRUE(is_same_file(file(S_IFREG, 10, 0), file(S_IFREG, 10, 0)));
  EXPECT_FALSE(is_same_file(file(S_IFREG, 10, 0), file(S_IFREG, 20, 0)));
}

TEST(FileHolder, TheNameThatAProcessChoseIsPrintable) {
  const testing::TempDir dir;
  dir.make_file("disk", 1);
  const std::string process = dir.path("proc/1234567");
  std::filesystem::create_directories(process + "/fd");
  std::filesystem::create_symlink(dir.path("disk"), process + "/fd/3");
  std::ofstream(process + "/comm") << "x\x1b[2J\n";
  const auto holder = holder_of(dir.path("disk"), dir.path("proc"));
  ASSERT_TRUE(holder);
  EXPECT_EQ(holder->command, R"(x\x1b[2J)");
}

}  // namespace
}  // namespace outboard
