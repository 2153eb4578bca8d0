#include <outboard/vfio/binding.hpp>

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <outboard/vfio/internal/binding_memory.hpp>
#include <tests/support/sysfs_tree.hpp>

namespace outboard::vfio {
namespace {

namespace fs = std::filesystem;
using outboard::testing::SysfsTree;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr pci::Address disk{0, 1, 0, 0};
const std::string disk_text = "0000:01:00.0";

/// A machine in a folder, whose kernel binds and unbinds when it is written to.
class BindingTest : public ::testing::Test {
 protected:
  BindingTest() {
    tree.add({.address = disk_text,
              .vendor = 0x1b36,
              .device = 0x0010,
              .class_code = 0x010802,
              .driver = "nvme",
              .group = 4});
    fs::create_directories(tree.path("bus/pci/drivers/vfio-pci"));
    native[disk_text] = "nvme";
  }

  Binding binding() {
    Binding::Options options;
    options.root = fs::path(tree.root()).parent_path();
    options.state = options.root / "run";
    options.kernel_release = "7.2";
    options.write = [this](const std::string& path, const std::string& value) { return kernel(path, value); };
    return Binding(options);
  }

  /// What the kernel does, as far as it is asked to.
  Status kernel(const std::string& path, const std::string& value) {
    writes.push_back(fmt::format("{}={}", path.substr(tree.root().size() + 1), value == "\n" ? "" : value));
    if (writes.back().starts_with(fail_at)) return Error(fail_code, "the test says so");
    if (path.ends_with("/driver_override")) {
      tree.write(path.substr(tree.root().size() + 1), value == "\n" ? "(null)\n" : value + "\n");
    } else if (path.ends_with("/driver/unbind")) {
      tree.bind(value, "");
    } else if (path.ends_with("/drivers_probe")) {
      probe(value);
    }
    return {};
  }
  void probe(const std::string& address) {
    const std::string set = tree.read(SysfsTree::folder(address) + "/driver_override");
    if (!tree.sysfs().function(pci::Address::parse(address).value())->driver.empty()) return;
    const std::string driver = set == "(null)\n" ? native[address] : set.substr(0, set.size() - 1);
    if (driver != refused_driver) tree.bind(address, driver);
  }

  std::string driver(const std::string& address = disk_text) {
    return tree.sysfs().function(pci::Address::parse(address).value())->driver;
  }
  std::vector<std::string> what_is_in_the_way(const Binding::Request& request) {
    std::vector<std::string> texts;
    const auto obstacles = binding().obstacles(request).value();
    for (const Obstacle& obstacle : obstacles) texts.push_back(obstacle.what);
    return texts;
  }
  std::vector<std::string> what_is_in_the_way() { return what_is_in_the_way({.functions = {disk}}); }
  std::string cure() { return binding().obstacles({.functions = {disk}}).value().front().cure; }

  /// A disk, as a driver below the function makes one.
  void make_disk(const std::string& name) {
    const std::string folder = SysfsTree::folder(disk_text) + "/nvme/nvme0/" + name;
    tree.write(folder + "/dev", "259:0\n");
    tree.link("class/block/" + name, tree.path(folder));
  }
  void outside(const std::string& path, const std::string& content) {
    const fs::path file = fs::path(tree.root()).parent_path() / path;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << content;
  }
  /// Process 4711 (qemu) has a file open, as /proc would show it.
  void process_has_open(const std::string& path) {
    const fs::path root = fs::path(tree.root()).parent_path();
    outside("proc/4711/comm", "qemu\n");
    fs::create_directories(root / "proc/4711/fd");
    fs::create_symlink(root / path, root / "proc/4711/fd/9");
  }

