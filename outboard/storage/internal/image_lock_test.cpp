// Who may have an image open with whom, and for what an opener waits.

#include <outboard/storage/internal/image_lock.hpp>

#include <array>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <future>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/base/internal/process.hpp>
#include <outboard/base/reactor.hpp>
#include <outboard/storage/internal/image.hpp>
#include <outboard/storage/internal/lock_bytes.hpp>
#include <outboard/storage/internal/lock_holders.hpp>
#include <outboard/storage/internal/lock_owner.hpp>
#include <outboard/storage/raw_file.hpp>
#include <tests/support/held_file_system.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::storage {
namespace {

using std::chrono::seconds;
using ::testing::HasSubstr;

const LockTimeouts none{.running = Duration::zero(), .ended = Duration::zero()};
const LockTimeouts until_freed{.running = seconds(600), .ended = seconds(600)};

int set_lock(int fd, short type, off_t byte) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = byte;
  lock.l_len = 1;
  return ::fcntl(fd, F_OFD_SETLK, &lock);
}

/// A process that has the image open, in a state that it keeps until it is killed.
class Holder {
 public:
  enum class Kind : std::uint8_t { cached, direct, leaderless, contained };

  Holder(const std::string& path, ImageAccess access, Kind kind = Kind::cached) {
    std::array<int, 2> ready{};
    std::array<int, 2> queue{};
    EXPECT_EQ(::pipe2(ready.data(), O_CLOEXEC), 0);
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, queue.data()), 0);
    pid_ = kind == Kind::contained ? fork_into_container() : ::fork();
    if (pid_ == 0) hold(path, access, kind, ready[1], queue[1]);
    ready_ = UniqueFd(ready[0]);
    requests_ = UniqueFd(queue[0]);
    const UniqueFd one(ready[1]);
    const UniqueFd other(queue[1]);
    if (pid_ < 0) return;
    char word = 0;
    opened_ = ::read(ready_.get(), &word, 1) == 1 && word == 'o';
  }
  ~Holder() { kill(); }
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;

  bool opened() const { return opened_; }
  int pid() const { return pid_; }
  /// SIGKILL. What it had open stays with the kernel, as with requests that storage has not answered yet: the descriptors
  /// are on their way through a socket that nobody reads.
  void kill() {
    if (ended_ || pid_ < 0) return;  // of -1 kill(2) makes every process that it may
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    ended_ = true;
  }
  /// The storage has answered: the kernel closes what the process had open.
  void finish_requests() { requests_.reset(); }

  /// A PID namespace of its own, in which the process is number 1.
  static pid_t fork_into_container() {
    return static_cast<pid_t>(::syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  }

 private:
  [[noreturn]] static void hold(const std::string& path, ImageAccess access, Kind kind, int ready, int queue) {
    const auto image = open_image(path, access == ImageAccess::read, kind == Kind::direct, Log(), none);
    if (!image) ::_exit(1);
    for (const UniqueFd* fd : {&image->fd, &image->direct}) {
      if (*fd) send(queue, fd->get());
    }
    const auto stay = [ready] {
      static_cast<void>(!::write(ready, "o", 1));
      while (true) ::pause();
    };
    if (kind != Kind::leaderless) stay();
    std::thread([stay, leader = ::getpid()] {
      while (!has_ended(leader)) std::this_thread::yield();
      stay();
    }).detach();
    ::syscall(SYS_exit, 0);  // of this thread only
    ::_exit(3);
  }
  /// Whether a thread of this process is there no more, or only its number.
  static bool has_ended(pid_t thread) {
    std::ifstream status("/proc/self/task/" + std::to_string(thread) + "/status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("State:")) return line.find('Z') != std::string::npos;
    }
    return true;
  }
  static void send(int socket, int fd) {
    char byte = 0;
    iovec piece{&byte, 1};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof fd)> control{};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
    if (::sendmsg(socket, &message, 0) != 1) ::_exit(2);
  }

  int pid_ = -1;
  bool opened_ = false;
  bool ended_ = false;
  UniqueFd ready_;
  UniqueFd requests_;
};

