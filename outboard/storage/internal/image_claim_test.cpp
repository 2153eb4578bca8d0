// Block devices: who may have them, and what an opener waits for.

#include <outboard/storage/internal/image_claim.hpp>

#include <array>
#include <atomic>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <linux/blkpg.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/storage/internal/image.hpp>
#include <outboard/storage/raw_file.hpp>
#include <outboard/storage/slow_rig_test.hpp>
#include <tests/support/held_file_system.hpp>
#include <tests/support/loop_device.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::storage {
namespace {

using outboard::testing::HeldFileSystem;
using outboard::testing::LoopDevice;
using ::testing::HasSubstr;
using Call = HeldFileSystem::Call;

constexpr std::uint64_t disk_size = UINT64_C(16) << 20;

/// Whether a program could be run, and ended well.
bool run(std::vector<std::string> words) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  int status = 0;
  return ::waitpid(pid, &status, 0) == pid && status == 0;
}

/// A process that has written to a disk through the page cache; it keeps the disk until it is killed.
pid_t start_writer(LoopDevice& device, std::size_t bytes) {
  std::array<int, 2> ready{};
  if (::pipe2(ready.data(), O_CLOEXEC) != 0) return -1;
  const UniqueFd theirs(ready[0]);
  UniqueFd ours(ready[1]);
  const pid_t pid = ::fork();
  if (pid == 0) {
    device.device.reset();
    auto image = open_image(device.path, false, false, Log());
    const std::vector<char> dirt(bytes, 'd');
    image->guard.reset();  // io_uring lets go of what is registered with it after everything else
    if (!image || ::pwrite(image->fd.get(), dirt.data(), dirt.size(), 0) != static_cast<ssize_t>(bytes)) ::_exit(1);
    static_cast<void>(!::write(ours.get(), "w", 1));
    while (true) ::pause();
  }
  ours.reset();
  char word = 0;
  return ::read(theirs.get(), &word, 1) == 1 ? pid : -1;
}

TEST(ADiskWhoseWriterWasKilled, IsClaimedOnceTheKernelHasWrittenWhatItLeft) {
  auto made = HeldFileSystem::create(disk_size);
  if (!made) GTEST_SKIP() << "no FUSE file system here: " << made.error().message();
  HeldFileSystem& storage = **made;
  auto device = LoopDevice::attach(storage.disk());
  if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
  const pid_t writer = start_writer(*device, 1 << 20);
  ASSERT_GT(writer, 0);
  device->device.reset();  // the last one that closes it waits for its pages
  storage.hold(Call::write);
  ::kill(writer, SIGKILL);
  while (storage.holding() == 0 && !storage.gave_up()) std::this_thread::yield();

  std::promise<std::string> said;
  std::atomic<bool> first{true};
  const Log log([&](Level level, std::string_view line) {
    if (level == Level::warning && first.exchange(false)) said.set_value(std::string(line));
  });
  const LockTimeouts timeouts{.running = Duration::zero(), .ended = std::chrono::seconds(600)};
  auto opened = std::async(std::launch::async, [&] {
    auto image = open_image(device->path, false, false, log, timeouts);
    if (first.exchange(false)) said.set_value(image ? "did not wait" : image.error().message());
    return image;
  });
  const std::string line = said.get_future().get();
  EXPECT_THAT(line, HasSubstr("waiting up to 600 s"));
  EXPECT_THAT(line, HasSubstr("the kernel is still writing what a process that has ended left"));
  storage.release();
  const auto image = opened.get();
  EXPECT_TRUE(image) << image.error().message();
  EXPECT_FALSE(storage.gave_up());
  EXPECT_EQ(::waitpid(writer, nullptr, 0), writer);
}

