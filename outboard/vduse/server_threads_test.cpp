// A server on a machine in a folder: a control node, a bus and a kernel that are played. Its loop runs here, its
// attaching and detaching on the thread that it has for that.

#include <outboard/vduse/server.hpp>

#include <sys/sysmacros.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/testing/device_rig.hpp>
#include <outboard/testing/fake_vduse.hpp>
#include <outboard/testing/temp_dir.hpp>
#include <outboard/virtio/journal_layout.hpp>

namespace outboard::vduse {
namespace {

namespace fs = std::filesystem;
using outboard::testing::FakeVduse;
using outboard::testing::ScriptedDevice;
using ::testing::HasSubstr;

DeviceShape shape_of(const spec::DeviceConfig& head, const std::byte* config) {
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
    for (const char* driver : {"virtio_vdpa", "vhost_vdpa"}) {
      write(fmt::format("sys/bus/vdpa/drivers/{}/bind", driver), "");
      write(fmt::format("sys/bus/vdpa/drivers/{}/unbind", driver), "");
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
      ASSERT_TRUE(kernel->negotiate(std::uint64_t{1} << 32 | std::uint64_t{1} << 33, pump));
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
  StorageIdentity storage{
      .contents = StorageIdentity::Contents::kept, .size = 8192, .id = "file 12", .name = "disk.raw"};
  std::shared_ptr<std::promise<void>> netlink_gone;  ///< nobody has the last one any more
  std::string child = "virtio0/driver";  ///< what comes of the device on the bus
  std::function<void()> while_adding, after_adding;
  unsigned busy_for = 0;
};

TEST_F(ServerTest, ServesAndLeavesNothingBehind) {
  auto one = server();
  ASSERT_TRUE(one) << one.error().message();
  bool attached = false;
  const Status done = one->run([&] {
    attached = kernel->attached();
    one->stop();
    return Status();
  });
  EXPECT_TRUE(done) << done.error().message();
  EXPECT_TRUE(attached);
  EXPECT_FALSE(there());
  EXPECT_FALSE(has_journal());
}

TEST_F(ServerTest, Row15WithoutAttachItIsReadyThoughNoMessageComes) {
  auto with = options();
  with.attach = false;
  auto one = server(std::move(with));
  ASSERT_TRUE(one);
  EXPECT_TRUE(run(*one));
  EXPECT_FALSE(there());
}

// An attach that goes wrong.

TEST_F(ServerTest, Row13ADeviceThatNoDriverTakesIsRemovedAndTheModuleNamed) {
  child = "";
  auto with = options();
  with.driver_patience = Duration(0);
  auto one = server(std::move(with));
  ASSERT_TRUE(one);
  const Status done = one->run([] { return Status(); });
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().message(), HasSubstr("no driver of the bus"));
  EXPECT_THAT(done.error().cure(), HasSubstr("virtio_vdpa"));
  EXPECT_FALSE(there());
  EXPECT_FALSE(has_journal());
}

TEST_F(ServerTest, Row13NobodyIsWaitedForWhereNobodyCanLoadADriver) {
  child = "virtio0";
  after_adding = [this] { kernel->set_status(1).wait(); };  // the bus has seen it, and no driver has
  auto with = options();
  with.driver_patience = std::chrono::hours(1);
  with.driver_quiet = std::chrono::milliseconds(1);
  auto one = server(std::move(with));
  ASSERT_TRUE(one);
  const Status done = one->run([] { return Status(); });
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().message(), HasSubstr("no driver of the kernel has taken virtio0"));
  EXPECT_FALSE(there());
}

TEST_F(ServerTest, Row13ADriverThatUdevIsLoadingIsWaitedFor) {
  child = "virtio0";
  write("run/udev/queue", "");
  std::thread udev;
  after_adding = [&] {
    udev = std::thread([this] {
      // Time for the server to give up too early; without a driver it would, once the queue is empty.
      while (said().find("attaching takes long") == std::string::npos) std::this_thread::yield();
      fs::create_directories(path("sys/bus/vdpa/devices/blk0/virtio0/driver"));
      fs::remove(path("run/udev/queue"));
    });
  };
  auto with = options();
  with.slow_attach = std::chrono::milliseconds(100);
  with.driver_quiet = std::chrono::milliseconds(1);
  with.udev = path("run/udev");
  auto one = server(std::move(with));
  ASSERT_TRUE(one);
  EXPECT_TRUE(run(*one));
  udev.join();
}

TEST_F(ServerTest, Row13ADriverThatGivesUpIsToldFromOneThatIsNotThere) {
  child = "virtio0";
  after_adding = [this] { kernel->set_status(0x83).wait(); };
  auto one = server();
  ASSERT_TRUE(one);
  const Status done = one->run([] { return Status(); });
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().message(), HasSubstr("the driver has given the device up"));
  EXPECT_FALSE(there());
}

