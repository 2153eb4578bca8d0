// A server from its beginning to its end: attaching, taking over, replacing, detaching.

#include <outboard/vduse/server_rig_test.hpp>

namespace outboard::vduse {
namespace {

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

TEST_F(ServerTest, VDUSE15_WithoutAttachItIsReadyThoughNoMessageComes) {
  auto with = options();
  with.attach = false;
  auto one = server(std::move(with));
  ASSERT_TRUE(one);
  EXPECT_TRUE(run(*one));
  EXPECT_FALSE(there());
}

// An attach that goes wrong.

TEST_F(ServerTest, VDUSE13_ADeviceThatNoDriverTakesIsRemovedAndTheModuleNamed) {
  child = "";
  auto with = options();
  with.driver_timeout = Duration(0);
  auto one = server(std::move(with));
  ASSERT_TRUE(one);
  const Status done = one->run([] { return Status(); });
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().message(), HasSubstr("no driver of the bus"));
  EXPECT_THAT(done.error().cure(), HasSubstr("virtio_vdpa"));
  EXPECT_FALSE(there());
  EXPECT_FALSE(has_journal());
}

TEST_F(ServerTest, VDUSE13_NobodyIsWaitedForWhereNobodyCanLoadADriver) {
  child = "virtio0";
  after_adding = [this] { kernel->set_status(1).wait(); };  // the bus has seen it, and no driver has
  auto with = options();
  with.driver_timeout = std::chrono::hours(1);
  with.driver_quiet = std::chrono::milliseconds(1);
  auto one = server(std::move(with));
  ASSERT_TRUE(one);
  const Status done = one->run([] { return Status(); });
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().message(), HasSubstr("no driver of the kernel has taken virtio0"));
  EXPECT_FALSE(there());
}

TEST_F(ServerTest, VDUSE13_ADriverThatUdevIsLoadingIsWaitedFor) {
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

TEST_F(ServerTest, VDUSE13_ADriverThatGivesUpIsToldFromOneThatIsNotThere) {
  child = "virtio0";
  after_adding = [this] { kernel->set_status(0x83).wait(); };
  auto one = server();
  ASSERT_TRUE(one);
  const Status done = one->run([] { return Status(); });
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().message(), HasSubstr("the driver has given the device up"));
  EXPECT_FALSE(there());
}

TEST_F(ServerTest, VDUSE14_AnAttachThatTakesLongIsSaidToAndServedMeanwhile) {
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
  with.driver_timeout = Duration(0);
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

TEST_F(ServerTest, VDUSE20And54_ReplacedADeviceGivenUpByTheKernelIsRemoved) {
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

TEST_F(ServerTest, VDUSE50_ReplacingLeavesADeviceWhoseRequestsNobodyCanAnswer) {
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

TEST_F(ServerTest, VDUSE48_WhoHoldsTheDeviceAtTheEndMayBeOnItsWayOut) {
  auto one = server();
  ASSERT_TRUE(one);
  busy_for = 3;
  EXPECT_TRUE(run(*one));
  EXPECT_FALSE(there());
  EXPECT_FALSE(has_journal());
}

TEST_F(ServerTest, VDUSE14_AnAttachThatNeverReturnsOutlivesTheServer) {
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

TEST_F(ServerTest, VDUSE55_ANameIsServedByOne) {
  auto one = server();
  ASSERT_TRUE(one);
  auto with = options();
  with.lock_timeout = Duration(0);
  const auto other = server(std::move(with));
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code(), EBUSY);
  EXPECT_THAT(other.error().message(), HasSubstr("serves this device"));
  EXPECT_TRUE(there());
}

}  // namespace
}  // namespace outboard::vduse