class ADiskThatIsClaimed : public ::testing::Test {
 protected:
  void SetUp() override {
    static_cast<void>(dir_.make_file("disk.raw", disk_size));
    auto device = LoopDevice::attach(dir_.path("disk.raw"));
    if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
    device_ = std::move(*device);
    claim();
  }
  /// What the log says until the claim is given up.
  std::string said_while_waiting() {
    std::string said;
    const Log log([&](Level level, std::string_view line) {
      if (level != Level::warning) return;
      said += line;
      claim_.reset();
    });
    const LockTimeouts timeouts{.running = Duration::zero(), .ended = std::chrono::seconds(600)};
    const auto image = open_image(device_.path, false, false, log, timeouts);
    return image ? said : image.error().message();
  }
  void claim() {
    claim_ = UniqueFd(::open(device_.path.c_str(), O_RDWR | O_EXCL | O_CLOEXEC));
    ASSERT_TRUE(claim_);
  }
  outboard::testing::TempDir dir_;
  LoopDevice device_;
  UniqueFd claim_;
};

TEST_F(ADiskThatIsClaimed, IsRefusedToWritersAndNotToReaders) {
  const LockTimeouts none{.running = Duration::zero(), .ended = Duration::zero()};
  const auto writer = open_image(device_.path, false, false, Log(), none);
  ASSERT_FALSE(writer);
  EXPECT_EQ(writer.error().code(), EBUSY);
  EXPECT_THAT(writer.error().message(), HasSubstr("the block device is in use"));
  EXPECT_THAT(writer.error().cure(), HasSubstr("lsblk " + device_.path));
  EXPECT_THAT(writer.error().cure(), HasSubstr("fuser -v " + device_.path)) << "whoever may read it may claim it";
  EXPECT_TRUE(open_image(device_.path, true, false, Log(), none));
}

TEST_F(ADiskThatIsClaimed, IsAskedForMoreAndMoreSeldom) {
  std::vector<std::int64_t> pauses;
  LockTimeouts timeouts{.running = std::chrono::seconds(600), .ended = std::chrono::seconds(600)};
  timeouts.pause = [&pauses](Duration time) {
    pauses.push_back(std::chrono::duration_cast<std::chrono::milliseconds>(time).count() - ::getpid() % 7);
    return pauses.size() < 8;
  };
  const auto image = open_image(device_.path, false, false, Log(), timeouts);
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().code(), ECANCELED);
  EXPECT_EQ(pauses, (std::vector<std::int64_t>{2, 4, 8, 16, 32, 64, 100, 100}));
}

TEST_F(ADiskThatIsClaimed, IsOpenedOnceTheClaimIsGivenUp) {
  LockTimeouts timeouts{.running = std::chrono::seconds(600), .ended = std::chrono::seconds(600)};
  timeouts.pause = [this](Duration) {
    claim_.reset();
    return true;
  };
  EXPECT_TRUE(open_image(device_.path, false, false, Log(), timeouts));
}

/// A process that has a device open, and no claim on it.
class Bystander {
 public:
  explicit Bystander(const std::string& device) {
    std::array<int, 2> ready{};
    EXPECT_EQ(::pipe2(ready.data(), O_CLOEXEC), 0);
    const UniqueFd theirs(ready[0]);
    UniqueFd ours(ready[1]);
    pid_ = ::fork();
    if (pid_ == 0) {
      const UniqueFd open_one(::open(device.c_str(), O_RDONLY));
      static_cast<void>(!::write(ours.get(), "o", 1));
      while (true) ::pause();
    }
    ours.reset();
    char word = 0;
    EXPECT_EQ(::read(theirs.get(), &word, 1), 1);
  }
  ~Bystander() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Bystander(const Bystander&) = delete;
  Bystander& operator=(const Bystander&) = delete;
  int pid() const { return pid_; }

 private:
  int pid_ = -1;
};

TEST_F(ADiskThatIsClaimed, IsWaitedForNoLessWhereABystanderHasItOpen) {
  claim_.reset();  // which a child would have, too
  const Bystander bystander(device_.path);
  claim();
  LockTimeouts timeouts{.running = Duration::zero(), .ended = std::chrono::seconds(600)};
  timeouts.pause = [this](Duration) {
    claim_.reset();
    return true;
  };
  const auto image = open_image(device_.path, false, false, Log(), timeouts);
  EXPECT_TRUE(image) << image.error().message();
}

