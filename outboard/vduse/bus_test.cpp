#include <outboard/vduse/bus.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <tests/support/temp_dir.hpp>

namespace outboard::vduse {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string content(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// A machine in a folder: its /sys, /proc, /dev and /run, and a netlink that plays the kernel on them.
class BusTest : public ::testing::Test {
 protected:
  class FakeNetlink final : public Netlink {
   public:
    explicit FakeNetlink(BusTest& test) : test_(test) {}
    Result<std::vector<ManagementDevice>> management_devices() override { return std::vector<ManagementDevice>{}; }
    Status add(const std::string& name) override {
      test_.steps.push_back("add with autoprobe " + content(test_.autoprobe));
      test_.mark_at_add = fs::exists(test_.mark);
      if (test_.add_fails != 0) return add_error(test_.add_fails, name, test_.kernel_text);
      test_.write("sys/bus/vdpa/devices/" + name + "/driver_override", "(null)");
      if (content(test_.autoprobe) == "1" && !test_.kernel_binds.empty()) test_.bind_driver(name, test_.kernel_binds);
      return {};
    }
    Status remove(const std::string& name) override {
      test_.steps.emplace_back("remove");
      if (!fs::exists(test_.path("sys/bus/vdpa/devices/" + name))) return remove_error(ENODEV, name, {});
      fs::remove_all(test_.path("sys/bus/vdpa/devices/" + name));
      return {};
    }

   private:
    BusTest& test_;
  };

  BusTest() {
    write("sys/bus/vdpa/drivers_autoprobe", "1");
    for (const char* driver : {"virtio_vdpa", "vhost_vdpa"}) {
      write(fmt::format("sys/bus/vdpa/drivers/{}/bind", driver), "");
      write(fmt::format("sys/bus/vdpa/drivers/{}/unbind", driver), "");
    }
    fs::create_directories(path("proc"));
  }

  std::string path(const std::string& name) const { return machine.path(name); }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(path(name)).parent_path());
    std::ofstream(path(name)) << text << (text.empty() ? "" : "\n");
  }
  void bind_driver(const std::string& name, const std::string& driver) const {
    fs::create_directory_symlink(path("sys/bus/vdpa/drivers/" + driver),
                                 path("sys/bus/vdpa/devices/" + name + "/driver"));
  }
  Bus bus() {
    const auto sink = [this](Level, std::string_view line) { logged += std::string(line) + "\n"; };
    return Bus({.sysfs = path("sys"),
                .proc = path("proc"),
                .dev = path("dev"),
                .run = path("run"),
                .netlink = std::make_shared<FakeNetlink>(*this),
                .log = Log(sink, Level::info)});
  }

  testing::TempDir machine;
  std::string autoprobe = machine.path("sys/bus/vdpa/drivers_autoprobe");
  std::string mark = machine.path("run/vdpa-autoprobe-off");
  std::vector<std::string> steps;
  std::string logged;
  bool mark_at_add = false;
  int add_fails = 0;
  std::string kernel_text;
  std::string kernel_binds;
};

TEST_F(BusTest, AttachAddsWithAutoprobeOffAndThenBinds) {
  ASSERT_TRUE(bus().attach("blk0", BusDriver::virtio));

  EXPECT_THAT(steps, ElementsAre("add with autoprobe 0"));
  EXPECT_EQ(content(autoprobe), "1");
  EXPECT_EQ(content(path("sys/bus/vdpa/devices/blk0/driver_override")), "virtio_vdpa");
  EXPECT_EQ(content(path("sys/bus/vdpa/drivers/virtio_vdpa/bind")), "blk0");
}

TEST_F(BusTest, AttachGoesOnWhereAProcessWasKilledInTheMiddle) {
  // Between adding and binding, with autoprobe off.
  write("sys/bus/vdpa/devices/blk0/driver_override", "(null)");
  write("sys/bus/vdpa/drivers_autoprobe", "0");
  fs::create_directories(path("run"));
  write("run/vdpa-autoprobe-off", "");
  EXPECT_TRUE(bus().undriven("blk0"));
  ASSERT_TRUE(bus().attach("blk0", BusDriver::virtio));
  EXPECT_THAT(steps, IsEmpty());
  EXPECT_EQ(content(autoprobe), "1");
  EXPECT_EQ(content(path("sys/bus/vdpa/drivers/virtio_vdpa/bind")), "blk0");
}

