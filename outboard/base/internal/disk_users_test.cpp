#include <outboard/base/internal/disk_users.hpp>

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <fstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tests/support/temp_dir.hpp>

namespace outboard {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// A machine in a folder: vda with a partition, and sda1 with the root.
class DiskUsers : public ::testing::Test {
 protected:
  DiskUsers() {
    block("vda", "254:0");
    write("sys/class/block/vda/vda1/partition", "1");
    block("vda/vda1", "254:1");
    block("sda", "8:0");
    block("loop0", "7:0");
    write("proc/self/mountinfo", root_line);
  }

  void write(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(machine.path(name)).parent_path());
    std::ofstream(machine.path(name)) << text;
  }
  void block(const std::string& name, const std::string& number) const {
    write("sys/class/block/" + name + "/dev", number + "\n");
  }
  void mount(const std::string& line) const { write("proc/self/mountinfo", root_line + line + "\n"); }
  std::vector<std::string> users(const std::string& disk = "vda") const {
    return users_of_disk(disk, machine.path("sys"), machine.path("proc"));
  }
  std::vector<std::string> names_on(const std::string& disk) const {
    std::vector<std::string> names;
    for (const auto& device : devices_on_disk(disk, machine.path("sys"), machine.path("proc")))
      names.push_back(device.name);
    return names;
  }
  bool on_vda(unsigned of_major, unsigned of_minor) const {
    return is_on_disk(makedev(of_major, of_minor), "vda", machine.path("sys"), machine.path("proc"));
  }
  bool path_on_vda(const std::string& path) const {
    return path_is_on_disk(path, "vda", machine.path("sys"), machine.path("proc"));
  }

  const std::string root_line = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n";
  testing::TempDir machine;
};

TEST_F(DiskUsers, NobodyUsesADiskThatIsJustThere) {
  EXPECT_THAT(users(), IsEmpty());
  EXPECT_THAT(names_on("vda"), ElementsAre("vda", "vda1"));
}

TEST_F(DiskUsers, AMountOfThePartitionIsFoundByNumberAndByName) {
  mount("40 22 254:1 / /data rw - ext4 /dev/vda1 rw");
  EXPECT_THAT(users(), ElementsAre("/data"));
  mount("40 22 0:51 / /data\\040two rw - btrfs /dev/vda1 rw");
  EXPECT_THAT(users(), ElementsAre("/data two"));
}

/// vda1 is a link into the folder of its disk.
class DiskClaims : public DiskUsers {
 protected:
  DiskClaims() {
    fs::create_symlink("vda/vda1", machine.path("sys/class/block/vda1"));
    write("proc/filesystems", "nodev\ttmpfs\n\text4\n\tfuseblk\n\tbtrfs\n");
  }
  std::vector<std::string> claimants(const std::string& device = "vda") const {
    return claimants_of(device, machine.path("sys"), machine.path("proc"));
  }
  std::vector<std::string> claimed_with(const std::string& device) const {
    std::vector<std::string> names;
    for (const auto& each : devices_claimed_with(device, machine.path("sys"))) names.push_back(each.name);
    return names;
  }
};

TEST_F(DiskClaims, OfADiskAndItsPartitionsAreInTheWayOfEachOther) {
  write("sys/class/block/vda/vda2/partition", "2");
  block("vda/vda2", "254:2");
  fs::create_symlink("vda/vda2", machine.path("sys/class/block/vda2"));
  EXPECT_THAT(claimed_with("vda"), ElementsAre("vda", "vda1", "vda2"));
  EXPECT_THAT(claimed_with("vda1"), ElementsAre("vda1", "vda"));
  for (const char* none : {"vdz", ""}) EXPECT_THAT(claimed_with(none), IsEmpty()) << none;
  mount("40 22 254:1 / /part rw - ext4 /dev/vda1 rw");
  EXPECT_THAT(claimants("vda"), ElementsAre("/part (on vda1)"));
  EXPECT_THAT(claimants("vda1"), ElementsAre("/part"));
  EXPECT_THAT(claimants("vda2"), IsEmpty());
  mount("40 22 254:0 / /whole rw - ext4 /dev/vda rw");
  EXPECT_THAT(claimants("vda"), ElementsAre("/whole"));
  EXPECT_THAT(claimants("vda1"), ElementsAre("/whole (on vda)"));
}

