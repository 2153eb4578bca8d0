#include <tools/outboard/vduse/list.hpp>

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include <tests/support/temp_dir.hpp>

namespace outboard::command {
namespace {

namespace fs = std::filesystem;

class VduseList : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(root.path(name)).parent_path());
    std::ofstream(root.path(name)) << text << "\n";
  }
  void make(const std::string& name) const { fs::create_directories(root.path(name)); }

  outboard::testing::TempDir root;
};

TEST_F(VduseList, WithoutTheModuleThereAreNoDevices) {
  EXPECT_TRUE(vduse_devices(root.path()).empty());
  EXPECT_EQ(vduse_text({}), "no VDUSE devices\n");
  EXPECT_EQ(nlohmann::json::parse(vduse_json({}))["devices"].size(), 0U);
}

TEST_F(VduseList, AnIdleDevice) {
  make("sys/class/vduse/control");
  make("sys/class/vduse/idle");
  const auto devices = vduse_devices(root.path());
  ASSERT_EQ(devices.size(), 1U);
  EXPECT_EQ(vduse_text(devices), "idle             not attached, no server visible, no journal\n");
}

TEST_F(VduseList, ADiskWithItsServerAndItsUsers) {
  make("sys/class/vduse/blk0");
  make("sys/bus/vdpa/devices/blk0/virtio0/driver");
  make("sys/bus/vdpa/devices/blk0/virtio0/block/vda");
  write("sys/class/block/vda/dev", "254:0");
  write("proc/self/mountinfo", "40 1 254:0 / /data rw - ext4 /dev/vda rw");
  write("dev/vduse/blk0", "");
  write("proc/4711/comm", "outboard");
  make("proc/4711/fd");
  fs::create_symlink(root.path("dev/vduse/blk0"), root.path("proc/4711/fd/5"));
  write("run/outboard/vduse/blk0.journal", "");
  const std::string usual = root.path("run/outboard/vduse/blk0.journal");
  const auto devices = vduse_devices(root.path());
  EXPECT_EQ(vduse_text(devices),
            "blk0             virtio_vdpa /dev/vda, used: /data, served by 4711 (outboard), journal " + usual + "\n");
  const auto json = nlohmann::json::parse(vduse_json(devices))["devices"][0];
  EXPECT_EQ(json["name"], "blk0");
  EXPECT_EQ(json["attached"], true);
  EXPECT_EQ(json["driver"], "virtio_vdpa");
  EXPECT_EQ(json["child"], "virtio0");
  EXPECT_EQ(json["made"], "vda");
  EXPECT_EQ(json["users"][0], "/data");
  EXPECT_EQ(json["server"]["pid"], 4711);
  EXPECT_EQ(json["journal"], true);
  EXPECT_EQ(json["journal_path"], usual);
}

TEST_F(VduseList, AJournalIsWhereItsServerWasTold) {
  make("sys/class/vduse/blk0");
  write("dev/vduse/blk0", "");
  write("proc/4711/comm", "outboard");
  make("proc/4711/fd");
  fs::create_symlink(root.path("dev/vduse/blk0"), root.path("proc/4711/fd/5"));
  for (const std::string& option :
       {std::string("--journal\0/srv/blk0.journal", 28), std::string("--journal=/srv/blk0.journal")}) {
    write("proc/4711/cmdline", std::string("outboard\0serve\0", 15) + option + std::string("\0-v", 3));
    EXPECT_EQ(vduse_devices(root.path()).at(0).journal, "/srv/blk0.journal") << option;
  }
}

TEST_F(VduseList, ADeviceForPrograms) {
  make("sys/class/vduse/blk0");
  make("sys/bus/vdpa/devices/blk0/vhost-vdpa-3");
  EXPECT_EQ(vduse_text(vduse_devices(root.path())),
            "blk0             vhost_vdpa /dev/vhost-vdpa-3, no server visible, no journal\n");
}

TEST_F(VduseList, ADeviceThatNoDriverHasTaken) {
  make("sys/class/vduse/blk0");
  make("sys/bus/vdpa/devices/blk0");
  const auto devices = vduse_devices(root.path());
  EXPECT_EQ(vduse_text(devices), "blk0             attached, no driver, no server visible, no journal\n");
  EXPECT_TRUE(nlohmann::json::parse(vduse_json(devices))["devices"][0]["driver"].is_null());
}

}  // namespace
}  // namespace outboard::command
