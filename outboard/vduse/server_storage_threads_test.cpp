// Which storage stands behind a device that a server before this one has left.

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <outboard/base/internal/io_flusher.hpp>
#include <outboard/journal/internal/layout.hpp>
#include <outboard/vduse/server_rig_test.hpp>
#include <tests/support/denied_calls.hpp>

namespace outboard::vduse {
namespace {

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

TEST_F(ServerTest, AcceptedOtherStorageWaitsForRequestsOnTheOldStorage) {
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

TEST_F(ServerTest, OtherStorageIsRefusedIfOldRequestsAreUnknown) {
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

TEST_F(ServerTest, OptionsThatDifferFromTheLastServersAreNamed) {
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

TEST_F(ServerTest, ReplacingWithOtherOptionsLeavesWhatCanStillBeAnswered) {
  leave_one_driven();
  write("sys/class/block/vda/inflight", "1 0");
  auto with = options();
  with.replace = true;
  const auto refused = server(std::move(with), {16, 16});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().cure(), HasSubstr("options of the previous server"));
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
    namespace layout = journal::layout;
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
  EXPECT_THAT(said(), HasSubstr("it is unknown whether it is the same"));
}

TEST_F(ServerTest, ReplacingNeverCarriesOutRequestsOnOtherStorage) {
  leave_one_driven();
  storage.id = "file 13";
  write("sys/class/block/vda/inflight", "0 3");
  auto with = options();
  with.replace = true;
  const Error error = refused(std::move(with));
  EXPECT_THAT(error.cure(), HasSubstr("3 requests are in flight"));
  EXPECT_THAT(error.cure(), HasSubstr("start the server with the storage that the device had"));
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

TEST_F(ServerTest, ReplacedADeviceWhoseContentsAreLostIsEnded) {
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

// What the kernel may make it wait for while memory is short.

constexpr std::uint32_t set_io_flusher = 57, get_io_flusher = 58;  // PR_SET_IO_FLUSHER, PR_GET_IO_FLUSHER

/// What a server says that may not become an I/O flusher.
class ServerThatMayWaitForItself : public ServerTest {
 protected:
  std::string says(Server::Options with) {
    std::thread([&] {
      const auto denied = outboard::testing::deny_call(SYS_prctl, 0, set_io_flusher, EPERM);
      ASSERT_TRUE(denied) << denied.error().what();
      auto one = server(std::move(with));
      ASSERT_TRUE(one) << one.error().message();
      EXPECT_TRUE(run(*one));
    }).join();
    return said();
  }
};

TEST_F(ServerThatMayWaitForItself, AdvisesToGoPastThePageCache) {
  storage.page_cache = true;
  const std::string text = says(options());
  EXPECT_THAT(text, HasSubstr("the disk can hang when memory is short"));
  EXPECT_THAT(text, HasSubstr("CAP_SYS_RESOURCE"));
  EXPECT_THAT(text, HasSubstr("--direct"));
}

TEST_F(ServerThatMayWaitForItself, SaysNothingWhereItsWritesGoPastThePageCache) {
  storage.page_cache = false;
  EXPECT_THAT(says(options()), ::testing::Not(HasSubstr("memory is short")));
}

TEST_F(ServerThatMayWaitForItself, SaysNothingWhereTheDiskIsAGuests) {
  storage.page_cache = true;
  auto with = options();
  with.driver = BusDriver::vhost;
  with.attach = false;
  EXPECT_THAT(says(std::move(with)), ::testing::Not(HasSubstr("memory is short")));
}

bool is_flusher() { return ::prctl(get_io_flusher, 0, 0, 0, 0) == 1; }

TEST_F(ServerTest, EachThreadThatServesIsAnIoFlusher) {
  if (!IoFlusher::begin()) GTEST_SKIP() << "needs CAP_SYS_RESOURCE";
  ScriptedDevice* device = nullptr;
  auto with = options();
  with.threads = 2;
  auto one = Server::create(
      [&device](Loop&, const Log&) -> Result<std::unique_ptr<virtio::Device>> {
        auto made = std::make_unique<ScriptedDevice>(
            virtio::Identity{.device_id = 2, .queue_sizes = {16, 16}, .config_size = 16});
        device = made.get();
        return made;
      },
      std::move(with));
  ASSERT_TRUE(one) << one.error().message();
  bool control = false;
  std::vector<bool> queues;
  const Status done = one->run([&] {
    control = is_flusher();
    for (unsigned queue = 0; queue < 2; ++queue) {
      const auto answer = std::make_shared<std::promise<bool>>();
      device->host->queue_loop(queue).post([answer] { answer->set_value(is_flusher()); });
      queues.push_back(answer->get_future().get());
    }
    one->stop();
    return Status();
  });
  EXPECT_TRUE(done) << done.error().message();
  EXPECT_TRUE(control);
  EXPECT_EQ(queues, std::vector<bool>(2, true));
}

}  // namespace
}  // namespace outboard::vduse