TEST_F(BusTest, AttachProbesAgainWhereACallerWasKilledInAProbe) {
  write("sys/bus/vdpa/devices/blk0/driver_override", "virtio_vdpa");
  bind_driver("blk0", "virtio_vdpa");
  fs::create_directories(path("sys/bus/vdpa/devices/blk0/virtio0"));
  EXPECT_TRUE(bus().undriven("blk0"));
  ASSERT_TRUE(bus().attach("blk0", BusDriver::virtio));
  EXPECT_THAT(steps, IsEmpty()) << "a device is added once";
  EXPECT_EQ(content(path("sys/bus/vdpa/drivers/virtio_vdpa/unbind")), "blk0");
  EXPECT_EQ(content(path("sys/bus/vdpa/drivers/virtio_vdpa/bind")), "blk0");
  fs::create_directories(path("sys/bus/vdpa/devices/blk0/virtio0/driver"));
  EXPECT_FALSE(bus().undriven("blk0"));
}

TEST_F(BusTest, AttachSaysWhichWayItTakes) {
  ASSERT_TRUE(bus().attach("blk0", BusDriver::vhost));
  EXPECT_THAT(logged, HasSubstr("autoprobe off"));
  EXPECT_THAT(logged, HasSubstr("vhost_vdpa"));
}

TEST_F(BusTest, AMarkStandsWhileAutoprobeIsOffAndGoesWithIt) {
  ASSERT_TRUE(bus().attach("blk0", BusDriver::virtio));
  EXPECT_TRUE(mark_at_add);
  EXPECT_FALSE(fs::exists(mark));
}

TEST_F(BusTest, TheNextAttachRepairsWhatADeadProcessLeft) {
  write("run/vdpa-autoprobe-off", "");
  std::ofstream(autoprobe) << "0\n";

  ASSERT_TRUE(bus().attach("blk0", BusDriver::virtio));

  EXPECT_EQ(content(autoprobe), "1");
  EXPECT_FALSE(fs::exists(mark));
  EXPECT_THAT(logged, HasSubstr("died"));
}

TEST_F(BusTest, AnAutoprobeThatTheAdministratorSwitchedOffStaysOff) {
  std::ofstream(autoprobe) << "0\n";
  ASSERT_TRUE(bus().attach("blk0", BusDriver::virtio));
  EXPECT_EQ(content(autoprobe), "0");
  EXPECT_FALSE(mark_at_add);
}

TEST_F(BusTest, AutoprobeIsPutBackWhenAddingFails) {
  add_fails = ENOMEM;
  EXPECT_EQ(bus().attach("blk0", BusDriver::virtio).error().code(), ENOMEM);
  EXPECT_EQ(content(autoprobe), "1");
  EXPECT_FALSE(fs::exists(mark));
}

TEST_F(BusTest, OneProcessAtATimeAttaches) {
  fs::create_directories(path("run"));
  UniqueFd other(::open(path("run/vdpa.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(::flock(other.get(), LOCK_EX), 0);
  std::mutex mutex;
  std::condition_variable changed;
  bool waits = false;
  const auto sink = [&](Level, std::string_view line) {
    const std::lock_guard lock(mutex);
    waits = waits || line.find("waiting") != std::string_view::npos;
    changed.notify_all();
  };
  Bus waiting({.sysfs = path("sys"),
               .proc = path("proc"),
               .dev = path("dev"),
               .run = path("run"),
               .netlink = std::make_shared<FakeNetlink>(*this),
               .log = Log(sink, Level::info)});
  std::thread thread([&] { EXPECT_TRUE(waiting.attach("blk0", BusDriver::virtio)); });
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return waits; });
  }
  EXPECT_THAT(steps, IsEmpty());
  other.reset();
  thread.join();
  EXPECT_THAT(steps, ElementsAre("add with autoprobe 0"));
}

TEST_F(BusTest, TheLockIsFreeWhileTheDriverProbes) {
  // Binding is a write to `bind`; a FIFO makes it wait for whoever reads.
  fs::remove(path("sys/bus/vdpa/drivers/virtio_vdpa/bind"));
  ASSERT_EQ(::mkfifo(path("sys/bus/vdpa/drivers/virtio_vdpa/bind").c_str(), 0600), 0);
  Bus slow = bus();
  std::thread prober([&] { EXPECT_TRUE(slow.attach("blk0", BusDriver::virtio)); });
  // Opening it ends when the other side has come to its write.
  std::ifstream bind(path("sys/bus/vdpa/drivers/virtio_vdpa/bind"));

  const UniqueFd lock(::open(path("run/vdpa.lock").c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_EQ(::flock(lock.get(), LOCK_EX | LOCK_NB), 0);
  EXPECT_EQ(content(autoprobe), "1");

  std::string name;
  bind >> name;
  EXPECT_EQ(name, "blk0");
  prober.join();
}

TEST_F(BusTest, WithoutTheDriversModuleNothingIsChanged) {
  fs::remove_all(path("sys/bus/vdpa/drivers/vhost_vdpa"));
  const auto done = bus().attach("blk0", BusDriver::vhost);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), ENODEV);
  EXPECT_THAT(done.error().cure(), HasSubstr("modprobe vhost_vdpa"));
  EXPECT_THAT(steps, IsEmpty());
}