class ImageLock : public ::testing::Test {
 protected:
  void SetUp() override { static_cast<void>(dir_.make_file("disk.raw", 65536)); }

  std::string path() const { return dir_.path("disk.raw"); }
  Result<Image> open(ImageAccess access, const LockTimeouts& timeouts = none, const Log& log = Log()) const {
    return open_image(path(), access == ImageAccess::read, false, log, timeouts);
  }
  /// 0, or the errno that the opener is refused with.
  int refusal(ImageAccess access) const {
    const auto image = open(access);
    return image ? 0 : image.error().code();
  }
  /// What another program would find locked.
  std::set<off_t> locked_bytes() const {
    const UniqueFd fd(::open(path().c_str(), O_RDWR | O_CLOEXEC));
    std::set<off_t> found;
    for (off_t byte = 0; byte < 300; ++byte) {
      if (set_lock(fd.get(), F_WRLCK, byte) != 0) found.insert(byte);
    }
    return found;
  }
  /// A process of this name which does no more than to lock these bytes: `requests` of one that has ended while the kernel
  /// still has them, `life` too of one that is there.
  UniqueFd owner(std::initializer_list<off_t> bytes) const { return qemu(bytes); }
  /// QEMU with these bytes.
  UniqueFd qemu(std::initializer_list<off_t> bytes) const {
    UniqueFd fd(::open(path().c_str(), O_RDWR | O_CLOEXEC));
    for (const off_t byte : bytes) EXPECT_EQ(set_lock(fd.get(), F_RDLCK, byte), 0);
    return fd;
  }

  /// Opens while `holder` has the image, lets `then` end that once the log has said what the opener waits for, and returns
  /// what the log said.
  std::string opens_after(ImageAccess access, const std::function<void()>& then) {
    std::promise<std::string> said;
    bool first = true;
    std::string at_last;
    const Log log([&](Level level, std::string_view line) {
      if (level == Level::warning && std::exchange(first, false)) said.set_value(std::string(line));
      if (level == Level::info) at_last = line;
    });
    auto opened = std::async(std::launch::async, [&] {
      auto image = open(access, until_freed, log);
      if (first) said.set_value("did not wait");
      return image;
    });
    std::string line = said.get_future().get();
    EXPECT_EQ(opened.wait_for(seconds(0)), std::future_status::timeout) << line;
    then();
    const auto image = opened.get();
    EXPECT_TRUE(image) << image.error().message();
    EXPECT_THAT(at_last, HasSubstr(path() + ": free after "));
    return line;
  }

  outboard::testing::TempDir dir_;
};

TEST_F(ImageLock, OfAWriterIsThatOfAQemuGuestWhichWrites) {
  const auto image = open(ImageAccess::write);
  ASSERT_TRUE(image);
  EXPECT_EQ(locked_bytes(), (std::set<off_t>{100, 101, 201, 203}));
}

TEST_F(ImageLock, OfAReaderIsThatOfAQemuGuestWhichReads) {
  const auto image = open(ImageAccess::read);
  ASSERT_TRUE(image);
  EXPECT_EQ(locked_bytes(), (std::set<off_t>{100, 201, 203}));
}

TEST_F(ImageLock, KeepsBothAwayFromAQemuGuestThatWrites) {
  const UniqueFd guest = qemu({100, 101, 201, 203});
  EXPECT_EQ(refusal(ImageAccess::write), EBUSY);
  EXPECT_EQ(refusal(ImageAccess::read), EBUSY);
}

TEST_F(ImageLock, LetsOnlyReadersBesideAQemuGuestThatReads) {
  const UniqueFd guest = qemu({100, 201, 203});
  EXPECT_EQ(refusal(ImageAccess::write), EBUSY);
  EXPECT_EQ(refusal(ImageAccess::read), 0);
}

