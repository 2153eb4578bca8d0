// Whether the storage discards, and zeroes without writing zeros: what a device may offer for ranges of gigabytes.

#include <outboard/storage/internal/range_support.hpp>

#include <string>

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <tests/support/sysfs_tree.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::storage {
namespace {

/// As open_image() leaves it where a hole could be made in it.
Image image_of(UniqueFd fd) {
  Image image;
  image.fd = std::move(fd);
  image.geometry.can_discard = image.geometry.can_write_zeroes = image.geometry.can_unmap_zeroes = true;
  return image;
}

struct statfs file_system_of(const Image& image) {
  struct statfs system{};
  EXPECT_EQ(::fstatfs(image.fd.get(), &system), 0);
  return system;
}

TEST(RangesOfAFile, InMemoryAreDiscardedAtOnceAndZeroedByHand) {
  auto image = image_of(outboard::testing::make_memfd(1 << 20));
  ASSERT_EQ(file_system_of(image).f_type, TMPFS_MAGIC);
  probe_range_support(image);
  EXPECT_TRUE(image.geometry.can_discard);
  EXPECT_TRUE(image.geometry.can_unmap_zeroes) << "a hole is made at once, and reads as zeros";
  EXPECT_FALSE(image.geometry.can_write_zeroes) << "tmpfs takes memory for each page of zeros";
}

TEST(RangesOfAFile, AreZeroedAtOnceByAFileSystemWithUnwrittenExtents) {
  const outboard::testing::TempDir dir;
  auto image = image_of(dir.make_file("disk.raw", 1 << 20));
  const auto type = static_cast<unsigned long>(file_system_of(image).f_type);
  if (type != EXT4_SUPER_MAGIC && type != XFS_SUPER_MAGIC && type != BTRFS_SUPER_MAGIC && type != F2FS_SUPER_MAGIC)
    GTEST_SKIP() << dir.path() << " is on none of ext4, XFS, Btrfs and F2FS (TMPDIR chooses another)";
  probe_range_support(image);
  EXPECT_TRUE(image.geometry.can_write_zeroes);
}

TEST(RangesOfAFile, ThatTakesNoHolesAreZeroedByHand) {
  const outboard::testing::TempDir dir;
  auto image = image_of(dir.make_file("disk.raw", 1 << 20));
  image.geometry.can_discard = image.geometry.can_unmap_zeroes = false;
  probe_range_support(image);
  EXPECT_FALSE(image.geometry.can_discard);
  EXPECT_FALSE(image.geometry.can_write_zeroes);
}

/// A disk with a partition, of which only sysfs says what it can do: another device stands for either of them.
class RangesOfADisk : public ::testing::Test {
 protected:
  RangesOfADisk() {
    const std::string number = number_of(disk_);
    sys_.write("devices/sda/dev", number + "\n");
    sys_.link("dev/block/" + number, "../../devices/sda");
    const std::string partition = number_of(partition_);
    sys_.write("devices/sda/sda1/dev", partition + "\n");
    sys_.write("devices/sda/sda1/partition", "1\n");
    sys_.link("dev/block/" + partition, "../../devices/sda/sda1");
  }
  void set_limit(const std::string& name, const std::string& bytes) const {
    sys_.write("devices/sda/queue/" + name, bytes + "\n");
  }
  Geometry measured(bool read_only = false, const char* device = disk_) const {
    auto image = image_of(UniqueFd(::open(device, O_RDONLY | O_CLOEXEC)));
    image.block_device = true;
    image.geometry.read_only = read_only;
    if (read_only)
      image.geometry.can_discard = image.geometry.can_write_zeroes = image.geometry.can_unmap_zeroes = false;
    probe_range_support(image, sys_.root());
    return image.geometry;
  }

  static constexpr const char* disk_ = "/dev/null";
  static constexpr const char* partition_ = "/dev/zero";
  outboard::testing::SysfsTree sys_;

 private:
  static std::string number_of(const char* device) {
    struct stat info{};
    EXPECT_EQ(::stat(device, &info), 0);
    return fmt::format("{}:{}", major(info.st_rdev), minor(info.st_rdev));
  }
};

TEST_F(RangesOfADisk, AreWhatItsQueueSays) {
  for (const bool discards : {false, true}) {
    for (const bool zeroes : {false, true}) {
      set_limit("discard_max_bytes", discards ? "2147450880" : "0");
      set_limit("write_zeroes_max_bytes", zeroes ? "33553920" : "0");
      for (const char* device : {disk_, partition_}) {
        const Geometry geometry = measured(false, device);
        EXPECT_EQ(geometry.can_discard, discards) << device;
        EXPECT_EQ(geometry.can_write_zeroes, zeroes) << device;
        EXPECT_EQ(geometry.can_unmap_zeroes, zeroes) << device;
      }
    }
  }
}

TEST_F(RangesOfADisk, ThatSysfsDoesNotDescribeAreDiscardedOnTrialAndZeroedByHand) {
  const Geometry geometry = measured();
  EXPECT_TRUE(geometry.can_discard) << "trying costs nothing";
  EXPECT_FALSE(geometry.can_write_zeroes) << "the kernel may have to write the zeros";
  EXPECT_FALSE(geometry.can_unmap_zeroes);
}

TEST_F(RangesOfADisk, ThatIsReadOnlyAreNotChanged) {
  set_limit("discard_max_bytes", "2147450880");
  set_limit("write_zeroes_max_bytes", "33553920");
  const Geometry geometry = measured(true);
  EXPECT_FALSE(geometry.can_discard);
  EXPECT_FALSE(geometry.can_write_zeroes);
  EXPECT_FALSE(geometry.can_unmap_zeroes);
}

}  // namespace
}  // namespace outboard::storage