TEST_F(DiskClaims, AreThoseOfItsHoldersAndOfSwap) {
  write("sys/class/block/vda/vda1/holders/dm-0", "");
  EXPECT_THAT(claimants("vda"), ElementsAre("dm-0 (on vda1)"));
  write("sys/class/block/vda/holders/md127", "");
  EXPECT_THAT(claimants("vda1"), ElementsAre("dm-0", "md127 (on vda)"));
  write("proc/swaps", "Filename Type Size Used Priority\n/dev/vda partition 100 0 -2\n");
  EXPECT_THAT(claimants("vda"), ElementsAre("md127", "swap", "dm-0 (on vda1)"));
}

TEST_F(DiskClaims, AreNotThoseOfALoopDeviceOnItNorOfWhatIsMountedFromThat) {
  write("sys/class/block/loop0/loop/backing_file", "/dev/vda\n");
  block("dm-0", "253:0");
  write("sys/class/block/loop0/holders/dm-0", "");
  mount("40 22 7:0 / /mnt rw - ext4 /dev/loop0 rw");
  write("proc/swaps", "Filename Type Size Used Priority\n/dev/loop0 partition 100 0 -2\n");
  EXPECT_THAT(claimants("vda"), IsEmpty());
  EXPECT_THAT(claimants("vda1"), IsEmpty());
  EXPECT_THAT(claimants("loop0"), ElementsAre("/mnt", "dm-0", "swap"));
  EXPECT_THAT(loops_on("vda", machine.path("sys")), ElementsAre("loop0"));
  EXPECT_THAT(loops_on("vda1", machine.path("sys")), IsEmpty());
}

TEST_F(DiskClaims, ByNameAreThoseOfFileSystemsThatHaveADisk) {
  mount("40 22 0:51 / /data rw - btrfs /dev/vda1 rw");
  EXPECT_THAT(claimants("vda1"), ElementsAre("/data"));
  mount("40 22 0:51 / /data rw - fuseblk.ntfs /dev/vda1 rw");
  EXPECT_THAT(claimants("vda1"), ElementsAre("/data"));
  for (const char* any_user_can : {"tmpfs", "fuse", "fuse.ext4", "overlay"}) {
    mount(fmt::format("40 22 0:51 / /data rw - {} /dev/vda1 rw", any_user_can));
    EXPECT_THAT(claimants("vda1"), IsEmpty()) << any_user_can;
  }
}

// A node can be bound over another one's name, in a namespace.
TEST_F(DiskClaims, ByNameAreNotThoseOfAFileSystemOnAnotherDevice) {
  mount("40 22 7:1 / /mnt rw - ext4 /dev/vda1 rw");
  EXPECT_THAT(claimants("vda1"), IsEmpty());
}

TEST_F(DiskUsers, MountsOfOtherNamespacesAreSeen) {
  write("proc/12/mountinfo", "40 22 254:0 / /inside rw - ext4 /dev/vda rw\n");
  fs::create_directories(machine.path("proc/12/ns"));
  fs::create_symlink("mnt:[4026531999]", machine.path("proc/12/ns/mnt"));
  EXPECT_THAT(users(), ElementsAre("/inside"));
}

TEST_F(DiskUsers, ALoopDeviceOnTheDiskIsAUserAndSoIsWhatIsMountedFromIt) {
  write("sys/class/block/loop0/loop/backing_file", "/dev/vda\n");
  EXPECT_THAT(users(), ElementsAre("loop0"));
  mount("40 22 7:0 / /mnt rw - ext4 /dev/loop0 rw");
  EXPECT_THAT(users(), ElementsAre("/mnt", "loop0"));
  EXPECT_THAT(users("sda"), IsEmpty());
}

TEST_F(DiskUsers, ALoopDeviceOnAFileOfAFileSystemOnTheDiskIsAUser) {
  write("sys/class/block/loop0/loop/backing_file", "/data/image\n");
  EXPECT_THAT(users(), IsEmpty()) << "that is on sda1";
  mount("40 22 254:1 / /data rw - ext4 /dev/vda1 rw");
  EXPECT_THAT(users(), ElementsAre("/data", "loop0"));
  mount("40 22 254:1 / /data rw - ext4 /dev/vda1 rw\n41 40 0:30 / /data rw - tmpfs none rw");
  EXPECT_THAT(users(), ElementsAre("/data")) << "another file system lies over it";
}