TEST_F(ImageLock, KeepsAwayFromAWriterThatSharesEverything) {  // qemu-storage-daemon, share-rw=on
  const UniqueFd daemon = qemu({100, 101});
  EXPECT_EQ(refusal(ImageAccess::write), EBUSY);
  EXPECT_EQ(refusal(ImageAccess::read), EBUSY);
}

TEST_F(ImageLock, DoesNotMindAReaderThatSharesEverything) {  // qemu-img info -U
  const UniqueFd reader = qemu({100});
  EXPECT_EQ(refusal(ImageAccess::write), 0);
  EXPECT_EQ(refusal(ImageAccess::read), 0);
}

TEST_F(ImageLock, LeavesNothingLockedWhenItIsRefused) {
  const UniqueFd guest = qemu({201});
  EXPECT_EQ(refusal(ImageAccess::write), EBUSY);
  EXPECT_EQ(locked_bytes(), (std::set<off_t>{201}));
}

TEST_F(ImageLock, LeavesNothingLockedWhileItWaits) {
  // It has taken the others when it comes to this one.
  const UniqueFd other(::open(path().c_str(), O_RDWR | O_CLOEXEC));
  ASSERT_EQ(set_lock(other.get(), F_WRLCK, 203), 0);
  std::set<off_t> locked;
  std::set<off_t> named;
  LockTimeouts timeouts = until_freed;
  timeouts.pause = [&](Duration) {
    locked = locked_bytes();
    for (const off_t byte : {LockOwner::self().requests(), LockOwner::self().life()}) {
      if (set_lock(other.get(), F_WRLCK, byte) != 0) named.insert(byte);
    }
    return false;
  };
  EXPECT_EQ(open(ImageAccess::write, timeouts).error().code(), ECANCELED);
  EXPECT_EQ(locked, (std::set<off_t>{203}));
  EXPECT_EQ(named, (std::set<off_t>{}));
}

TEST_F(ImageLock, IsCarriedByEachDescriptorThatDoesIo) {
  for (UniqueFd Image::* const which : {&Image::fd, &Image::direct}) {
    UniqueFd last;
    {
      auto image = open_image(path(), false, true, Log(), none);
      ASSERT_TRUE(image) << image.error().message();
      last = std::move((*image).*which);
      if (!last) continue;  // this file system does not do O_DIRECT
    }
    EXPECT_EQ(locked_bytes(), (std::set<off_t>{100, 101, 201, 203}));
    EXPECT_EQ(refusal(ImageAccess::write), EBUSY);
    EXPECT_EQ(refusal(ImageAccess::read), EBUSY);
    last.reset();
    EXPECT_EQ(refusal(ImageAccess::write), 0);
  }
}

TEST_F(ImageLock, IsSharedByDuplicates) {
  UniqueFd other;
  {
    const auto image = open(ImageAccess::write);
    ASSERT_TRUE(image);
    other = image->fd.duplicate().value();
  }
  EXPECT_EQ(refusal(ImageAccess::read), EBUSY);
  other.reset();
  EXPECT_EQ(refusal(ImageAccess::read), 0);
}

TEST_F(ImageLock, NamesTheProcessThatHasIt) {
  const Holder holder(path(), ImageAccess::write);
  ASSERT_TRUE(holder.opened());
  const auto image = open(ImageAccess::read);
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().code(), EBUSY);
  EXPECT_THAT(image.error().message(), HasSubstr("process " + std::to_string(holder.pid()) + " ("));
  EXPECT_THAT(image.error().message(), HasSubstr("has the image open for writing"));
}

TEST_F(ImageLock, IsWaitedForUntilItsProcessEnds) {
  Holder holder(path(), ImageAccess::write);
  ASSERT_TRUE(holder.opened());
  const std::string line = opens_after(ImageAccess::write, [&] {
    holder.finish_requests();
    holder.kill();
  });
  EXPECT_THAT(line, HasSubstr("waiting up to 600 s: process " + std::to_string(holder.pid()) + " ("));
}

