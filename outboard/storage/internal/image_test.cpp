// What opening an image finds out about it, and says when it cannot.

#include <outboard/storage/internal/image.hpp>

#include <array>
#include <string>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <tests/support/denied_calls.hpp>
#include <tests/support/held_file_system.hpp>
#include <tests/support/loop_device.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::storage {
namespace {

TEST(OpenedImage, OfTheLargestSizeCanBeDiscarded) {
  const outboard::testing::TempDir dir;
  const UniqueFd small = dir.make_file("small.raw", 65536);
  const UniqueFd large = dir.make_file("large.raw", 0);
  const std::array<std::uint64_t, 3> largest{(UINT64_C(1) << 63) - 512, (UINT64_C(1) << 44) - 4096, UINT64_C(1) << 40};
  bool made = false;
  for (const std::uint64_t size : largest) made = made || ::ftruncate(large.get(), static_cast<off_t>(size)) == 0;
  ASSERT_TRUE(made);
  const auto expected = open_image(dir.path("small.raw"), false, false, Log());
  const auto image = open_image(dir.path("large.raw"), false, false, Log());
  ASSERT_TRUE(expected);
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_EQ(image->geometry.can_discard, expected->geometry.can_discard);
  EXPECT_EQ(::lseek(large.get(), 0, SEEK_DATA), -1) << "asking has written something";
}

TEST(OpenedImage, HasPhysicalBlocksOfAtMostAPage) {
  for (const auto& [preferred, physical, optimal] :
       {std::array{512U, 512U, 0U}, {4096U, 4096U, 0U}, {1U << 20, 4096U, 1U << 20}}) {
    const auto made = outboard::testing::HeldFileSystem::create(UINT64_C(1) << 20, preferred);
    if (!made) GTEST_SKIP() << "no FUSE file system here: " << made.error().message();
    const auto image = open_image((*made)->disk(), false, false, Log());
    ASSERT_TRUE(image) << image.error().message();
    EXPECT_EQ(image->geometry.physical_block, physical);
    EXPECT_EQ(image->geometry.optimal_io, optimal) << preferred;
  }
}

TEST(OpenedImage, WithNothingBeyondItsEndIsAskedInOneOfItsHoles) {
  const outboard::testing::TempDir dir;
  const UniqueFd full = dir.make_file("full.raw", 65536);
  const std::string bytes(65536, 'x');
  ASSERT_EQ(::pwrite(full.get(), bytes.data(), bytes.size(), 0), 65536);
  static_cast<void>(dir.make_file("sparse.raw", 65536));
  for (const int error : {EFBIG, EINVAL, EOPNOTSUPP}) {
    outboard::testing::with_calls_denied({SYS_fallocate}, error, [&] {
      const auto without_holes = open_image(dir.path("full.raw"), false, false, Log());
      ASSERT_TRUE(without_holes) << without_holes.error().message();
      EXPECT_EQ(without_holes->geometry.can_discard, error != EOPNOTSUPP) << "without a hole nothing is known";
      const auto with_a_hole = open_image(dir.path("sparse.raw"), false, false, Log());
      ASSERT_TRUE(with_a_hole) << with_a_hole.error().message();
      EXPECT_FALSE(with_a_hole->geometry.can_discard);
    });
  }
}

TEST(OpenedImage, OnAWriteProtectedBlockDeviceIsServedReadOnly) {
  const outboard::testing::TempDir dir;
  static_cast<void>(dir.make_file("disk.raw", 1 << 20));
  const auto device = outboard::testing::LoopDevice::attach(dir.path("disk.raw"));
  if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
  const auto protect = [&device](int state) { ASSERT_EQ(::ioctl(device->device.get(), BLKROSET, &state), 0); };
  protect(1);
  for (const bool direct : {false, true}) {
    const auto refused = open_image(device->path, false, direct, Log());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), EACCES);
    EXPECT_EQ(refused.error().subject(), device->path);
    EXPECT_EQ(refused.error().what(), "the block device is write-protected");
    EXPECT_EQ(refused.error().cure(), "serve it read-only, or: blockdev --setrw " + device->path);
    const auto image = open_image(device->path, true, direct, Log());
    EXPECT_TRUE(image) << image.error().message();
  }
  protect(0);
  const auto image = open_image(device->path, false, false, Log());
  EXPECT_TRUE(image) << image.error().message();
}

