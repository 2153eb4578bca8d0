#include <outboard/base/internal/file_birth.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <gtest/gtest.h>

#include <outboard/base/fd.hpp>
#include <tests/support/denied_calls.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard {
namespace {

TEST(FileBirth, IsTheSameByPathAndByDescriptorAndWithoutStatx) {
  const testing::TempDir dir;
  const auto file = dir.make_file("file", 1);
  struct stat info{};
  ASSERT_EQ(::fstat(file.get(), &info), 0);
  const auto check = [&](const FileBirth& birth) {
    EXPECT_EQ(birth.file_system, info.st_dev);
    EXPECT_EQ(birth.inode, info.st_ino);
    EXPECT_EQ(birth.device, 0U);
  };
  const auto born = birth_of(file.get()).value();
  check(born);
  EXPECT_EQ(birth_of(dir.path("file")).value().born_nanoseconds, born.born_nanoseconds);
  testing::with_calls_denied({SYS_statx}, EPERM, [&] {
    const auto plain = birth_of(dir.path("file")).value();
    check(plain);
    EXPECT_EQ(plain.born_seconds, 0U);
  });
}

TEST(FileBirth, OfADeviceNodeNamesTheDevice) {
  struct stat info{};
  ASSERT_EQ(::stat("/dev/null", &info), 0);
  EXPECT_EQ(birth_of("/dev/null").value().device, info.st_rdev);
  EXPECT_EQ(birth_of("/dev/null/no").error().code(), ENOTDIR);
}

}  // namespace
}  // namespace outboard