TEST_F(ImageLock, OfAKilledProcessIsWaitedForUntilItsLastRequestHasEnded) {
  for (const auto kind : {Holder::Kind::cached, Holder::Kind::direct}) {
    Holder holder(path(), ImageAccess::write, kind);
    ASSERT_TRUE(holder.opened());
    holder.kill();
    const auto refused = open(ImageAccess::write);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), EBUSY);
    EXPECT_THAT(refused.error().message(), HasSubstr("has ended, but the kernel still carries out its disk requests"));
    const std::string line = opens_after(ImageAccess::write, [&] { holder.finish_requests(); });
    EXPECT_THAT(line, HasSubstr("process " + std::to_string(holder.pid()) + " has ended, but the kernel still"));
  }
}

TEST_F(ImageLock, OfAProcessWhoseFirstThreadHasLeftIsThatOfOneThatRuns) {
  Holder holder(path(), ImageAccess::write, Holder::Kind::leaderless);
  ASSERT_TRUE(holder.opened());
  const auto refused = open(ImageAccess::write);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr("is using the image"));
  EXPECT_THAT(refused.error().message(), ::testing::Not(HasSubstr("ending")));
  opens_after(ImageAccess::write, [&] {
    holder.finish_requests();
    holder.kill();
  });
}

/// A process that has the image open ends while the kernel still is with its storage.
class ImageLockOfAProcessThatEnds : public ImageLock, public ::testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    ImageLock::SetUp();
    auto made = outboard::testing::HeldFileSystem::create(65536);
    if (!made) GTEST_SKIP() << "no FUSE file system here: " << made.error().message();
    storage_ = std::move(*made);
  }
  /// Ends as `how` says, once a thread of it waits for the storage: another one ("exit, others wait") or one of the kernel's
  /// for io_uring. Does not return.
  void live_and_end(const std::string& how, int ready) const {
    signal(SIGABRT, SIG_DFL);
    signal(SIGSEGV, SIG_DFL);
    const rlimit no_core{};
    ::setrlimit(RLIMIT_CORE, &no_core);
    const auto image = open(ImageAccess::write);
    if (!image) ::_exit(1);
    auto loop = Reactor::create().value();
    auto disk = RawFile::open(
        *loop, {.path = storage_->disk(), .engine = how == "exits_with_threads" ? Engine::pool : Engine::io_uring},
        Log());
    if (!disk) ::_exit(2);
    (*disk)->flush([](int) {});
    (*disk)->submit();
    char word = 0;
    if (::read(ready, &word, 1) != 1) ::_exit(3);
    if (how == "is_killed") static_cast<void>(::raise(SIGKILL));
    if (how == "crashes") static_cast<void>(::raise(SIGSEGV));
    if (how == "aborts") std::abort();
    ::_exit(1);
  }
  std::unique_ptr<outboard::testing::HeldFileSystem> storage_;
};

TEST_P(ImageLockOfAProcessThatEnds, IsKnownForOneThatIsEnding) {
  storage_->hold(outboard::testing::HeldFileSystem::Call::fsync);
  std::array<int, 2> ready{};
  ASSERT_EQ(::pipe2(ready.data(), O_CLOEXEC), 0);
  const UniqueFd theirs(ready[0]);
  UniqueFd ours(ready[1]);
  const int pid = ::fork();
  if (pid == 0) live_and_end(GetParam(), theirs.get());
  while (storage_->holding() == 0 && !storage_->gave_up()) std::this_thread::yield();
  ASSERT_EQ(::write(ours.get(), "e", 1), 1);
  // From the moment on at which it has begun to end.
  while (!process_is_ending(pid) && !storage_->gave_up()) std::this_thread::yield();
  const auto refused = open(ImageAccess::write);
  EXPECT_GT(storage_->holding(), 0U) << "the kernel is done with it";
  EXPECT_FALSE(storage_->gave_up());
  storage_->release();
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr("process " + std::to_string(pid) + " is ending, but the kernel"));
  EXPECT_EQ(::waitpid(pid, nullptr, 0), pid);
  EXPECT_TRUE(open(ImageAccess::write, until_freed));
}