  SysfsTree tree;
  std::map<std::string, std::string> native;  ///< the driver that the kernel would choose
  std::string refused_driver = "none";        ///< one whose probe fails
  std::string fail_at = "none";
  int fail_code = EIO;
  std::vector<std::string> writes;
};

TEST_F(BindingTest, HandsOverByOverrideUnbindAndProbe) {
  ASSERT_TRUE(binding().bind({.functions = {disk}}));
  EXPECT_EQ(driver(), "vfio-pci");
  EXPECT_THAT(writes, ElementsAre("bus/pci/devices/0000:01:00.0/driver_override=vfio-pci",
                                  "bus/pci/devices/0000:01:00.0/driver/unbind=0000:01:00.0",
                                  "bus/pci/drivers_probe=0000:01:00.0"));
  EXPECT_EQ(binding().remembered_driver(disk), "nvme");
}

TEST_F(BindingTest, TheCommandsSayTheSameAndDoNothing) {
  EXPECT_THAT(binding().commands({.functions = {disk}}).value(),
              ElementsAre("echo vfio-pci >/sys/bus/pci/devices/0000:01:00.0/driver_override",
                          "echo 0000:01:00.0 >/sys/bus/pci/devices/0000:01:00.0/driver/unbind",
                          "echo 0000:01:00.0 >/sys/bus/pci/drivers_probe"));
  tree.remove("bus/pci/drivers/vfio-pci");
  EXPECT_EQ(binding().commands({.functions = {disk}}).value().front(), "modprobe vfio-pci");
  EXPECT_THAT(writes, IsEmpty());
  EXPECT_EQ(binding().remembered_driver(disk), std::nullopt);
}

TEST_F(BindingTest, GivesBackToTheDriverThatWasThere) {
  ASSERT_TRUE(binding().bind({.functions = {disk}}));
  native[disk_text] = "another";  // the kernel would choose this one now
  EXPECT_THAT(binding().commands_to_unbind(disk).value(),
              ElementsAre("echo nvme >/sys/bus/pci/devices/0000:01:00.0/driver_override",
                          "echo 0000:01:00.0 >/sys/bus/pci/devices/0000:01:00.0/driver/unbind",
                          "echo 0000:01:00.0 >/sys/bus/pci/drivers_probe",
                          "echo >/sys/bus/pci/devices/0000:01:00.0/driver_override"));
  EXPECT_EQ(binding().unbind(disk).value(), "nvme");
  EXPECT_EQ(tree.read(SysfsTree::folder(disk_text) + "/driver_override"), "(null)\n");
  EXPECT_EQ(binding().remembered_driver(disk), std::nullopt);
}

TEST_F(BindingTest, AnOverrideThatWasThereComesBackToo) {
  tree.write(SysfsTree::folder(disk_text) + "/driver_override", "nvme\n");
  ASSERT_TRUE(binding().bind({.functions = {disk}}));
  EXPECT_EQ(binding().unbind(disk).value(), "nvme");
  EXPECT_EQ(tree.read(SysfsTree::folder(disk_text) + "/driver_override"), "nvme\n");
}

TEST_F(BindingTest, AFunctionThatHadNoDriverHasNoneAgain) {
  tree.bind(disk_text, "");
  ASSERT_TRUE(binding().bind({.functions = {disk}}));
  EXPECT_EQ(driver(), "vfio-pci");
  EXPECT_EQ(binding().unbind(disk).value(), "");
  EXPECT_EQ(driver(), "");
}

TEST_F(BindingTest, WhatWasHandedOverByHandIsGivenToWhomTheKernelChooses) {
  tree.bind(disk_text, "vfio-pci");
  tree.write(SysfsTree::folder(disk_text) + "/driver_override", "vfio-pci\n");
  EXPECT_EQ(binding().unbind(disk).value(), "nvme");
}

TEST_F(BindingTest, AMemoryThatSomebodyHasSpoiltIsNotFollowed) {
  ASSERT_TRUE(binding().bind({.functions = {disk}}));
  outside("run/" + disk_text, "driver ../../../etc\noverride \ndevice 1b36:0010:1af4:1100\n");
  EXPECT_EQ(binding().remembered_driver(disk), std::nullopt);
  EXPECT_EQ(binding().unbind(disk).value(), "nvme");
}

TEST_F(BindingTest, AMemoryOfAnotherDeviceInTheSamePlaceIsNotFollowed) {
  ASSERT_TRUE(binding().bind({.functions = {disk}}));
  tree.add({.address = disk_text, .vendor = 0x8086, .device = 0x1533, .driver = "vfio-pci", .group = 4});
  native[disk_text] = "igb";
  EXPECT_EQ(binding().remembered_driver(disk), std::nullopt);
  EXPECT_THAT(binding().commands_to_unbind(disk).value(), Not(Contains(HasSubstr("nvme"))));
  EXPECT_EQ(binding().unbind(disk).value(), "igb");
}

TEST_F(BindingTest, AMemoryThatDoesNotSayOfWhichDeviceItIsIsNotFollowed) {
  ASSERT_TRUE(binding().bind({.functions = {disk}}));
  outside("run/" + disk_text, "driver nvme\noverride \n");
  EXPECT_EQ(binding().remembered_driver(disk), std::nullopt);
}

TEST_F(BindingTest, NothingThatAShellWouldRunComesIntoTheLines) {
  ASSERT_TRUE(binding().bind({.functions = {disk}}));
  for (const char* name : {"$(reboot)", "a;b", "a b", "`id`", "-r", ".", "..", "a\tb"}) {
    outside("run/" + disk_text, fmt::format("driver {}\noverride \ndevice 1b36:0010:1af4:1100\n", name));
    EXPECT_EQ(binding().remembered_driver(disk), std::nullopt) << name;
    EXPECT_THAT(binding().commands_to_unbind(disk).value(), Not(Contains(HasSubstr(fmt::format("echo {} ", name)))));
    const Binding::Request request{.functions = {disk}, .driver = name};
    EXPECT_EQ(binding().obstacles(request).value().front().code, EINVAL) << name;
    EXPECT_EQ(binding().commands(request).error().code(), EINVAL) << name;
  }
  outside("run/" + disk_text, "driver snd-hda_intel.2\noverride \ndevice 1b36:0010:1af4:1100\n");
  EXPECT_EQ(binding().remembered_driver(disk), "snd-hda_intel.2");
}

TEST_F(BindingTest, TheFolderOfTheMemoryIsNobodyElsesUnderAnyUmask) {
  const mode_t before = ::umask(0);
  const auto done = binding().bind({.functions = {disk}});
  ::umask(before);
  ASSERT_TRUE(done);
  const fs::path folder = fs::path(tree.root()).parent_path() / "run";
  EXPECT_EQ(fs::status(folder).permissions(), fs::perms(0755));
  EXPECT_EQ(fs::status(folder / disk_text).permissions(), fs::perms(0644));
}

TEST_F(BindingTest, AFolderThatEverybodyCanWriteIsNeitherFollowedNorWritten) {
  ASSERT_TRUE(binding().bind({.functions = {disk}}));
  const fs::path folder = fs::path(tree.root()).parent_path() / "run";
  fs::permissions(folder, fs::perms(0777));
  EXPECT_EQ(binding().remembered_driver(disk), std::nullopt);
  EXPECT_EQ(binding().unbind(disk).value(), "nvme");
  const auto done = binding().bind({.functions = {disk}});
  ASSERT_FALSE(done.has_value());
  EXPECT_EQ(done.error().code(), EPERM);
  EXPECT_THAT(done.error().cure(), HasSubstr("--state"));
  EXPECT_EQ(driver(), "nvme");
}

TEST_F(BindingTest, NoLinkIsFollowedToAMemory) {
  ASSERT_TRUE(binding().bind({.functions = {disk}}));
  const fs::path root = fs::path(tree.root()).parent_path();
  fs::rename(root / "run" / disk_text, root / "elsewhere");
  fs::create_symlink(root / "elsewhere", root / "run" / disk_text);
  EXPECT_EQ(binding().remembered_driver(disk), std::nullopt);
  EXPECT_EQ(binding().unbind(disk).value(), "nvme");
  fs::rename(root / "run", root / "folder");
  fs::create_directory_symlink(root / "folder", root / "run");
  EXPECT_FALSE(binding().bind({.functions = {disk}}));
  EXPECT_EQ(driver(), "nvme");
}

TEST(BindingMemory, OnlyWhatRootOrTheUserItselfWroteIsTrusted) {
  struct stat file{};
  file.st_mode = S_IFREG | 0644;
  EXPECT_TRUE(is_trusted(file, 1000)) << "root's";
  file.st_uid = 1000;
  EXPECT_TRUE(is_trusted(file, 1000));
  EXPECT_FALSE(is_trusted(file, 0));
  EXPECT_FALSE(is_trusted(file, 1001));
  file.st_mode = S_IFREG | 0666;
  EXPECT_FALSE(is_trusted(file, 1000));
  file.st_mode = S_IFIFO | 0600;
  EXPECT_FALSE(is_trusted(file, 1000));
}

TEST_F(BindingTest, WhatIsNotHandedOverCannotBeGivenBack) {
  const auto done = binding().unbind(disk);
  ASSERT_FALSE(done.has_value());
  EXPECT_EQ(done.error().code(), EINVAL);
  EXPECT_THAT(done.error().what(), HasSubstr("'nvme'"));
}

TEST_F(BindingTest, AFunctionThatAProcessHasOpenIsNotTakenFromIt) {
  ASSERT_TRUE(binding().bind({.functions = {disk}}));
  outside("dev/vfio/4", "");
  process_has_open("dev/vfio/4");
  const auto done = binding().unbind(disk);
  ASSERT_FALSE(done.has_value());
  EXPECT_EQ(done.error().code(), EBUSY);
  EXPECT_THAT(done.error().what(), HasSubstr("process 4711 (qemu)"));
  EXPECT_EQ(driver(), "vfio-pci");
}

TEST_F(BindingTest, AFunctionInUseIsNotHandedToAnotherVfioDriver) {
  ASSERT_TRUE(binding().bind({.functions = {disk}}));
  fs::create_directories(tree.path("bus/pci/drivers/mlx5_vfio_pci"));
  outside("dev/vfio/4", "");
  process_has_open("dev/vfio/4");
  const Binding::Request to_another{.functions = {disk}, .driver = "mlx5_vfio_pci"};
  EXPECT_THAT(what_is_in_the_way(to_another), ElementsAre("process 4711 (qemu) has it open"));
  EXPECT_EQ(binding().bind(to_another).error().code(), EBUSY);
  EXPECT_EQ(binding().bind(to_another).error().cure(), "end that process first");
  EXPECT_EQ(driver(), "vfio-pci");
  EXPECT_TRUE(binding().bind({.functions = {disk}})) << "it has its driver already";
}

TEST_F(BindingTest, WhereTheKernelDoesNotBindItTheOldDriverComesBack) {
  refused_driver = "vfio-pci";
  const auto done = binding().bind({.functions = {disk}});
  ASSERT_FALSE(done.has_value());
  EXPECT_EQ(done.error().code(), EIO);
  EXPECT_THAT(done.error().cure(), HasSubstr("dmesg"));
  EXPECT_EQ(driver(), "nvme");
  EXPECT_EQ(tree.read(SysfsTree::folder(disk_text) + "/driver_override"), "(null)\n");
  EXPECT_EQ(binding().remembered_driver(disk), std::nullopt);
}

TEST_F(BindingTest, ADriverThatDoesNotLetGoIsLeftAloneAndRememberedUntilItHas) {
  fail_at = "bus/pci/devices/0000:01:00.0/driver/unbind";
  fail_code = ETIMEDOUT;
  const auto done = binding().bind({.functions = {disk}});
  ASSERT_FALSE(done.has_value());
  EXPECT_EQ(done.error().code(), ETIMEDOUT);
  EXPECT_THAT(done.error().cure(), HasSubstr("outboard pci unbind"));
  // It lets go at last, and somebody tries again.
  fail_at = "none";
  tree.bind(disk_text, "");
  ASSERT_TRUE(binding().bind({.functions = {disk}}));
  EXPECT_EQ(binding().unbind(disk).value(), "nvme");
}

TEST_F(BindingTest, WithoutTheRightsTheCureIsRoot) {
  fail_at = "bus/pci/devices/0000:01:00.0/driver_override";
  fail_code = EACCES;
  EXPECT_EQ(binding().bind({.functions = {disk}}).error().cure(), "run as root");
}

TEST_F(BindingTest, OneThatIsHandedOverIsLeftAsItIs) {
  tree.bind(disk_text, "vfio-pci");
  ASSERT_TRUE(binding().bind({.functions = {disk}}));
  EXPECT_THAT(writes, IsEmpty());
  EXPECT_THAT(binding().commands({.functions = {disk}}).value(), IsEmpty());
}

// What stands in the way.

TEST_F(BindingTest, NothingStandsInTheWayOfAnUnusedDisk) {
  make_disk("nvme0n1");
  EXPECT_THAT(what_is_in_the_way(), IsEmpty());
}

TEST_F(BindingTest, AModuleThatIsNotLoadedIsNotLoadedUnasked) {
  tree.remove("bus/pci/drivers/vfio-pci");
  EXPECT_THAT(what_is_in_the_way(), ElementsAre(HasSubstr("its module is not loaded")));
  EXPECT_EQ(cure(), "modprobe vfio-pci");
}

TEST_F(BindingTest, AMountedDiskStandsInTheWay) {
  make_disk("nvme0n1");
  outside("proc/self/mountinfo", "40 1 259:0 / /data rw - ext4 /dev/nvme0n1 rw\n");
  EXPECT_THAT(what_is_in_the_way(), ElementsAre("the disk nvme0n1 is in use: /data"));
  EXPECT_EQ(cure(), "umount /data");
  EXPECT_EQ(binding().bind({.functions = {disk}}).error().code(), EBUSY);
  EXPECT_THAT(writes, IsEmpty());
}

TEST_F(BindingTest, AMountedPartitionStandsInTheWay) {
  make_disk("nvme0n1");
  const std::string part = SysfsTree::folder(disk_text) + "/nvme/nvme0/nvme0n1/nvme0n1p1";
  tree.write(part + "/dev", "259:1\n");
  tree.write(part + "/partition", "1\n");
  tree.link("class/block/nvme0n1p1", tree.path(part));
  outside("proc/self/mountinfo", "40 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw\n");
  EXPECT_THAT(what_is_in_the_way(), ElementsAre("the disk nvme0n1 is in use: /"));
}

TEST_F(BindingTest, SwapStandsInTheWay) {
  make_disk("nvme0n1");
  outside("proc/swaps", "Filename Type Size Used Priority\n/dev/nvme0n1 partition 1 0 -2\n");
  EXPECT_THAT(what_is_in_the_way(), ElementsAre("the disk nvme0n1 is in use: swap"));
  EXPECT_EQ(cure(), "swapoff /dev/nvme0n1");
}

TEST_F(BindingTest, ADiskThatAProcessHasOpenWithoutAClaimStandsInTheWay) {
  make_disk("nvme0n1");
  outside("dev/nvme0n1", "");
  EXPECT_THAT(what_is_in_the_way(), IsEmpty());
  process_has_open("dev/nvme0n1");
  EXPECT_THAT(what_is_in_the_way(), ElementsAre("the disk nvme0n1 is open in process 4711 (qemu)"));
  EXPECT_EQ(cure(), "end that process first");
  EXPECT_EQ(binding().bind({.functions = {disk}}).error().code(), EBUSY);
  EXPECT_THAT(writes, IsEmpty());
}

TEST_F(BindingTest, APartitionThatAProcessHasOpenStandsInTheWay) {
  make_disk("nvme0n1");
  tree.write(SysfsTree::folder(disk_text) + "/nvme/nvme0/nvme0n1/nvme0n1p1/partition", "1\n");
  outside("dev/nvme0n1", "");
  outside("dev/nvme0n1p1", "");
  process_has_open("dev/nvme0n1p1");
  EXPECT_THAT(what_is_in_the_way(), ElementsAre("the disk nvme0n1p1 is open in process 4711 (qemu)"));
}

TEST_F(BindingTest, ALoopDeviceOnTheDiskStandsInTheWay) {
  make_disk("nvme0n1");
  tree.write("class/block/loop0/dev", "7:0\n");
  tree.write("class/block/loop0/loop/backing_file", "/dev/nvme0n1\n");
  outside("proc/self/mountinfo", "40 1 7:0 / /mnt rw - ext4 /dev/loop0 rw\n");
  EXPECT_THAT(what_is_in_the_way(), ElementsAre("the disk nvme0n1 is in use: /mnt, loop0"));
  outside("proc/self/mountinfo", "");
  EXPECT_THAT(what_is_in_the_way(), ElementsAre("the disk nvme0n1 is in use: loop0"));
  EXPECT_EQ(cure(), "losetup -d /dev/loop0");
}

TEST_F(BindingTest, AControllerThatAProcessHasOpenStandsInTheWay) {
  const std::string controller = SysfsTree::folder(disk_text) + "/nvme/nvme0";
  tree.write(controller + "/dev", "1:3\n");  // that of /dev/null, which is there to be opened
  fs::create_symlink("../../../../class/nvme", tree.path(controller + "/subsystem"));
  EXPECT_THAT(what_is_in_the_way(), IsEmpty());
  outside("proc/4711/comm", "nvme\n");
  const fs::path root = fs::path(tree.root()).parent_path();
  fs::create_directories(root / "proc/4711/fd");
  fs::create_symlink("/dev/null", root / "proc/4711/fd/3");
  EXPECT_THAT(what_is_in_the_way(), ElementsAre("the device nvme0 is open in process 4711 (nvme)"));
}

TEST_F(BindingTest, OneAtATimeBinds) {
  auto first = binding().lock(Duration(0));
  ASSERT_TRUE(first) << first.error().message();
  const auto second = binding().lock(Duration(0));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), EBUSY);
  EXPECT_THAT(second.error().message(), HasSubstr("another process is binding"));
  *first = UniqueFd();
  EXPECT_TRUE(binding().lock(Duration(0)));
}