TEST_F(ADiskThatIsClaimed, IsRefusedWithTheProcessesThatHaveItOpen) {
  claim_.reset();  // which a child would have, too
  const Bystander bystander(device_.path);
  claim();
  const LockTimeouts none{.running = Duration::zero(), .ended = Duration::zero()};
  const auto image = open_image(device_.path, false, false, Log(), none);
  ASSERT_FALSE(image);
  EXPECT_THAT(image.error().message(), HasSubstr("process " + std::to_string(bystander.pid()) + " ("));
}

TEST_F(ADiskThatIsClaimed, IsWaitedForNoLessWhereALoopDeviceStandsOnIt) {
  const auto above = LoopDevice::attach(device_.path);
  ASSERT_TRUE(above) << above.error().message();
  EXPECT_THAT(said_while_waiting(), HasSubstr("waiting up to 600 s"));
}

TEST_F(ADiskThatIsClaimed, IsWaitedForNoLessWhereAFileSystemWithoutADiskNamesIt) {
  ASSERT_EQ(::mkdir(dir_.path("mnt").c_str(), 0700), 0);
  if (::mount(device_.path.c_str(), dir_.path("mnt").c_str(), "tmpfs", 0, nullptr) != 0)
    GTEST_SKIP() << "nothing can be mounted here";
  const std::string said = said_while_waiting();
  EXPECT_EQ(::umount(dir_.path("mnt").c_str()), 0);
  EXPECT_THAT(said, HasSubstr("waiting up to 600 s"));
}

TEST_F(ADiskThatIsClaimed, IsRefusedWithTheLoopDevicesThatStandOnIt) {
  // It may be one of them that has claimed it: those have whose file whoever set them up opened with O_EXCL.
  const auto above = LoopDevice::attach(device_.path);
  ASSERT_TRUE(above) << above.error().message();
  const LockTimeouts none{.running = Duration::zero(), .ended = Duration::zero()};
  const auto image = open_image(device_.path, false, false, Log(), none);
  ASSERT_FALSE(image);
  EXPECT_THAT(image.error().message(), HasSubstr(above->path.substr(above->path.rfind('/') + 1)));
}

TEST_F(ADiskThatIsClaimed, KeepsItsPartitionsFromBeingWaitedForAndSaysByWhom) {
  blkpg_partition part{};
  part.start = 1 << 20;
  part.length = 1 << 20;
  part.pno = 1;
  blkpg_ioctl_arg remove{.op = BLKPG_DEL_PARTITION, .flags = 0, .datalen = sizeof part, .data = &part};
  ::ioctl(device_.device.get(), BLKPG, &remove);  // one that a test left which was killed: the kernel keeps it
  blkpg_ioctl_arg add{.op = BLKPG_ADD_PARTITION, .flags = 0, .datalen = sizeof part, .data = &part};
  if (::ioctl(device_.device.get(), BLKPG, &add) != 0) GTEST_SKIP() << "no partitions here";
  unsigned of_major = 0;
  unsigned of_minor = 0;
  char colon = 0;
  const std::string disk = device_.path.substr(device_.path.rfind('/') + 1);
  std::ifstream("/sys/class/block/" + disk + "p1/dev") >> of_major >> colon >> of_minor;
  ASSERT_EQ(::mknod(dir_.path("part").c_str(), S_IFBLK | 0600, makedev(of_major, of_minor)), 0);
  claim_.reset();
  const std::string folder = dir_.path("mnt");
  ASSERT_EQ(::mkdir(folder.c_str(), 0700), 0);
  if (!run({"mke2fs", "-q", "-F", device_.path}) ||
      ::mount(device_.path.c_str(), folder.c_str(), "ext2", MS_RDONLY, nullptr) != 0)
    GTEST_SKIP() << "nothing can be mounted here";
  const LockTimeouts none{.running = Duration::zero(), .ended = Duration::zero()};
  const auto image = open_image(dir_.path("part"), false, false, Log(), none);
  EXPECT_EQ(::umount(folder.c_str()), 0);
  EXPECT_EQ(::ioctl(device_.device.get(), BLKPG, &remove), 0);
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().code(), EBUSY);
  EXPECT_THAT(image.error().message(), HasSubstr("the block device is in use: " + folder + " (on " + disk + ")"));
}