INSTANTIATE_TEST_SUITE_P(Storage, ImageLockOfAProcessThatEnds,
                         ::testing::Values("is_killed", "crashes", "aborts", "exits", "exits_with_threads"),
                         [](const auto& how) { return std::string(how.param); });

TEST_F(ImageLock, OfAKilledProcessThatIsStillWithTheStorageIsWaitedForAsLong) {
  auto made = outboard::testing::HeldFileSystem::create(65536);
  if (!made) GTEST_SKIP() << "no FUSE file system here: " << made.error().message();
  auto& storage = **made;
  for (const bool contained : {false, true}) {
    storage.hold(outboard::testing::HeldFileSystem::Call::fsync);
    const int pid = contained ? Holder::fork_into_container() : ::fork();
    if (pid == 0) {
      const auto image = open(ImageAccess::write);
      const UniqueFd file(::open(storage.disk().c_str(), O_RDWR | O_CLOEXEC));
      ::_exit(image && ::fsync(file.get()) == 0 ? 0 : 1);
    }
    if (pid < 0) GTEST_SKIP() << "no PID namespaces here";
    while (storage.holding() == 0 && !storage.gave_up()) std::this_thread::yield();
    ::kill(pid, SIGKILL);
    const auto refused = open(ImageAccess::write);
    storage.release();
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), EBUSY);
    EXPECT_THAT(refused.error().message(),
                HasSubstr((contained ? "process 1 of another container" : "process " + std::to_string(pid)) +
                          " is ending, but the kernel still carries out its disk"));
    EXPECT_EQ(::waitpid(pid, nullptr, 0), pid);
    EXPECT_EQ(refusal(ImageAccess::write), 0);
    EXPECT_FALSE(storage.gave_up());
  }
}

TEST_F(ImageLock, OfAKilledQemuThatIsStillWithTheStorageIsWaitedForAsLong) {
  auto made = outboard::testing::HeldFileSystem::create(65536);
  if (!made) GTEST_SKIP() << "no FUSE file system here: " << made.error().message();
  auto& storage = **made;
  storage.hold(outboard::testing::HeldFileSystem::Call::fsync);
  const int pid = ::fork();
  if (pid == 0) {
    const UniqueFd guest = qemu({100, 101, 201, 203});
    const UniqueFd file(::open(storage.disk().c_str(), O_RDWR | O_CLOEXEC));
    ::_exit(::fsync(file.get()) == 0 ? 0 : 1);
  }
  while (storage.holding() == 0 && !storage.gave_up()) std::this_thread::yield();
  ::kill(pid, SIGKILL);
  // While it closes its files, nothing shows that it is the one.
  const LockTimeouts timeouts{.running = seconds(500), .ended = seconds(600)};
  std::string said;
  const Log log([&](Level level, std::string_view line) {
    if (level == Level::warning && said.empty()) said = line;
    storage.release();
  });
  const auto image = open(ImageAccess::write, timeouts, log);
  storage.release();
  EXPECT_TRUE(image) << image.error().message();
  EXPECT_THAT(said, HasSubstr("waiting up to 600 s: process " + std::to_string(pid) + " ("));
  EXPECT_THAT(said, HasSubstr("is ending, but the kernel still carries out its disk requests"));
  EXPECT_EQ(::waitpid(pid, nullptr, 0), pid);
  EXPECT_FALSE(storage.gave_up());
}

TEST_F(ImageLock, OfAKilledReaderIsWaitedForByReadersToo) {
  // Its requests still write, into memory that its successor answers for.
  Holder holder(path(), ImageAccess::read);
  ASSERT_TRUE(holder.opened());
  EXPECT_EQ(refusal(ImageAccess::read), 0) << "a reader that runs keeps readers away";
  holder.kill();
  EXPECT_EQ(refusal(ImageAccess::read), EBUSY);
  opens_after(ImageAccess::read, [&] { holder.finish_requests(); });
}

