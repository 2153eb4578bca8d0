// A server on a machine in a folder: a control node, a bus and a kernel that are played. Its loop runs here, its
// attaching and detaching on the thread that it has for that.

#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/vduse/server.hpp>
#include <tests/support/device_rig.hpp>
#include <tests/support/fake_vduse.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::vduse {

namespace fs = std::filesystem;
using outboard::testing::FakeVduse;
using outboard::testing::HandDriver;
using outboard::testing::ScriptedDevice;
using ::testing::HasSubstr;

inline DeviceShape shape_of(const spec::DeviceConfig& head, const std::byte* config) {
  return {.name = head.name.data(),
          .device_id = head.device_id,
          .vendor_id = head.vendor_id,
          .features = head.features,
          .queue_sizes = std::vector<std::uint16_t>(head.vq_num, 16),
          .groups = head.ngroups,
          .address_spaces = head.nas,
          .config = std::vector<std::byte>(config, config + head.config_size)};
}

class ServerTest : public ::testing::Test {
 protected:
  /// /dev/vduse/control.
  class ControlFile final : public NodeFile {
   public:
    explicit ControlFile(ServerTest& test) : test_(test) {}
    int fd() const override { return -1; }
    int control(std::uint32_t request, void* argument) override {
      if (request == spec::ioctl::create_dev) return create(static_cast<const std::byte*>(argument));
      if (request == spec::ioctl::destroy_dev) return destroy();
      return 0;
    }
    ssize_t read(MutableBytes) override { return -EAGAIN; }
    ssize_t write(Bytes) override { return -EINVAL; }

   private:
    int create(const std::byte* argument) {
      spec::DeviceConfig head{};
      std::memcpy(&head, argument, sizeof head);
      if (test_.there()) return -EEXIST;
      test_.kernel = std::make_unique<FakeVduse>(shape_of(head, argument + sizeof head));
      test_.write("dev/blk0", "");
      fs::create_directories(test_.path("sys/class/vduse/blk0"));
      return 0;
    }
    int destroy() {
      if (test_.kernel->attached() || test_.kernel->is_open()) return -EBUSY;
      if (test_.busy_for > 0) return test_.busy_for--, -EBUSY;
      fs::remove(test_.path("dev/blk0"));
      fs::remove_all(test_.path("sys/class/vduse/blk0"));
      return 0;
    }
    ServerTest& test_;
  };

  class FakeNetlink final : public Netlink {
   public:
    explicit FakeNetlink(ServerTest& test) : test_(test), gone_(test.netlink_gone) {}
    ~FakeNetlink() override { gone_->set_value(); }
    FakeNetlink(const FakeNetlink&) = delete;
    FakeNetlink& operator=(const FakeNetlink&) = delete;
    Result<std::vector<ManagementDevice>> management_devices() override { return std::vector<ManagementDevice>{}; }
    Status add(const std::string&) override {
      if (test_.while_adding) test_.while_adding();
      OUTBOARD_CHECK(test_.kernel->attach());
      test_.put_on_bus();
      if (test_.after_adding) test_.after_adding();
      return {};
    }
    Status remove(const std::string&) override {
      if (const auto farewell = test_.kernel->set_status(0); !farewell.wait()) return Error(ETIMEDOUT);
      test_.kernel->detach();
      fs::remove_all(test_.path("sys/bus/vdpa/devices/blk0"));
      return {};
    }

   private:
    ServerTest& test_;
    std::shared_ptr<std::promise<void>> gone_;
  };

  ServerTest() {
    write("sys/bus/vdpa/drivers_autoprobe", "1");
    for (const char* name : {"virtio_vdpa", "vhost_vdpa"}) {
      write(fmt::format("sys/bus/vdpa/drivers/{}/bind", name), "");
      write(fmt::format("sys/bus/vdpa/drivers/{}/unbind", name), "");
    }
    write("sys/class/block/vda/dev", "254:0");
    write("sys/class/block/vda/inflight", "0 0");
    write("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw");
  }
  ~ServerTest() override {
    const std::lock_guard lock(log_gate->mutex);
    log_gate->open = false;
  }