TEST_F(BindingTest, ADeviceMapperThatHoldsTheDiskStandsInTheWay) {
  make_disk("nvme0n1");
  fs::create_directories(tree.path(SysfsTree::folder(disk_text) + "/nvme/nvme0/nvme0n1/holders/dm-0"));
  EXPECT_THAT(what_is_in_the_way(), ElementsAre("the disk nvme0n1 is in use: dm-0"));
}

TEST_F(BindingTest, ADiskWithSeveralPathsIsUsedByItsOtherName) {
  make_disk("nvme0c1n1");  // the path; the disk itself is below no controller
  tree.write("devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1/dev", "259:5\n");
  tree.link("class/block/nvme0n1", tree.path("devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1"));
  outside("proc/self/mountinfo", "40 1 259:5 / /data rw - ext4 /dev/nvme0n1 rw\n");
  EXPECT_THAT(what_is_in_the_way(), ElementsAre("the disk nvme0n1 is in use: /data"));
}

TEST_F(BindingTest, AnotherFunctionsDiskIsNoneOfItsBusiness) {
  tree.add({.address = "0000:01:00.1", .driver = "nvme", .group = 5});
  tree.write(SysfsTree::folder("0000:01:00.1") + "/nvme/nvme1/nvme1n1/dev", "259:7\n");
  tree.link("class/block/nvme1n1", tree.path(SysfsTree::folder("0000:01:00.1") + "/nvme/nvme1/nvme1n1"));
  outside("proc/self/mountinfo", "40 1 259:7 / /data rw - ext4 /dev/nvme1n1 rw\n");
  EXPECT_THAT(what_is_in_the_way(), IsEmpty());
}