TEST_F(ImageLock, IsFoundAmongManyReaders) {
  std::vector<std::unique_ptr<Holder>> readers;
  for (int i = 0; i < 8; ++i) readers.push_back(std::make_unique<Holder>(path(), ImageAccess::read));
  readers[3]->kill();
  const auto image = open(ImageAccess::read);
  ASSERT_FALSE(image);
  EXPECT_THAT(image.error().message(), HasSubstr("process " + std::to_string(readers[3]->pid()) + " has ended"));
}

TEST_F(ImageLock, IsFoundAmongReadersOfNeighbouringNumbers) {
  LockOwner low = LockOwner::self();
  low.container ^= 1;
  low.pid = 1000;
  LockOwner next = low;
  next.pid = 1001;
  // The kernel shows the one first that locked first.
  for (const bool low_first : {false, true}) {
    const LockOwner& first = low_first ? low : next;
    const LockOwner& second = low_first ? next : low;
    const std::array alive = {owner({first.requests(), first.life()}), owner({second.requests(), second.life()})};
    for (const std::uint32_t pid : {1U, 999U, 1002U, 4000000U}) {
      LockOwner dead = low;
      dead.pid = pid;
      const UniqueFd requests = owner({dead.requests()});
      const auto refused = open(ImageAccess::read);
      ASSERT_FALSE(refused) << pid;
      EXPECT_THAT(refused.error().message(), HasSubstr("process " + std::to_string(pid) + " of another container has"));
    }
    EXPECT_EQ(refusal(ImageAccess::read), 0);
  }
}

TEST_F(ImageLock, IsRefusedWhereMoreLocksAreThereThanAreLookedAt) {
  const UniqueFd crowd(::open(path().c_str(), O_RDWR | O_CLOEXEC));
  LockOwner owner{.host = LockOwner::self().host ^ 1, .container = 1, .pid = 0};
  const auto add_one = [&] {
    owner.pid += 2;  // neighbours would become one lock
    return set_lock(crowd.get(), F_RDLCK, owner.requests()) == 0 && set_lock(crowd.get(), F_RDLCK, owner.life()) == 0;
  };
  for (unsigned i = 0; i < LockHolders::max_locks; ++i) ASSERT_TRUE(add_one());
  EXPECT_EQ(refusal(ImageAccess::read), 0);
  ASSERT_TRUE(add_one());
  const auto image = open(ImageAccess::read);
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().code(), EBUSY);
  EXPECT_THAT(image.error().message(), HasSubstr("more than 2048 locks are on the image"));
}

TEST_F(ImageLock, OfLifeIsLetGoLast) {
  // A name without a life is that of a dead process: whoever looked in between would take us for one. Members are destroyed in
  // the opposite order of their addresses.
  const Image image;
  for (const UniqueFd* other : {&image.fd, &image.direct}) EXPECT_TRUE(std::less<>()(&image.guard, other));
}

TEST_F(ImageLock, IsNotWaitedForInTheProcessThatHasIt) {
  const auto first = open(ImageAccess::write);
  ASSERT_TRUE(first);
  const auto second = open(ImageAccess::write, until_freed);
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().message(), HasSubstr("this process is using the image"));
}

TEST_F(ImageLock, OfADeadProcessWhoseNumberIsOursNowIsWaitedFor) {
  // A container that is started again: the number of its namespace is given again, and so is that of its first process.
  for (const ImageAccess access : {ImageAccess::read, ImageAccess::write}) {
    UniqueFd requests = owner({LockOwner::self().requests()});
    const auto refused = open(access);
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().message(), HasSubstr("has ended, but the kernel still carries out its disk requests"));
    opens_after(access, [&] { requests.reset(); });
  }
}

TEST_F(ImageLock, OfADeadProcessInAnotherContainerIsWaitedForByReadersToo) {
  LockOwner other = LockOwner::self();
  other.container ^= 1;
  UniqueFd requests = owner({other.requests()});
  const std::string line = opens_after(ImageAccess::read, [&] { requests.reset(); });
  EXPECT_THAT(line, HasSubstr("of another container has ended, but the kernel still"));
}