TEST_F(ServerTest, Row14AnAttachThatTakesLongIsSaidToAndServedMeanwhile) {
  while_adding = [this] {
    while (said().find("attaching takes long") == std::string::npos) std::this_thread::yield();
  };
  after_adding = [this] { EXPECT_TRUE(kernel->set_status(0).wait()); };
  auto with = options();
  with.slow_attach = std::chrono::milliseconds(1);
  auto one = server(std::move(with));
  ASSERT_TRUE(one);
  EXPECT_TRUE(run(*one));
}

TEST_F(ServerTest, ToldToEndWhileItAttachesItEndsWhenThatIsDone) {
  auto one = server();
  ASSERT_TRUE(one);
  while_adding = [&] { one->stop(); };
  bool ready = false;
  const Status done = one->run([&] {
    ready = true;
    return Status();
  });
  EXPECT_TRUE(done) << done.error().message();
  EXPECT_FALSE(ready);
  EXPECT_FALSE(there());
  EXPECT_FALSE(has_journal());
}

TEST_F(ServerTest, ADiskThatIsMountedIsWaitedForAndTheLogSaysWhere) {
  after_adding = [this] {
    fs::create_directories(path("sys/bus/vdpa/devices/blk0/virtio0/block/vda"));
    write("proc/self/mountinfo", "40 1 254:0 / /data rw - ext4 /dev/vda rw");
  };
  auto one = server();
  ASSERT_TRUE(one);
  std::thread user([this] {
    while (said().find("still used by /data") == std::string::npos) std::this_thread::yield();
    EXPECT_TRUE(kernel->attached());
    write("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw");
  });
  EXPECT_TRUE(run(*one));
  user.join();
  EXPECT_FALSE(there());
}

// Killed at each moment.

TEST_F(ServerTest, KilledBeforeTheJournalWasMadeItIsBegunAnew) {
  leave_one_attached();
  kernel->detach();
  fs::remove_all(path("sys/bus/vdpa/devices/blk0"));
  fs::remove(journal);
  auto one = server();
  ASSERT_TRUE(one) << one.error().message();
  EXPECT_TRUE(run(*one));
  EXPECT_FALSE(there());
}

TEST_F(ServerTest, KilledBeforeItWasAttachedItIsBegunAnew) {
  leave_one_attached();
  kernel->detach();
  fs::remove_all(path("sys/bus/vdpa/devices/blk0"));
  auto one = server();
  ASSERT_TRUE(one) << one.error().message();
  EXPECT_TRUE(run(*one));
}

TEST_F(ServerTest, KilledWhileAttachedItIsTakenOver) {
  leave_one_attached();
  auto one = server();
  ASSERT_TRUE(one) << one.error().message();
  EXPECT_THAT(said(), HasSubstr("took over"));
  const Status done = run(*one);
  EXPECT_TRUE(done) << done.error().message();
  EXPECT_FALSE(there());
  EXPECT_FALSE(has_journal());
}

TEST_F(ServerTest, KilledBeforeADriverWasBoundItIsGivenOne) {
  child = "";
  leave_one_attached();
  auto with = options();
  with.driver_patience = Duration(0);
  auto one = server(std::move(with));
  ASSERT_TRUE(one) << one.error().message();
  EXPECT_FALSE(run(*one)) << "nothing comes of it here";
  std::string bound;
  std::getline(std::ifstream(path("sys/bus/vdpa/drivers/virtio_vdpa/bind")), bound);
  EXPECT_EQ(bound, "blk0");
}

