#include <outboard/storage/request_queue.hpp>

#include <string>

#include <sys/sysmacros.h>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <outboard/storage/uring_engine.hpp>
#include <outboard/testing/sysfs_tree.hpp>

namespace outboard::storage {
namespace {

/// A machine with disk sda (8:0), its partition sda1 (8:1), and layers of device mapper.
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
  void add_layer(const std::string& name, unsigned minor, const std::vector<std::string>& below) const {
    add_device(name, 253, minor);
    for (const std::string& path : below)
      sys_.link(fmt::format("devices/{}/slaves/{}", name, path.substr(path.rfind('/') + 1)), "../../" + path);
  }
  RequestQueue of(unsigned major, unsigned minor) const { return RequestQueue::of(makedev(major, minor), sys_.root()); }

  testing::SysfsTree sys_;
};

TEST_F(RequestQueueTest, OfAPartitionIsThatOfItsDisk) {
  EXPECT_EQ(of(8, 0).disk(), makedev(8, 0));
  EXPECT_EQ(of(8, 0).depth(), 64U);
  EXPECT_EQ(of(8, 1).disk(), makedev(8, 0));
  EXPECT_EQ(of(8, 1).depth(), 64U);
  EXPECT_EQ(of(8, 1).limit("discard_max_bytes"), std::nullopt);
}

TEST_F(RequestQueueTest, OfWhatSysfsDoesNotHaveIsUnknown) {
  EXPECT_EQ(of(0, 45).disk(), makedev(0, 45)) << "a file system of many disks";
  EXPECT_EQ(of(0, 45).depth(), std::nullopt);
}

TEST_F(RequestQueueTest, OfLayersIsOnOthers) {
  add_device("sdb", 8, 16);
  add_layer("dm-0", 0, {"sda/sda1"});  // encryption on a partition
  add_layer("dm-1", 1, {"dm-0"});  // a volume in it
  add_layer("md0", 2, {"sda/sda1", "sdb"});
  for (const unsigned layer : {0U, 1U, 2U}) {
    EXPECT_EQ(of(253, layer).disk(), makedev(253, layer));
    EXPECT_TRUE(of(253, layer).is_on_others()) << layer;
  }
  EXPECT_EQ(of(253, 2).depth(), std::nullopt);
  for (const auto& disk : {of(8, 0), of(8, 1), of(8, 16), of(0, 45)}) EXPECT_FALSE(disk.is_on_others()) << disk.disk();
}

TEST_F(RequestQueueTest, LeavesAQuarterOfItsRoomToOthers) {
  EXPECT_EQ(room_in(of(8, 1)), 48U);
  for (const auto& [depth, room] : {std::pair{256U, 192U}, {2U, 1U}, {1U, 1U}, {0U, 1U}, {1023U, 256U}}) {
    sys_.write("devices/sda/queue/nr_requests", fmt::format("{}\n", depth));
    EXPECT_EQ(room_in(of(8, 1)), room) << depth;
  }
  EXPECT_EQ(room_in(of(0, 45)), 48U) << "unknown";
}

}  // namespace
}  // namespace outboard::storage