TEST_F(ImageLock, OfAReaderOnAnotherHostIsNoObstacleToReaders) {
  LockOwner other = LockOwner::self();
  other.host ^= 1;
  other.pid = 4000000;  // no process of this host
  const UniqueFd alive = owner({other.requests(), other.life(), 100, 201, 203});
  EXPECT_EQ(refusal(ImageAccess::read), 0);
  const auto writer = open(ImageAccess::write);
  ASSERT_FALSE(writer);
  EXPECT_THAT(writer.error().message(), HasSubstr("process 4000000 of another host is using the image"));
}

TEST_F(ImageLock, OfAProcessInAnotherContainerLetsReadersInUntilItEnds) {
  Holder holder(path(), ImageAccess::read, Holder::Kind::contained);
  if (holder.pid() < 0) GTEST_SKIP() << "no PID namespaces here";
  ASSERT_TRUE(holder.opened());
  EXPECT_EQ(refusal(ImageAccess::read), 0);
  const auto writer = open(ImageAccess::write);
  ASSERT_FALSE(writer);
  EXPECT_THAT(writer.error().message(), HasSubstr("process " + std::to_string(holder.pid()) + " ("))
      << "its number here";
  holder.kill();
  opens_after(ImageAccess::read, [&] { holder.finish_requests(); });
}

/// What another user is refused with, from whom /proc hides the processes of others. Nothing: that cannot be had here.
std::optional<std::string> refusal_of_another_user(const std::string& path) {
  std::array<int, 2> ends{};
  EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd theirs(ends[0]);
  UniqueFd ours(ends[1]);
  const pid_t pid = ::fork();
  if (pid == 0) {
    constexpr uid_t nobody = 65534;
    if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("proc", "/proc", "proc", 0, "hidepid=2") != 0 || ::setgroups(0, nullptr) != 0 ||
        ::setresgid(nobody, nobody, nobody) != 0 || ::setresuid(nobody, nobody, nobody) != 0)
      ::_exit(1);
    const auto image = open_image(path, false, false, Log(), none);
    if (!image && image.error().code() == EACCES) ::_exit(1);
    const std::string said = image ? "opened" : image.error().message() + "\n" + std::string(image.error().cure());
    static_cast<void>(!::write(ours.get(), said.data(), said.size()));
    ::_exit(0);
  }
  ours.reset();
  std::string said(4096, 0);
  const ssize_t size = ::read(theirs.get(), said.data(), said.size());
  said.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  return status == 0 ? std::optional(said) : std::nullopt;
}

TEST_F(ImageLock, OfAProcessThatIsHiddenIsNotSaidToBeThatOfOneThatRuns) {
  ASSERT_EQ(::chmod(dir_.path("").c_str(), 0755), 0);
  ASSERT_EQ(::chmod(path().c_str(), 0666), 0);
  const Holder holder(path(), ImageAccess::write);
  ASSERT_TRUE(holder.opened());
  const auto said = refusal_of_another_user(path());
  if (!said) GTEST_SKIP() << "no /proc that hides processes can be had here";
  EXPECT_THAT(*said, HasSubstr("process " + std::to_string(holder.pid()) +
                               " is using the image; whether it runs or is ending cannot be seen from here"));
  EXPECT_THAT(*said, HasSubstr("if it is ending, start again when it has ended"));
}

TEST_F(ImageLock, OfAProcessThatIsNotHereIsNotSaidToBeThatOfOneThatRuns) {
  LockOwner host = LockOwner::self(), container = host, number = host;
  host.host ^= 1;
  container.container ^= 1;
  number.pid = (1U << 22) - 1;
  for (const LockOwner& other : {host, container, number}) {
    const UniqueFd alive = owner({other.requests(), other.life(), 100, 101, 201, 203});
    const auto refused = open(ImageAccess::write);
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().message(), HasSubstr("whether it runs or is ending cannot be seen from here"));
  }
}