TEST_F(ServerTest, KilledAndThenDetachedByOthersItIsTakenOver) {
  leave_one_attached();
  // What DEV_DEL does first; it ends when the driver has its answers.
  fs::rename(path("sys/bus/vdpa/devices/blk0"), path("sys/class/vduse/blk0/blk0"));
  auto one = server();
  ASSERT_TRUE(one) << one.error().message();
  EXPECT_THAT(said(), HasSubstr("took over"));
  bool ready = false;
  EXPECT_TRUE(one->run([&] {
    // The driver has let go.
    kernel->detach();
    fs::remove_all(path("sys/class/vduse/blk0/blk0"));
    ready = true;
    one->stop();
    return Status();
  }));
  EXPECT_TRUE(ready);
  EXPECT_FALSE(there());
}

TEST_F(ServerTest, KilledBeforeAnythingWasInTheJournalItIsTakenOver) {
  leave_one_attached();
  // The area of the transport, which is written when the rest of the file is there, begins behind page and line.
  std::fstream file(journal, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(4096 + 64);
  file.write("\0\0\0\0\0\0\0\0", 8);
  file.close();
  auto one = server();
  ASSERT_TRUE(one) << one.error().message();
  EXPECT_TRUE(run(*one));
}

TEST_F(ServerTest, KilledBeforeTheJournalWasRemovedItIsBegunAnew) {
  leave_one_attached();
  kernel->detach();
  kernel.reset();
  fs::remove_all(path("sys/bus/vdpa/devices/blk0"));
  fs::remove_all(path("sys/class/vduse/blk0"));
  fs::remove(path("dev/blk0"));
  auto one = server();
  ASSERT_TRUE(one) << one.error().message();
  EXPECT_TRUE(run(*one));
  EXPECT_FALSE(has_journal());
}

// Which storage stands behind it.

TEST_F(ServerTest, TheSameStorageIsTakenOverUnderItsDriver) {
  leave_one_driven();
  auto one = server();
  ASSERT_TRUE(one) << one.error().message();
  EXPECT_THAT(said(), HasSubstr("took over"));
  EXPECT_TRUE(run(*one));
  EXPECT_FALSE(there());
}

TEST_F(ServerTest, OtherStorageIsNotPutUnderADriverUnasked) {
  leave_one_driven();
  storage.id = "file 13";
  const Error error = refused(options());
  EXPECT_EQ(error.code(), ESTALE);
  EXPECT_THAT(error.message(), HasSubstr("disk.raw"));
  EXPECT_THAT(error.cure(), HasSubstr("--accept-other-storage"));
  EXPECT_THAT(error.cure(), HasSubstr("--replace"));
  auto with = options();
  with.accept_other_storage = true;
  with.wait_for_requests_on = [](const StorageIdentity&) { return Status(); };
  {
    auto one = server(std::move(with));
    ASSERT_TRUE(one) << one.error().message();
    EXPECT_THAT(said(), HasSubstr("accepted"));
    kernel->kill_server();
  }
  auto next = server();
  EXPECT_TRUE(next) << "what was accepted is what it is from then on: " << next.error().message();
}

TEST_F(ServerTest, OtherStorageThatIsAcceptedWaitsForTheRequestsOnTheStorageBefore) {
  leave_one_driven();
  const StorageIdentity before = storage;
  storage.id = "file 13";
  std::vector<std::string> asked_for;
  const auto accepting = [&](Status ended) {
    auto with = options();
    with.accept_other_storage = true;
    with.wait_for_requests_on = [&asked_for, ended](const StorageIdentity& image) {
      asked_for.push_back(image.id);
      return ended;
    };
    return with;
  };
  for (const int code : {EBUSY, ECANCELED}) {
    const Error error = refused(accepting(Error(code, "the kernel still carries out its disk requests")));
    EXPECT_EQ(error.code(), code);
    EXPECT_THAT(error.message(), HasSubstr("still carries out"));
  }
  const Error error = refused(accepting(Error(ENOENT, "it is not there any more")));
  EXPECT_EQ(error.code(), ESTALE);
  EXPECT_THAT(error.message(), HasSubstr("not there any more"));
  EXPECT_THAT(error.cure(), HasSubstr("--old-requests-ended"));
  EXPECT_EQ(asked_for, std::vector<std::string>(3, before.id));
  auto one = server(accepting({}));
  EXPECT_TRUE(one) << one.error().message();
  EXPECT_EQ(asked_for.size(), 4U);
}

TEST_F(ServerTest, OtherStorageIsNotAcceptedWhereNothingIsKnownOfTheRequestsOnTheStorageBefore) {
  leave_one_driven();
  storage.id = "file 13";
  auto with = options();
  with.accept_other_storage = true;
  const Error error = refused(std::move(with));
  EXPECT_EQ(error.code(), ESTALE);
  EXPECT_THAT(error.cure(), HasSubstr("--old-requests-ended"));
  auto knowing = options();
  knowing.accept_other_storage = true;
  knowing.old_requests_have_ended = true;
  knowing.wait_for_requests_on = [](const StorageIdentity&) -> Status { return Error(EBUSY); };
  auto one = server(std::move(knowing));
  EXPECT_TRUE(one) << one.error().message();
}

TEST_F(ServerTest, MemoryOfADeadServerHasNoRequestsToWaitFor) {
  storage = {.contents = StorageIdentity::Contents::memory, .size = 8192};
  leave_one_driven();
  auto with = options();
  with.accept_other_storage = true;
  auto one = server(std::move(with));
  EXPECT_TRUE(one) << one.error().message();
}

TEST_F(ServerTest, SmallerStorageIsNotPutUnderADriverAndLargerIs) {
  leave_one_driven();
  storage.size = 4096;
  EXPECT_THAT(refused(options()).message(), HasSubstr("smaller"));
  storage.size = 16384;
  auto one = server();
  EXPECT_TRUE(one) << one.error().message();
}

TEST_F(ServerTest, SmallerStorageIsNotPutUnderADriverWhateverIsAccepted) {
  leave_one_driven();
  storage.id = "file 13";
  storage.size = 4096;
  auto with = options();
  with.accept_other_storage = true;
  const Error error = refused(std::move(with));
  EXPECT_EQ(error.code(), ESTALE);
  EXPECT_THAT(error.message(), HasSubstr("8192 bytes"));
}

TEST_F(ServerTest, StorageThatEndedWithItsServerIsNotTakenForTheSame) {
  storage = {.contents = StorageIdentity::Contents::memory, .size = 8192};
  leave_one_driven();
  EXPECT_THAT(refused(options()).message(), HasSubstr("ended with that process"));
}

TEST_F(ServerTest, OtherOptionsThanTheServerBeforeHadAreNamedAndReplacingIsNotTheAdvice) {
  leave_one_driven();
  auto with = options();
  with.differing_options = [](const auto& before, const auto& now) {
    return fmt::format("with --queues {}, not {}", before.queue_sizes.size(), now.queue_sizes.size());
  };
  const auto refused = server(std::move(with), {16, 16});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr(journal)) << "the path of the journal";
  EXPECT_THAT(refused.error().message(), HasSubstr("number of queues: 1, not 2"));
  EXPECT_EQ(refused.error().cure(),
            "start this server with the options of the server before it: with --queues 1, not 2");
  EXPECT_TRUE(there());
  fs::remove(journal);
  const auto lost = server();
  ASSERT_FALSE(lost);
  EXPECT_THAT(lost.error().cure(), HasSubstr("--journal"));
  EXPECT_THAT(lost.error().cure(), HasSubstr("--replace"));
}