TEST_F(DiskUsers, HoldersAreFollowedAndLoopDevicesOnThem) {
  block("dm-0", "253:0");
  write("sys/class/block/vda/vda1/holders/dm-0", "");
  EXPECT_THAT(users(), ElementsAre("dm-0"));
  block("md127", "9:127");
  write("sys/class/block/dm-0/holders/md127", "");
  write("sys/class/block/loop0/loop/backing_file", "/dev/md127\n");
  mount("40 22 7:0 / /deep rw - ext4 /dev/loop0 rw");
  EXPECT_THAT(users(), ElementsAre("/deep", "dm-0", "loop0", "md127"));
  EXPECT_THAT(names_on("vda"), ElementsAre("vda", "vda1", "dm-0", "md127", "loop0"));
}

TEST_F(DiskUsers, SwapOnWhatStandsOnTheDisk) {
  write("sys/class/block/loop0/loop/backing_file", "/dev/vda\n");
  write("proc/swaps", "Filename Type Size Used Priority\n/dev/loop0 partition 100 0 -2\n");
  EXPECT_THAT(users(), ElementsAre("loop0", "swap"));
}

TEST_F(DiskUsers, WhatIsOnTheDiskIsKnownByNumberAndByPath) {
  write("sys/class/block/loop0/loop/backing_file", "/dev/vda\n");
  EXPECT_TRUE(on_vda(254, 0));
  EXPECT_TRUE(on_vda(254, 1));
  EXPECT_TRUE(on_vda(7, 0));
  EXPECT_FALSE(on_vda(8, 1));
  mount("40 22 0:51 / /data rw - btrfs /dev/vda1 rw");
  EXPECT_TRUE(on_vda(0, 51)) << "a file system with a number of its own";
  EXPECT_TRUE(path_on_vda("/data/images/disk.raw"));
  EXPECT_FALSE(path_on_vda("/database/disk.raw"));
  EXPECT_FALSE(path_on_vda("/run/journal"));
}

/// A process whose descriptors are links to nodes, as /proc shows them.
class Openers : public DiskUsers {
 protected:
  void open(const std::string& pid, const std::string& target) const {
    write("proc/" + pid + "/comm", "dd\n");
    fs::create_directories(machine.path("proc/" + pid + "/fd"));
    fs::create_symlink(target, machine.path("proc/" + pid + "/fd/3"));
  }
  std::vector<std::string> openers(const std::vector<DeviceNode>& devices) const {
    std::vector<std::string> found;
    for (const auto& one : openers_of(devices, machine.path("proc"), machine.path("dev")))
      found.push_back(fmt::format("{} {} {}", one.process.pid, one.process.command, one.device));
    return found;
  }
};

TEST_F(Openers, HaveAPrintableNameWhateverTheyCallThemselves) {
  write("dev/vda", "");
  open("4711", machine.path("dev/vda"));
  write("proc/4711/comm", "x\x1b[2J\n");
  EXPECT_THAT(openers({{"vda", "254:0"}}), ElementsAre("4711 x\\x1b[2J vda"));
}

TEST_F(Openers, AreFoundByNumberWhateverTheNodeIsCalled) {
  struct stat null{};
  ASSERT_EQ(::stat("/dev/null", &null), 0);
  const std::string number = fmt::format("{}:{}", major(null.st_rdev), minor(null.st_rdev));
  open("4711", "/dev/null");
  const DeviceNode character{"nvme0", number, DeviceNode::Kind::character};
  EXPECT_THAT(openers({character}), ElementsAre("4711 dd nvme0"));
  EXPECT_THAT(openers({{"vda", number, DeviceNode::Kind::block}}), IsEmpty())
      << "a disk of that number is another thing";
  EXPECT_THAT(openers({{"nvme0", "1:99", DeviceNode::Kind::character}}), IsEmpty());
}

TEST_F(Openers, AreFoundByTheNode) {
  write("dev/vda1", "");
  open("4711", machine.path("dev/vda1"));
  open("4712", machine.path("dev/vda"));
  EXPECT_THAT(openers(devices_on_disk("vda", machine.path("sys"), machine.path("proc"))), ElementsAre("4711 dd vda1"));
}

}  // namespace
}  // namespace outboard