/// Two nodes of one device, as containers have them. Their locks are not each other's.
class ADiskOfTwoNodes : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = HeldFileSystem::create(disk_size);
    if (!made) GTEST_SKIP() << "no FUSE file system here: " << made.error().message();
    storage_ = std::move(*made);
    auto device = LoopDevice::attach(storage_->disk());
    if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
    device_ = std::move(*device);
    if (::mknod(other().c_str(), S_IFBLK | 0600, device_.number()) != 0 ||
        !UniqueFd(::open(other().c_str(), O_RDONLY | O_CLOEXEC)))
      GTEST_SKIP() << "no nodes of devices can be made here";
  }
  std::string other() const { return dir_.path("disk"); }

  outboard::testing::TempDir dir_;
  std::unique_ptr<HeldFileSystem> storage_;
  LoopDevice device_;
  const LockTimeouts none_{.running = Duration::zero(), .ended = Duration::zero()};
};

TEST_F(ADiskOfTwoNodes, HasOneWriterByItsClaim) {
  const auto first = open_image(device_.path, false, false, Log(), none_);
  ASSERT_TRUE(first) << first.error().message();
  const auto second = open_image(other(), false, false, Log(), none_);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), EBUSY);
  EXPECT_THAT(second.error().message(), HasSubstr("the block device is in use"));
  EXPECT_TRUE(open_image(other(), true, false, Log(), none_)) << "what docs/troubleshooting.md says of readers";
}

TEST_F(ADiskOfTwoNodes, WhoseWriterWasKilledIsClaimedOnceItsRequestsHaveEnded) {
  const pid_t writer = start_writer(device_, 1 << 20);
  ASSERT_GT(writer, 0);
  device_.device.reset();  // the last one that closes it waits for its pages
  storage_->hold(Call::write);
  ::kill(writer, SIGKILL);
  while (storage_->holding() == 0 && !storage_->gave_up()) std::this_thread::yield();
  LockTimeouts timeouts{.running = Duration::zero(), .ended = std::chrono::seconds(600)};
  unsigned pauses = 0;
  timeouts.pause = [&](Duration) {
    ++pauses;
    storage_->release();
    return true;
  };
  const auto image = open_image(other(), false, false, Log(), timeouts);
  EXPECT_TRUE(image) << image.error().message();
  EXPECT_GT(pauses, 0U);
  EXPECT_FALSE(storage_->gave_up());
  EXPECT_EQ(::waitpid(writer, nullptr, 0), writer);
}

/// A server that is killed while a disk that takes its time has requests of it, by O_DIRECT.
class AKilledServer : public OnSlowStorage<Engine> {
 protected:
  static constexpr std::size_t page = 4096;

  void SetUp() override { make_device(disk_size, LoopDevice::Through::o_direct); }
  Result<std::unique_ptr<RawFile>> open_disk(Reactor& loop) const {
    return RawFile::open(loop, {.path = device_.path, .direct = true, .engine = GetParam()}, Log());
  }
  /// Writes at the start of the disk what nobody is told of any more.
  pid_t start_server() {
    const pid_t pid = ::fork();
    if (pid != 0) return pid;
    device_.device.reset();
    auto loop = Reactor::create().value();
    auto disk = open_disk(*loop);
    if (!disk) ::_exit(1);
    std::vector<char> old(page, 'o');
    const iovec piece{old.data(), old.size()};
    (*disk)->write(0, std::span(&piece, 1), [](int) {});
    (*disk)->submit();
    while (true) static_cast<void>(loop->run_once(std::chrono::seconds(1)));
  }
  int run(RawFile& disk, const std::function<void(Backend::Completion)>& start) const {
    std::optional<int> result;
    start([&result](int error) { result = error; });
    disk.submit();
    while (!result && loop_->run_once(std::chrono::seconds(1))) {
    }
    return result.value_or(-1);
  }
};