TEST_F(BusTest, VDUSE12_WithoutAVdpaBusTheModuleIsNamed) {
  fs::remove_all(path("sys/bus"));
  const auto done = bus().attach("blk0", BusDriver::virtio);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), ENOENT);
  EXPECT_THAT(done.error().cure(), HasSubstr("modprobe"));
}

TEST_F(BusTest, WhenBindingFailsTheDeviceIsOffTheBusAgain) {
  fs::remove(path("sys/bus/vdpa/drivers/virtio_vdpa/bind"));
  const auto done = bus().attach("blk0", BusDriver::virtio);
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().message(), HasSubstr("binding it to virtio_vdpa"));
  EXPECT_THAT(steps, ElementsAre("add with autoprobe 0", "remove"));
  EXPECT_FALSE(bus().attached("blk0"));
}

TEST_F(BusTest, WithoutTheRightToSysfsTheKernelBindsAndTheLogSaysSo) {
  fs::remove(autoprobe);
  kernel_binds = "virtio_vdpa";
  ASSERT_TRUE(bus().attach("blk0", BusDriver::virtio));
  EXPECT_THAT(logged, HasSubstr("the kernel binds a driver by itself"));
}

TEST_F(BusTest, WhenTheKernelBindsAnotherDriverTheDeviceIsTakenOff) {
  // No folder for the lock, so no quiet time, and autoprobe stays on.
  std::ofstream(machine.path("run")) << "a file\n";
  kernel_binds = "vhost_vdpa";
  const auto done = bus().attach("blk0", BusDriver::virtio);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code(), EBUSY);
  EXPECT_THAT(done.error().message(), HasSubstr("vhost_vdpa"));
  EXPECT_THAT(steps, ElementsAre("add with autoprobe 1", "remove"));
}

TEST_F(BusTest, NamesThatTheKernelWouldNotHaveAreRefused) {
  for (const char* name : {"", "..", "control", "a/b", "a b"})
    EXPECT_EQ(bus().attach(name, BusDriver::virtio).error().code(), EINVAL) << name;
  EXPECT_THAT(steps, IsEmpty());
}

TEST_F(BusTest, DetachUnbindsFirst) {
  ASSERT_TRUE(bus().attach("blk0", BusDriver::virtio));
  bind_driver("blk0", "virtio_vdpa");
  steps.clear();
  ASSERT_TRUE(bus().detach("blk0"));
  EXPECT_EQ(content(path("sys/bus/vdpa/drivers/virtio_vdpa/unbind")), "blk0");
  EXPECT_THAT(steps, ElementsAre("remove"));
}

TEST_F(BusTest, DetachOfWhatIsNotThereSaysSo) {
  EXPECT_EQ(bus().detach("blk0").error().code(), ENODEV);
  EXPECT_THAT(steps, IsEmpty());
}

TEST_F(BusTest, VDUSE51_DetachNamesWhoHasTheVhostNodeOpen) {
  ASSERT_TRUE(bus().attach("blk0", BusDriver::vhost));
  write("sys/bus/vdpa/devices/blk0/vhost-vdpa-0/dev", "1:1");
  write("dev/vhost-vdpa-0", "");
  write("proc/4711/comm", "qemu-system-x86");
  fs::create_directories(path("proc/4711/fd"));
  fs::create_symlink(path("dev/vhost-vdpa-0"), path("proc/4711/fd/9"));
  ASSERT_TRUE(bus().detach("blk0"));
  EXPECT_THAT(logged, HasSubstr("4711 (qemu-system-x86)"));
}

TEST_F(BusTest, AChildTellsWhoDrivesAndWhatCameOfIt) {
  write("sys/bus/vdpa/devices/blk0/driver_override", "virtio_vdpa");
  EXPECT_FALSE(bus().child("blk0"));
  fs::create_directories(path("sys/bus/vdpa/devices/blk0/virtio3"));
  EXPECT_FALSE(bus().child("blk0")->bound);
  fs::create_directories(path("sys/bus/vdpa/devices/blk0/virtio3/driver"));
  fs::create_directories(path("sys/bus/vdpa/devices/blk0/virtio3/block/vdb"));
  const auto child = bus().child("blk0");
  EXPECT_EQ(child->driver, BusDriver::virtio);
  EXPECT_EQ(child->name, "virtio3");
  EXPECT_TRUE(child->bound);
  EXPECT_EQ(child->made, "vdb");
}

