#include <outboard/vduse/internal/bus_remove.hpp>

#include <filesystem>
#include <fstream>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/vduse/internal/node_caretaker.hpp>
#include <tests/support/fake_vduse.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::vduse {
namespace {

namespace fs = std::filesystem;
using outboard::testing::FakeVduse;
using ::testing::HasSubstr;

DeviceShape shape() {
  return {.name = "blk0", .device_id = 2, .features = UINT64_C(3) << 32, .queue_sizes = {64}, .config = {}};
}

class CaretakerTest : public ::testing::Test {
 protected:
  CaretakerTest() { caretaker = std::move(*Caretaker::start(std::move(*device.open()), {})); }
  FakeVduse::Outcome answer(const FakeVduse::Message& message) const {
    EXPECT_TRUE(message.wait());
    return message.outcome();
  }

  FakeVduse device{shape()};
  std::unique_ptr<Caretaker> caretaker;
};

TEST_F(CaretakerTest, ADriversFarewellIsAccepted) {
  EXPECT_EQ(answer(device.set_status(0)), FakeVduse::Outcome::ok);
  EXPECT_EQ(answer(device.set_status(1)), FakeVduse::Outcome::ok);
  EXPECT_EQ(answer(device.update_iotlb()), FakeVduse::Outcome::ok);
}

TEST_F(CaretakerTest, ADriverThatBeginsIsRefusedWhereThatIsClean) {
  EXPECT_EQ(answer(device.set_status(0xb)), FakeVduse::Outcome::refused);
  EXPECT_EQ(answer(device.set_status(0xf)), FakeVduse::Outcome::ok);
  EXPECT_FALSE(device.wedged());
}

TEST_F(CaretakerTest, WhatItCannotAnswerIsRefused) {
  EXPECT_EQ(answer(device.get_vq_state(0)), FakeVduse::Outcome::refused);
  EXPECT_EQ(answer(device.send(99)), FakeVduse::Outcome::refused);
}

TEST_F(CaretakerTest, ItClosesTheNodeInTheEnd) {
  caretaker.reset();
  EXPECT_FALSE(device.is_open());
}

TEST_F(CaretakerTest, ItEndsWhenTheKernelHasGivenTheDeviceUp) {
  device.time_out();
  caretaker.reset();
  EXPECT_TRUE(device.broken());
}

/// A machine in a folder with one VDUSE device on its bus, whose driver says farewell when it is unbound.
class RemovalTest : public ::testing::Test {
 protected:
  class FakeNetlink final : public Netlink {
   public:
    explicit FakeNetlink(RemovalTest& test) : test_(test) {}
    Result<std::vector<ManagementDevice>> management_devices() override { return std::vector<ManagementDevice>{}; }
    Status add(const std::string&) override { return Error(ENOTSUP); }
    Status remove(const std::string& name) override {
      const auto farewell = test_.device.set_status(0);
      EXPECT_TRUE(farewell.wait());
      test_.farewell_answered = farewell.ok();
      test_.device.detach();
      fs::remove_all(test_.machine.path("sys/bus/vdpa/devices/" + name));
      return {};
    }

   private:
    RemovalTest& test_;
  };

  class ControlFile final : public NodeFile {
   public:
    explicit ControlFile(RemovalTest& test) : test_(test) {}
    int fd() const override { return -1; }
    int control(std::uint32_t request, void*) override {
      if (request != spec::ioctl::destroy_dev) return 0;
      ++test_.destroy_calls;
      if (test_.device.attached() || test_.device.is_open()) return -EBUSY;
      if (test_.busy_for > 0) return test_.busy_for--, -EBUSY;
      test_.destroyed = true;
      return 0;
    }
    ssize_t read(MutableBytes) override { return -EAGAIN; }
    ssize_t write(Bytes) override { return -EINVAL; }

   private:
    RemovalTest& test_;
  };