TEST_F(BindingTest, AnInterfaceThatIsUpOrAPartOfAnotherStandsInTheWay) {
  const std::string folder = SysfsTree::folder(disk_text) + "/virtio0/net/eth0";
  tree.write(folder + "/flags", "0x1002\n");
  tree.link("class/net/eth0", tree.path(folder));
  EXPECT_THAT(what_is_in_the_way(), IsEmpty());
  tree.link(folder + "/master", "../br0");
  EXPECT_THAT(what_is_in_the_way(), ElementsAre("the network interface eth0 is a part of br0"));
  tree.write(folder + "/flags", "0x1003\n");
  EXPECT_THAT(what_is_in_the_way(), ElementsAre("the network interface eth0 is up"));
  EXPECT_EQ(cure(), "ip link set eth0 down");
}

TEST_F(BindingTest, ABridgeIsNeverHandedOver) {
  for (const std::uint32_t class_code : {0x060400u, 0x060000u, 0x060100u, 0x060940u}) {
    tree.add({.address = disk_text, .class_code = class_code, .driver = "pcieport", .group = 4});
    EXPECT_THAT(what_is_in_the_way(), ElementsAre(HasSubstr("bridge")));
  }
}

TEST_F(BindingTest, AFunctionWithVirtualFunctionsStandsInItsOwnWay) {
  tree.write(SysfsTree::folder(disk_text) + "/sriov_numvfs", "2\n");
  EXPECT_THAT(what_is_in_the_way(), ElementsAre("2 virtual functions of it are enabled"));
  EXPECT_THAT(cure(), HasSubstr("sriov_numvfs"));
}