TEST_F(BusTest, ADeviceThatIsBeingRemovedIsAttachedUntilItsDriverHasLetGo) {
  EXPECT_FALSE(bus().attached("blk0"));
  fs::create_directories(path("sys/class/vduse/blk0/blk0/virtio0/block/vda"));
  EXPECT_TRUE(bus().attached("blk0"));
  EXPECT_FALSE(bus().undriven("blk0"));
  ASSERT_TRUE(bus().child("blk0"));
  EXPECT_EQ(bus().child("blk0")->made, "vda");
}

TEST_F(BusTest, TheControlNodeIsNoDevice) {
  for (const char* name : {"control", "blk1", "blk0"})
    fs::create_directories(path(std::string("sys/class/vduse/") + name));
  EXPECT_THAT(bus().devices(), ElementsAre("blk0", "blk1"));
}

TEST_F(BusTest, RequestsInFlightAreReadsAndWrites) {
  write("sys/class/block/vda/inflight", "       3        4");
  EXPECT_EQ(bus().in_flight("vda"), 7U);
  EXPECT_EQ(bus().in_flight("vdb"), 0U);
}

// Users of a disk.

class Users : public BusTest {
 protected:
  Users() {
    write("sys/class/block/vda/dev", "254:0");
    write("sys/class/block/vda/vda1/dev", "254:1");
    write("sys/class/block/vda/vda1/partition", "1");
    write("sys/class/block/vda/queue/depth", "64");
  }
  void mounts(const std::string& process, const std::string& space, const std::string& line) {
    write("proc/" + process + "/mountinfo", line);
    fs::create_directories(path("proc/" + process + "/ns"));
    fs::create_symlink(space, path("proc/" + process + "/ns/mnt"));
  }
};

TEST_F(Users, NobodyUsesADiskThatIsNotMounted) {
  mounts("self", "mnt:[1]", "22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw");
  EXPECT_THAT(bus().users_of("vda"), IsEmpty());
}

TEST_F(Users, AMountOfTheDiskOrAPartitionCounts) {
  mounts("self", "mnt:[1]", "40 1 254:1 / /mnt/a\\040b rw - ext4 /dev/root rw");
  EXPECT_THAT(bus().users_of("vda"), ElementsAre("/mnt/a b"));
}

TEST_F(Users, AFilesystemWithANumberOfItsOwnIsFoundByItsSource) {
  mounts("self", "mnt:[1]", "40 1 0:52 / /data rw shared:3 master:2 - btrfs /dev/vda rw");
  EXPECT_THAT(bus().users_of("vda"), ElementsAre("/data"));
}

TEST_F(Users, AMountInAContainerCounts) {
  mounts("self", "mnt:[1]", "22 1 8:1 / / rw - ext4 /dev/sda1 rw");
  mounts("77", "mnt:[2]", "40 1 254:0 / /inside rw - ext4 /dev/vda rw");
  EXPECT_THAT(bus().users_of("vda"), ElementsAre("/inside"));
}

TEST_F(Users, SwapCounts) {
  write("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/vda1 partition 1 0 -2");
  EXPECT_THAT(bus().users_of("vda"), ElementsAre("swap"));
}

TEST_F(Users, HoldersCount) {
  fs::create_directories(path("sys/class/block/vda/vda1/holders/dm-0"));
  EXPECT_THAT(bus().users_of("vda"), ElementsAre("dm-0"));
}

// What the kernel's answers mean.

TEST(NetlinkErrors, TheKernelsTextIsInTheError) {
  EXPECT_THAT(add_error(ENODEV, "blk0", "Fail to find the specified management device").message(),
              HasSubstr("Fail to find the specified management device"));
}

TEST(NetlinkErrors, VDUSE9_NoManagementDevice) {
  EXPECT_THAT(add_error(ENODEV, "blk0", {}).message(), HasSubstr("no management device 'vduse'"));
}

TEST(NetlinkErrors, VDUSE10_AnUnknownDeviceOrAQueueThatWasNeverSetUp) {
  EXPECT_THAT(add_error(EINVAL, "blk0", {}).message(), HasSubstr("queue"));
}

TEST(NetlinkErrors, VDUSE11_TheNameIsTaken) { EXPECT_THAT(add_error(EEXIST, "blk0", {}).cure(), HasSubstr("adopt")); }

TEST(NetlinkErrors, VDUSE12_NoRightOrNoFamily) {
  EXPECT_THAT(add_error(EPERM, "blk0", {}).message(), HasSubstr("CAP_NET_ADMIN"));
  EXPECT_THAT(add_error(ENOENT, "blk0", {}).message(), HasSubstr("network namespace"));
  EXPECT_EQ(remove_error(EPERM, "blk0", {}).code(), EPERM);
}

}  // namespace
}  // namespace outboard::vduse