  std::string path(const std::string& name) const { return machine.path(name); }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories(fs::path(path(name)).parent_path());
    std::ofstream(path(name)) << text;
  }
  bool there() const { return fs::exists(path("dev/blk0")); }
  bool has_journal() const { return fs::exists(journal); }
  void put_on_bus() const {
    fs::create_directories(path("sys/bus/vdpa/devices/blk0/" + child));
    write("sys/bus/vdpa/devices/blk0/driver_override", "");
    fs::remove(path("sys/bus/vdpa/devices/blk0/driver"));
    if (!child.empty()) fs::create_symlink("../../drivers/virtio_vdpa", path("sys/bus/vdpa/devices/blk0/driver"));
  }

  Server::Options options() {
    Server::Options options;
    netlink_gone = std::make_shared<std::promise<void>>();
    options.name = "blk0";
    options.journal = journal;
    options.run = path("run");
    options.folder = path("dev");
    options.bus = {.sysfs = path("sys"),
                   .proc = path("proc"),
                   .dev = path("dev"),
                   .netlink = std::make_shared<FakeNetlink>(*this)};
    options.open_control = [this](std::uint64_t version) {
      return Control::on(std::make_unique<ControlFile>(*this), version, path("dev"));
    };
    options.open_node = [this](const std::string&) -> Result<std::unique_ptr<Node>> {
      if (kernel->broken()) return Error(EPERM, "the kernel has given the device up");
      return kernel->open();
    };
    options.log = Log(
        [gate = log_gate](Level, std::string_view line) {
          const std::lock_guard lock(gate->mutex);
          if (gate->open) gate->lines.append(line).append("\n");
        },
        Level::debug);
    return options;
  }
  Result<Server> server(Server::Options with, std::vector<std::uint16_t> queues = {16}) {
    return Server::create(
        [this, queues](Loop&, const Log&) -> Result<std::unique_ptr<virtio::Device>> {
          auto device = std::make_unique<ScriptedDevice>(
              virtio::Identity{.device_id = 2, .queue_sizes = queues, .config_size = 16});
          device->stored_on = storage;
          return device;
        },
        std::move(with));
  }
  Result<Server> server() { return server(options()); }
  /// Serves until it is ready, and ends.
  Status run(Server& one) {
    return one.run([&] {
      one.stop();
      return Status();
    });
  }
  /// What a server leaves that is killed once its device is on the bus.
  void leave_one_attached() {
    {
      auto dead = server();
      ASSERT_TRUE(dead) << dead.error().message();
      kernel->kill_server();
    }
    ASSERT_TRUE(kernel->attach());
    put_on_bus();
    ASSERT_TRUE(there() && has_journal());
  }
  /// VERSION_1, ACCESS_PLATFORM.
  static constexpr std::uint64_t accepted = UINT64_C(1) << 32 | UINT64_C(1) << 33;

  /// Attaches the device, whose driver has negotiated and has a ring on queue 1: `driver`. It has not written DRIVER_OK.
  template <typename Pump>
  void attach_with_ring(const Pump& pump) {
    ASSERT_TRUE(kernel->attach());
    put_on_bus();
    ASSERT_TRUE(kernel->negotiate(accepted, pump));
    constexpr std::uint64_t base = 0x10000000;
    auto memory = kernel->map({.start = base, .size = HandDriver::memory_size});
    driver = std::make_unique<HandDriver>(
        HandDriver::Setup{.size = 16, .base = memory::Iova{base}, .memory = std::move(memory)});
    kernel->place_queue(1, *driver);
  }
  /// What a server leaves that is killed while a driver uses its device.
  void leave_one_driven() {
    {
      auto dead = server();
      ASSERT_TRUE(dead) << dead.error().message();
      ASSERT_TRUE(kernel->attach());
      put_on_bus();
      fs::create_directories(path("sys/bus/vdpa/devices/blk0/virtio0/block/vda"));
      auto& loop = dynamic_cast<Reactor&>(dead->loop());
      const auto pump = [&] { loop.run_once(Duration(0)); };
      ASSERT_TRUE(kernel->negotiate(accepted, pump));
      ASSERT_TRUE(kernel->advance(0x0f, pump));
      kernel->kill_server();
    }
    ASSERT_TRUE(there() && has_journal());
  }
  /// What is said of a server that finds other storage than the one before it.
  Error refused(Server::Options with) {
    auto one = server(std::move(with));
    EXPECT_FALSE(one) << "it is taken over";
    EXPECT_TRUE(there() && has_journal() && kernel->attached()) << "nothing has been done to it";
    return one ? Error(EIO) : one.error();
  }
  std::string said() const {
    const std::lock_guard lock(log_gate->mutex);
    return log_gate->lines;
  }

  struct LogGate {
    std::mutex mutex;
    bool open = true;
    std::string lines;
  };
  std::shared_ptr<LogGate> log_gate = std::make_shared<LogGate>();
  outboard::testing::TempDir machine;
  std::string journal = machine.path("run/vduse/blk0.journal");
  std::unique_ptr<FakeVduse> kernel;
  std::unique_ptr<HandDriver> driver;  ///< see attach_with_ring()
  StorageIdentity storage{
      .contents = StorageIdentity::Contents::kept, .size = 8192, .id = "file 12", .name = "disk.raw"};
  std::shared_ptr<std::promise<void>> netlink_gone;  ///< nobody has the last one any more
  std::string child = "virtio0/driver";  ///< what comes of the device on the bus
  std::function<void()> while_adding, after_adding;
  unsigned busy_for = 0;
};

}  // namespace outboard::vduse