TEST_F(BindingTest, VFIO2_MembersOfTheGroupWithOtherDriversAreListed) {
  tree.add({.address = "0000:01:00.1", .driver = "snd_hda_intel", .group = 4});
  tree.add({.address = "0000:01:00.2", .driver = "", .group = 4});
  tree.add({.address = "0000:00:1c.0", .class_code = 0x060400, .driver = "pcieport", .group = 4});
  EXPECT_THAT(what_is_in_the_way(),
              ElementsAre(AllOf(HasSubstr("IOMMU group 4"), HasSubstr("0000:01:00.1 (snd_hda_intel)"),
                                Not(HasSubstr("0000:01:00.2")), Not(HasSubstr("pcieport")))));
  EXPECT_EQ(cure(), "hand all of it over: outboard pci bind 0000:01:00.0 0000:01:00.1");
}

TEST_F(BindingTest, AGroupIsHandedOverWhole) {
  tree.add({.address = "0000:01:00.1", .driver = "snd_hda_intel", .group = 4});
  ASSERT_TRUE(binding().bind({.functions = {disk, {0, 1, 0, 1}}}));
  EXPECT_EQ(driver(), "vfio-pci");
  EXPECT_EQ(driver("0000:01:00.1"), "vfio-pci");
  EXPECT_EQ(binding().unbind({0, 1, 0, 1}).value(), "snd_hda_intel");
}