TEST_P(AKilledServer, DoesNotWriteOverWhatItsSuccessorWrote) {
  storage_->hold(Call::write);
  const pid_t server = start_server();
  while (storage_->holding() == 0 && !storage_->gave_up()) std::this_thread::yield();
  ::kill(server, SIGKILL);
  // A thread that is with the storage keeps its process.
  const bool goes_at_once = GetParam() == Engine::io_uring;
  EXPECT_EQ(::waitpid(server, nullptr, goes_at_once ? 0 : WNOHANG), goes_at_once ? server : 0);
  EXPECT_EQ(storage_->holding(), 1U) << "its write is not";

  LockTimeouts timeouts{.running = Duration::zero(), .ended = std::chrono::seconds(600)};
  unsigned pauses = 0;
  timeouts.pause = [&](Duration) {
    if (++pauses == 3) storage_->release();
    return true;
  };
  auto image = open_image(device_.path, false, true, Log(), timeouts);
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_GE(pauses, 3U) << "opened while the dead server's write was held";
  {
    const Image done = std::move(*image);
  }

  auto disk = open_disk(*loop_).value();
  std::vector<char> bytes(page, 'n');
  const iovec piece{bytes.data(), bytes.size()};
  ASSERT_EQ(run(*disk, [&](auto done) { disk->write(0, std::span(&piece, 1), std::move(done)); }), 0);
  ASSERT_EQ(run(*disk, [&](auto done) { disk->flush(std::move(done)); }), 0);
  disk.reset();
  device_.device.reset();
  char first = 0;
  const UniqueFd below(::open(storage_->disk().c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(::pread(below.get(), &first, 1, 0), 1);
  EXPECT_EQ(first, 'n');
  EXPECT_FALSE(storage_->gave_up());
  EXPECT_EQ(::waitpid(server, nullptr, 0), goes_at_once ? -1 : server);
}

INSTANTIATE_TEST_SUITE_P(Storage, AKilledServer, ::testing::Values(Engine::io_uring, Engine::pool),
                         [](const auto& engine) {
                           return std::string(engine.param == Engine::pool ? "pool" : "io_uring");
                         });

TEST(ADiskThatIsReadAndWritten, IsKnownByItsDiskAndNotByItsName) {
  const outboard::testing::TempDir dir;
  static_cast<void>(dir.make_file("disk.raw", disk_size));
  const auto identity = [&](const std::string& path) {
    auto loop = Reactor::create().value();
    const auto disk = RawFile::open(*loop, {.path = path, .read_only = true, .engine = Engine::pool}, Log());
    EXPECT_TRUE(disk) << disk.error().message();
    return disk ? (*disk)->identity() : StorageIdentity{};
  };
  std::vector<StorageIdentity> seen;
  for (int i = 0; i < 2; ++i) {
    auto device = LoopDevice::attach(dir.path("disk.raw"));
    if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
    ASSERT_EQ(::symlink(device->path.c_str(), dir.path("link").c_str()), 0);
    seen.push_back(identity(device->path));
    struct stat info{};
    ASSERT_EQ(::fstat(device->device.get(), &info), 0);
    EXPECT_EQ(seen.back().device, info.st_rdev);
    EXPECT_TRUE(check_same_storage(seen.back(), identity(dir.path("link"))));
    ASSERT_EQ(::unlink(dir.path("link").c_str()), 0);
    EXPECT_THAT(seen.back().id, ::testing::MatchesRegex(fmt::format("block device {}:{}, disk [1-9][0-9]*",
                                                                    major(info.st_rdev), minor(info.st_rdev))));
  }
  EXPECT_NE(seen[0].id, seen[1].id) << "another disk, though perhaps of the same number";
}

}  // namespace
}  // namespace outboard::storage