TEST(OpenedImage, IsRefusedWithTheReasonWhenDescriptorsRunOut) {
  const outboard::testing::TempDir dir;
  static_cast<void>(dir.make_file("disk.raw", 65536));
  const int child = ::fork();
  if (child == 0) {
    const int next = ::dup(0);
    // Room for none, for the first only, and so on: each of them is refused alike.
    for (rlim_t more = 0; more < 3; ++more) {
      const rlimit limit{static_cast<rlim_t>(next) + more + (more > 0 ? 1 : 0), 4096};
      if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) ::_exit(1);
      const auto image = open_image(dir.path("disk.raw"), false, true, Log());
      if (image) ::_exit(more == 2 ? 0 : 2);
      if (image.error().code() != EMFILE || image.error().cure().find("ulimit -n") == std::string::npos) ::_exit(3);
    }
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

/// With O_DIRECT and without.
class LetGo : public ::testing::TestWithParam<bool> {
 protected:
  LetGo() { static_cast<void>(dir_.make_file("disk.raw", 65536)); }
  Result<Image> open() const { return open_image(path(), false, GetParam(), Log(), at_once()); }
  Result<Image> open_unlocked() const { return open_image_unlocked(path(), false, GetParam(), Log()); }
  std::string path() const { return dir_.path("disk.raw"); }
  static LockTimeouts at_once() { return {.running = Duration::zero(), .ended = Duration::zero()}; }
  static int error_of(const Status& status) { return status ? 0 : status.error().code(); }

  outboard::testing::TempDir dir_;
};
INSTANTIATE_TEST_SUITE_P(, LetGo, ::testing::Bool(),
                         [](const auto& direct) { return direct.param ? "Direct" : "Cached"; });

TEST_P(LetGo, OnlyOneOfTwoHasTheImage) {
  const auto first = open();
  ASSERT_TRUE(first) << first.error().message();
  const auto second = open_unlocked();
  ASSERT_TRUE(second) << second.error().message();
  EXPECT_EQ(second->geometry.capacity, first->geometry.capacity);
  EXPECT_EQ(second->geometry.can_discard, first->geometry.can_discard);
  EXPECT_EQ(error_of(second->take_back(Log())), EBUSY);
  EXPECT_TRUE(first->take_back(Log())) << "it has it";
  first->let_go();
  first->let_go();
  EXPECT_TRUE(second->take_back(Log()));
  EXPECT_EQ(error_of(first->take_back(Log())), EBUSY);
  EXPECT_EQ(open().error().code(), EBUSY) << "and neither has a third";
  second->let_go();
  EXPECT_TRUE(first->take_back(Log()));
  EXPECT_EQ(open().error().code(), EBUSY);
}

TEST_P(LetGo, AnybodyMayHaveWhatNobodyHas) {
  const auto first = open();
  ASSERT_TRUE(first);
  first->let_go();
  EXPECT_TRUE(open());
}

TEST(OpenedImage, ABlockDeviceIsNotOpenedBesideAnother) {
  const outboard::testing::TempDir dir;
  static_cast<void>(dir.make_file("disk.raw", 1 << 20));
  const auto device = outboard::testing::LoopDevice::attach(dir.path("disk.raw"));
  if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
  const auto image = open_image_unlocked(device->path, false, false, Log());
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().code(), ENOTSUP);
  EXPECT_TRUE(open_image_unlocked(device->path, true, false, Log())) << "to read";
}

}  // namespace
}  // namespace outboard::storage