TEST_F(ServerTest, ReplacingWithOtherOptionsLeavesWhatTheServerBeforeCanStillAnswer) {
  leave_one_driven();
  write("sys/class/block/vda/inflight", "1 0");
  auto with = options();
  with.replace = true;
  const auto refused = server(std::move(with), {16, 16});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().cure(), HasSubstr("options of the server before"));
  EXPECT_TRUE(there() && has_journal());
}

TEST_F(ServerTest, AJournalThatIsUsedInSpiteOfNoJournalIsSaid) {
  leave_one_driven();
  auto with = options();
  with.no_journal = true;
  const auto taken = server(std::move(with));
  ASSERT_TRUE(taken) << taken.error().message();
  EXPECT_THAT(said(), HasSubstr("although --no-journal is given"));
}

TEST_F(ServerTest, WhereNoDriverRunsOtherStorageDoesNoHarm) {
  leave_one_attached();
  storage.id = "file 13";
  auto one = server();
  EXPECT_TRUE(one) << one.error().message();
}

TEST_F(ServerTest, AJournalThatDoesNotNameTheStorageIsTakenAndItSaysSo) {
  leave_one_driven();
  {
    namespace layout = virtio::journal_layout;
    layout::Header header{};
    std::fstream file(journal, std::ios::in | std::ios::out | std::ios::binary);
    file.read(reinterpret_cast<char*>(&header), sizeof header);
    std::vector<char> table(header.queue_count * sizeof(le16));
    file.read(table.data(), static_cast<std::streamsize>(table.size()));
    const std::uint16_t sizes[] = {16};
    const bool packed = (header.offered[1] >> 2 & 1) != 0;
    header.version = layout::first_version;
    header.file_size = layout::places(sizes, header.config_size, packed, layout::first_version).file_size;
    header.checksum = 0;
    header.checksum = layout::crc32c(std::as_bytes(std::span(table)), layout::crc32c(as_bytes_of(header)));
    file.seekp(0);
    file.write(reinterpret_cast<const char*>(&header), sizeof header);
    file.close();
    fs::resize_file(journal, header.file_size);
  }
  storage.id = "file 13";
  auto one = server();
  ASSERT_TRUE(one) << one.error().message();
  EXPECT_THAT(said(), HasSubstr("whether it is the same cannot be told"));
}

