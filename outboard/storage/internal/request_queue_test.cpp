#include <outboard/storage/internal/request_queue.hpp>

#include <string>

#include <sys/sysmacros.h>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <tests/support/sysfs_tree.hpp>

namespace outboard::storage {
namespace {

/// A machine with disk sda (8:0) and its partition sda1 (8:1).
class RequestQueueTest : public ::testing::Test {
 protected:
  RequestQueueTest() {
    add_device("sda", 8, 0);
    sys_.write("devices/sda/queue/nr_requests", "64\n");
    add_device("sda/sda1", 8, 1);
    sys_.write("devices/sda/sda1/partition", "1\n");
  }
  void add_device(const std::string& path, unsigned major, unsigned minor) const {
    sys_.write("devices/" + path + "/dev", fmt::format("{}:{}\n", major, minor));
    sys_.link(fmt::format("dev/block/{}:{}", major, minor), "../../devices/" + path);
  }
  std::optional<std::uint64_t> limit(unsigned major, unsigned minor, std::string_view name) const {
    return request_queue_limit(makedev(major, minor), name, sys_.root());
  }

  testing::SysfsTree sys_;
};

TEST_F(RequestQueueTest, OfAPartitionIsThatOfItsDisk) {
  EXPECT_EQ(limit(8, 0, "nr_requests"), 64U);
  EXPECT_EQ(limit(8, 1, "nr_requests"), 64U);
  EXPECT_EQ(limit(8, 1, "discard_max_bytes"), std::nullopt);
}

TEST_F(RequestQueueTest, OfWhatSysfsDoesNotHaveIsUnknown) {
  EXPECT_EQ(limit(0, 45, "nr_requests"), std::nullopt) << "a file system of many disks";
}

}  // namespace
}  // namespace outboard::storage