TEST_F(ImageLock, OfADeadServerMayBeHeldByAReaderAndTheCureSaysSo) {
  const UniqueFd reader(::open(path().c_str(), O_RDONLY | O_CLOEXEC));
  ASSERT_EQ(set_lock(reader.get(), F_RDLCK, LockOwner{.host = 1, .container = 1, .pid = 1}.requests()), 0);
  const auto refused = open(ImageAccess::read);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().cure(), HasSubstr("dmesg"));
  EXPECT_THAT(refused.error().cure(), HasSubstr("fuser -v " + path()));
}

TEST_F(ImageLock, OfAnOwnerIsTheOneThatItsByteNames) {
  const LockOwner owner{.host = (1U << 19) - 1, .container = (1U << 20) - 2, .pid = (1U << 22) - 3};
  EXPECT_EQ(LockOwner::of(owner.requests()), owner);
  EXPECT_LE(owner.requests(), last_owner);
  EXPECT_GT(owner.life(), last_owner);
  EXPECT_EQ(LockOwner{}.life(), last_owner + 1) << "the two ranges have no byte in common";
  EXPECT_NE(LockOwner::self().host, 0U) << "this boot has a name";
}

TEST_F(ImageLock, IsNotWaitedForOnceTheProgramIsToEnd) {
  const Holder holder(path(), ImageAccess::write);
  ASSERT_TRUE(holder.opened());
  unsigned pauses = 0;
  LockTimeouts timeouts = until_freed;
  timeouts.pause = [&pauses](Duration) { return ++pauses < 3; };
  const auto image = open(ImageAccess::write, timeouts);
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().code(), ECANCELED);
  EXPECT_EQ(pauses, 3U);
  EXPECT_THAT(image.error().message(),
              HasSubstr("interrupted while waiting for process " + std::to_string(holder.pid())));
}

TEST_F(ImageLock, ThatADescriptorCannotCarryKeepsItFromBeingUsed) {
  // Not open for reading: the kernel says EBADF. A file system may say ENOLCK, EIO or whatever it likes.
  const UniqueFd written(::open(path().c_str(), O_WRONLY | O_CLOEXEC));
  for (const LockScope lock : {LockScope::unnamed, LockScope::named})
    EXPECT_FALSE(lock_image_again(written.get(), path(), ImageAccess::write, lock));
  EXPECT_TRUE(lock_image_again(written.get(), path(), ImageAccess::write, LockScope::none));
  EXPECT_EQ(lock_image(written.get(), path(), ImageAccess::write, none, Log()).error().code(), EBADF);
}

TEST_F(ImageLock, WhoseHoldersCannotBeAskedForIsAnError) {
  EXPECT_EQ(locked_by_others(-1, {0, 1}).error().code(), EBADF);
  EXPECT_EQ(is_locked_by_others(-1, 0).error().code(), EBADF);
}

TEST_F(ImageLock, IsNotTakenOnAnotherFileAtTheSamePath) {
  const auto first = open(ImageAccess::write);
  ASSERT_TRUE(first);
  ASSERT_EQ(::rename(path().c_str(), dir_.path("moved.raw").c_str()), 0);
  static_cast<void>(dir_.make_file("disk.raw", 65536));
  EXPECT_EQ(refusal(ImageAccess::write), 0);
}

TEST_F(ImageLock, OfAnImageThatIsReplacedMeanwhileIsNotTakenForThatOfTheOther) {
  for (const bool direct : {false, true}) {
    UniqueFd guest = qemu({100, 101});
    static_cast<void>(dir_.make_file("new.raw", 65536));
    LockTimeouts timeouts = until_freed;
    timeouts.pause = [&](Duration) {
      EXPECT_EQ(::rename(dir_.path("new.raw").c_str(), path().c_str()), 0);
      guest.reset();
      return true;
    };
    const auto image = open_image(path(), false, direct, Log(), timeouts);
    ASSERT_FALSE(image);
    EXPECT_EQ(image.error().code(), EAGAIN);
    EXPECT_THAT(image.error().message(), HasSubstr("the image was replaced while it was being opened"));
  }
}

}  // namespace
}  // namespace outboard::storage