TEST_F(ServerTest, ReplacingNeverCarriesOutRequestsOnOtherStorage) {
  leave_one_driven();
  storage.id = "file 13";
  write("sys/class/block/vda/inflight", "0 3");
  auto with = options();
  with.replace = true;
  const Error error = refused(std::move(with));
  EXPECT_THAT(error.cure(), HasSubstr("3 requests are in flight"));
  EXPECT_THAT(error.cure(), HasSubstr("only a server with the storage that the device had"));
}

TEST_F(ServerTest, ReplacingPutsNoMemoryUnderADriverWhoseDataIsKept) {
  leave_one_driven();
  storage = {.contents = StorageIdentity::Contents::memory, .size = 8192};
  write("sys/class/block/vda/inflight", "0 3");
  auto with = options();
  with.replace = true;
  const Error error = refused(std::move(with));
  EXPECT_EQ(error.code(), ESTALE);
  EXPECT_THAT(said(), Not(HasSubstr("took over")));
}

TEST_F(ServerTest, ReplacedADeviceWhoseContentsEndedWithItsServerIsBroughtToItsEnd) {
  storage = {.contents = StorageIdentity::Contents::memory, .size = 8192};
  leave_one_driven();
  auto with = options();
  with.replace = true;
  auto one = server(std::move(with));
  ASSERT_TRUE(one) << one.error().message();
  EXPECT_THAT(said(), HasSubstr("took over"));
}

TEST_F(ServerTest, ReplacedADeviceWithOtherStorageThatNobodyUsesIsRemoved) {
  leave_one_driven();
  storage.id = "file 13";
  auto with = options();
  with.replace = true;
  auto one = server(std::move(with));
  ASSERT_TRUE(one) << one.error().message();
  EXPECT_FALSE(kernel->attached()) << "it is another one";
}

TEST_F(ServerTest, ADiskIsNotServedFromItself) {
  leave_one_driven();
  storage.device = makedev(254, 0);
  auto error = refused(options());
  EXPECT_EQ(error.code(), EDEADLK);
  EXPECT_THAT(error.message(), HasSubstr("disk.raw is on vda"));
  write("sys/class/block/loop0/dev", "7:0");
  write("sys/class/block/loop0/loop/backing_file", "/dev/vda");
  storage.device = makedev(7, 0);
  EXPECT_EQ(refused(options()).code(), EDEADLK) << "by a loop device";
  storage.device = makedev(8, 1);
  write("proc/self/mountinfo", "40 1 254:0 / " + path("run") + " rw - ext4 /dev/vda rw");
  error = refused(options());
  EXPECT_EQ(error.code(), EDEADLK);
  EXPECT_THAT(error.message(), HasSubstr("the journal is on vda"));
}

TEST_F(ServerTest, ADiskThatAProcessHasOpenIsWaitedFor) {
  after_adding = [this] {
    fs::create_directories(path("sys/bus/vdpa/devices/blk0/virtio0/block/vda"));
    write("dev/vda", "");
    write("proc/4711/comm", "dd");
    fs::create_directories(path("proc/4711/fd"));
    fs::create_symlink(path("dev/vda"), path("proc/4711/fd/1"));
  };
  auto one = server();
  ASSERT_TRUE(one);
  std::thread user([this] {
    while (said().find("still used by process 4711 (dd)") == std::string::npos) std::this_thread::yield();
    EXPECT_TRUE(kernel->attached());
    fs::remove(path("proc/4711/fd/1"));
  });
  EXPECT_TRUE(run(*one));
  user.join();
  EXPECT_FALSE(there());
}