  RemovalTest() {
    fs::create_directories(machine.path("sys/class/vduse/blk0"));
    fs::create_directories(machine.path("sys/bus/vdpa/devices/blk0/virtio0/driver"));
    fs::create_directories(machine.path("sys/bus/vdpa/devices/blk0/virtio0/block/vda"));
    write("sys/class/block/vda/dev", "254:0");
    write("sys/class/block/vda/inflight", "0 0");
    write("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw");
    fs::create_directories(machine.path("run"));
    std::ofstream(machine.path("run/blk0.journal")).flush();  // one that was never finished
    const auto node = *device.open();
    EXPECT_TRUE(node->set_up_queue(0, 64, 0));
    EXPECT_TRUE(device.attach());
  }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(machine.path(name)).parent_path());
    std::ofstream(machine.path(name)) << text << "\n";
  }
  Status remove(const std::string& name = "blk0") {
    Bus bus({.sysfs = machine.path("sys"),
             .proc = machine.path("proc"),
             .dev = machine.path("dev"),
             .run = machine.path("run"),
             .netlink = std::make_shared<FakeNetlink>(*this)});
    Control control = std::move(*Control::on(std::make_unique<ControlFile>(*this), spec::api_version_0));
    Removal removal(bus, control,
                    {.journal = machine.path("run/blk0.journal"),
                     .open = [this](const std::string&) { return device.open(); },
                     .pause = [this](Duration) { return ++pauses < 1000; }});
    return removal.remove(name);
  }

  testing::TempDir machine;
  FakeVduse device{shape()};
  bool farewell_answered = false;
  bool destroyed = false;
  unsigned destroy_calls = 0;
  unsigned busy_for = 0;
  unsigned pauses = 0;
};

TEST_F(RemovalTest, VDUSE50_WhatADeadServerLeftIsTakenOffTheBusAndDestroyed) {
  ASSERT_TRUE(remove());
  EXPECT_TRUE(farewell_answered);
  EXPECT_TRUE(destroyed);
  EXPECT_FALSE(fs::exists(machine.path("run/blk0.journal")));
}

TEST_F(RemovalTest, AFileThatIsNoJournalStays) {
  write("run/blk0.journal", "precious");
  ASSERT_TRUE(remove());
  EXPECT_TRUE(destroyed);
  EXPECT_TRUE(fs::exists(machine.path("run/blk0.journal")));
}

TEST_F(RemovalTest, VDUSE50_AnIdleOneIsDestroyed) {
  device.detach();
  fs::remove_all(machine.path("sys/bus/vdpa/devices/blk0"));
  ASSERT_TRUE(remove());
  EXPECT_FALSE(farewell_answered);
  EXPECT_TRUE(destroyed);
}

TEST_F(RemovalTest, AServedOneIsLeftAlone) {
  const auto server = device.open();
  EXPECT_EQ(remove().error().code(), EBUSY);
  EXPECT_EQ(destroy_calls, 0U);
  EXPECT_TRUE(device.attached());
}

TEST_F(RemovalTest, AMountedOneIsLeftAlone) {
  write("proc/self/mountinfo", "40 1 254:0 / /data rw - ext4 /dev/vda rw");
  const auto done = remove();
  EXPECT_EQ(done.error().code(), EBUSY);
  EXPECT_THAT(done.error().message(), HasSubstr("/data"));
  EXPECT_EQ(destroy_calls, 0U);
}

TEST_F(RemovalTest, VDUSE51_OneWithRequestsInFlightIsLeftToItsServer) {
  write("sys/class/block/vda/inflight", "1 2");
  const auto done = remove();
  EXPECT_EQ(done.error().code(), EBUSY);
  EXPECT_THAT(done.error().message(), HasSubstr("3 requests"));
  EXPECT_THAT(done.error().cure(), HasSubstr("start its server again"));
}

TEST_F(RemovalTest, VDUSE51_ItsDiskIsNotOpenedWhileRequestsAreInFlight) {
  fs::create_directories(machine.path("dev"));
  fs::create_symlink("vda", machine.path("dev/vda"));  // opening it would fail
  write("sys/class/block/vda/inflight", "1 0");
  EXPECT_THAT(remove().error().message(), HasSubstr("1 requests"));
}

TEST_F(RemovalTest, OneWhoseDiskCannotBeOpenedIsNotTakenForUnused) {
  fs::create_directories(machine.path("dev"));
  fs::create_symlink("vda", machine.path("dev/vda"));
  const auto done = remove();
  EXPECT_EQ(done.error().code(), ELOOP);
  EXPECT_TRUE(device.attached());
  EXPECT_EQ(destroy_calls, 0U);
}

TEST_F(RemovalTest, VDUSE48_WhoHoldsItMayBeOnItsWayOut) {
  busy_for = 3;
  ASSERT_TRUE(remove());
  EXPECT_EQ(destroy_calls, 4U);
}

TEST_F(RemovalTest, VDUSE48_ButNotForEver) {
  busy_for = 100000;
  EXPECT_EQ(remove().error().code(), EBUSY);
  EXPECT_LT(pauses, 1000U);
}

TEST_F(RemovalTest, WhatIsNotThereIsSaidNotToBe) {
  EXPECT_EQ(remove("blk1").error().code(), ENOENT);
  EXPECT_EQ(remove("../x").error().code(), EINVAL);
}

}  // namespace
}  // namespace outboard::vduse