TEST_F(BindingTest, VFIO7_WithoutAnIommuOnlyByName) {
  tree.add({.address = disk_text, .driver = "nvme"});
  EXPECT_THAT(what_is_in_the_way(), ElementsAre(HasSubstr("no IOMMU")));
  const Binding::Request unsafe{.functions = {disk}, .no_iommu = true};
  EXPECT_THAT(what_is_in_the_way(unsafe), ElementsAre(HasSubstr("has no VFIO without an IOMMU")));
  tree.write("module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n");
  EXPECT_THAT(what_is_in_the_way(unsafe), ElementsAre(HasSubstr("is off")));
  tree.write("module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
  EXPECT_THAT(what_is_in_the_way(unsafe), IsEmpty());
  EXPECT_TRUE(binding().bind(unsafe));
}

TEST_F(BindingTest, AVariantForTheDeviceIsNotPickedSilently) {
  tree.write(SysfsTree::folder(disk_text) + "/modalias", "pci:v000015B3d0000101Esv00001AF4sd00001100bc01sc08i02\n");
  outside("lib/modules/7.2/modules.alias",
          "# Aliases extracted from modules themselves.\n"
          "alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n"
          "alias pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_core\n"
          "alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci\n"
          "alias vfio_pci:v000019E5d0000A250sv*sd*bc*sc*i* hisi_acc_vfio_pci\n");
  EXPECT_THAT(what_is_in_the_way(), ElementsAre(HasSubstr("mlx5_vfio_pci")));
  EXPECT_THAT(cure(), HasSubstr("--driver vfio-pci"));
  EXPECT_THAT(what_is_in_the_way({.functions = {disk}, .driver = "vfio-pci"}), IsEmpty());
  fs::create_directories(tree.path("bus/pci/drivers/mlx5_vfio_pci"));
  ASSERT_TRUE(binding().bind({.functions = {disk}, .driver = "mlx5_vfio_pci"}));
  EXPECT_EQ(driver(), "mlx5_vfio_pci");
}

TEST_F(BindingTest, AFunctionThatIsNotThereIsNoDevice) {
  EXPECT_EQ(binding().bind({.functions = {{0, 9, 0, 0}}}).error().code(), ENODEV);
  EXPECT_EQ(binding().unbind({0, 9, 0, 0}).error().code(), ENODEV);
}

}  // namespace
}  // namespace outboard::vfio