// Journals that are somebody else's.

TEST_F(ServerTest, AFileThatIsNoJournalIsNotRemoved) {
  write("precious", "data");
  auto with = options();
  with.journal = path("precious");
  EXPECT_EQ(server(std::move(with)).error().code(), EBADMSG);
  EXPECT_TRUE(fs::exists(path("precious")));
  EXPECT_FALSE(there()) << "what was made is removed again";
}

TEST_F(ServerTest, TheJournalOfAnotherDeviceThatIsThereIsNotRemoved) {
  leave_one_attached();
  kernel->detach();
  fs::remove_all(path("sys/bus/vdpa/devices/blk0"));
  // The same device, by another name.
  fs::rename(path("dev/blk0"), path("dev/blk1"));
  EXPECT_EQ(server().error().code(), EEXIST);
  EXPECT_TRUE(has_journal());
}

// --replace.

TEST_F(ServerTest, ReplacedWhatCanBeTakenOverIsBroughtToItsEnd) {
  leave_one_attached();
  auto with = options();
  with.replace = true;
  auto one = server(std::move(with));
  ASSERT_TRUE(one) << one.error().message();
  EXPECT_FALSE(kernel->attached()) << "it is another one";
  EXPECT_TRUE(run(*one));
}

TEST_F(ServerTest, ReplacedWhatCannotBeTakenOverIsRemoved) {
  leave_one_attached();
  auto with = options();
  with.replace = true;
  auto one = server(std::move(with), {16, 16});  // the journal is of one queue
  ASSERT_TRUE(one) << one.error().message();
  EXPECT_FALSE(kernel->attached());
  EXPECT_TRUE(run(*one));
  EXPECT_FALSE(there());
}

TEST_F(ServerTest, Row20AndRow54ReplacedADeviceThatTheKernelHasGivenUpIsRemoved) {
  leave_one_attached();
  kernel->set_status(1);
  kernel->time_out();
  EXPECT_EQ(server().error().code(), EPERM) << "not by default";
  auto with = options();
  with.replace = true;
  auto one = server(std::move(with));
  ASSERT_TRUE(one) << one.error().message();
  EXPECT_FALSE(kernel->broken()) << "it is another one";
  EXPECT_TRUE(run(*one));
}

TEST_F(ServerTest, Row50ReplacingLeavesADeviceWhoseRequestsNobodyCanAnswer) {
  leave_one_attached();
  kernel->set_status(1);
  kernel->time_out();
  fs::create_directories(path("sys/bus/vdpa/devices/blk0/virtio0/block/vda"));
  write("sys/class/block/vda/inflight", "0 3");
  auto with = options();
  with.replace = true;
  const auto one = server(std::move(with));
  ASSERT_FALSE(one);
  EXPECT_THAT(one.error().cure(), HasSubstr("3 requests are in flight"));
  EXPECT_TRUE(there());
}

// The end.

TEST_F(ServerTest, Row48WhoHoldsTheDeviceAtTheEndMayBeOnItsWayOut) {
  auto one = server();
  ASSERT_TRUE(one);
  busy_for = 3;
  EXPECT_TRUE(run(*one));
  EXPECT_FALSE(there());
  EXPECT_FALSE(has_journal());
}

TEST_F(ServerTest, Row14AnAttachThatNeverReturnsOutlivesTheServer) {
  std::promise<void> adding, release;
  while_adding = [&] {
    adding.set_value();
    release.get_future().wait();
  };
  std::future<void> over;
  {
    auto one = server();
    ASSERT_TRUE(one);
    over = netlink_gone->get_future();
    std::thread breaker([&] {
      adding.get_future().wait();
      kernel->set_status(0);
      kernel->time_out();
    });
    const Status done = one->run([] { return Status(); });
    breaker.join();
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code(), EPERM);
  }
  // Nothing of the server's is there any more when the thread comes back.
  release.set_value();
  over.wait();
}

TEST_F(ServerTest, Row55ANameIsServedByOne) {
  auto one = server();
  ASSERT_TRUE(one);
  auto with = options();
  with.lock_patience = Duration(0);
  const auto other = server(std::move(with));
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code(), EBUSY);
  EXPECT_THAT(other.error().message(), HasSubstr("serves this device"));
  EXPECT_TRUE(there());
}

}  // namespace
}  // namespace outboard::vduse
