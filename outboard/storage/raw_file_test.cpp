// What a person meets when an image cannot be served, the lock, and the engines.

#include <outboard/storage/raw_file.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/storage/internal/image.hpp>
#include <outboard/storage/internal/uring_engine.hpp>
#include <tests/support/denied_calls.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::storage {
namespace {

using ::testing::HasSubstr;

class AnImage : public ::testing::Test {
 protected:
  void SetUp() override {
    auto reactor = Reactor::create();
    ASSERT_TRUE(reactor);
    loop_ = std::move(*reactor);
  }
  auto open(const std::string& path, bool read_only = false) {
    return RawFile::open(*loop_, {.path = path, .read_only = read_only}, Log());
  }
  Error refused(const std::string& path, bool read_only = false) {
    auto opened = open(path, read_only);
    EXPECT_FALSE(opened) << "was opened: " << path;
    return opened ? Error(EIO) : opened.error();
  }

  /// Starts an operation, runs the loop until it has completed, and gives its errno.
  template <typename Start>
  int run(Backend& disk, Start&& start) {
    std::optional<int> result;
    start([&result](int error) { result = error; });
    disk.submit();
    while (!result && loop_->run_once(std::chrono::seconds(1))) {
    }
    return result.value_or(-1);
  }

  /// Looks at the size again.
  Result<std::uint64_t> measure(Backend& disk) {
    std::optional<Result<std::uint64_t>> result;
    disk.measure([&result](const Result<std::uint64_t>& capacity) { result = capacity; });
    while (!result && loop_->run_once(std::chrono::seconds(1))) {
    }
    return result.value_or(Error(ETIMEDOUT));
  }

  outboard::testing::TempDir dir_;
  std::unique_ptr<Reactor> loop_;
};

TEST_F(AnImage, ThatDoesNotExistIsRefusedWithTheCommandThatMakesOne) {
  const Error error = refused(dir_.path("none.raw"));
  EXPECT_EQ(error.code(), ENOENT);
  EXPECT_THAT(error.message(), HasSubstr("none.raw: there is no such image"));
  EXPECT_THAT(error.cure(), HasSubstr("truncate -s 1G " + dir_.path("none.raw")));
}

TEST_F(AnImage, ThatIsADirectoryIsRefused) {
  for (const bool read_only : {false, true}) {
    const Error error = refused(dir_.path(), read_only);
    EXPECT_EQ(error.code(), EISDIR);
    EXPECT_THAT(error.message(), HasSubstr("is a directory"));
  }
}

TEST_F(AnImage, ThatIsEmptyIsRefused) {
  static_cast<void>(dir_.make_file("empty.raw", 0));
  const Error error = refused(dir_.path("empty.raw"));
  EXPECT_THAT(error.message(), HasSubstr("empty"));
  EXPECT_THAT(error.cure(), HasSubstr("truncate"));
}

TEST_F(AnImage, WhoseSizeIsNotAMultipleOf512IsRefusedWithTheCure) {
  static_cast<void>(dir_.make_file("odd.raw", 1000));
  const Error error = refused(dir_.path("odd.raw"));
  EXPECT_EQ(error.code(), EINVAL);
  EXPECT_THAT(error.message(), HasSubstr("1000 bytes"));
  EXPECT_EQ(error.cure(), "truncate -s 1024 " + dir_.path("odd.raw"));
}

TEST_F(AnImage, ThatIsOnlyReadOrCannotGrowIsRefusedWithoutAdviceToGrowIt) {
  static_cast<void>(dir_.make_file("odd.raw", 1000));
  static_cast<void>(dir_.make_file("empty.raw", 0));
  EXPECT_EQ(refused(dir_.path("odd.raw"), true).cure(), "");
  EXPECT_EQ(refused(dir_.path("empty.raw"), true).cure(), "");
  const UniqueFd memory = outboard::testing::make_memfd(4096);
  if (::ftruncate(memory.get(), INT64_MAX) != 0) GTEST_SKIP() << "no file of this size in memory";
  const Error error = refused("/proc/self/fd/" + std::to_string(memory.get()));
  EXPECT_EQ(error.code(), EINVAL);
  EXPECT_EQ(error.cure(), "");
}

TEST_F(AnImage, ThatIsAFifoIsRefusedWithoutWaitingForItsOtherEnd) {
  ASSERT_EQ(::mkfifo(dir_.path("fifo").c_str(), 0600), 0);
  EXPECT_THAT(refused(dir_.path("fifo")).message(), HasSubstr("neither a file nor a block device"));
  EXPECT_THAT(refused(dir_.path("fifo"), true).message(), HasSubstr("neither a file nor a block device"));
}

TEST_F(AnImage, WithoutPermissionIsRefusedWithACure) {
  static_cast<void>(dir_.make_file("mine.raw", 4096));
  ASSERT_EQ(::chmod(dir_.path("mine.raw").c_str(), 0444), 0);
  if (::geteuid() != 0) {
    const Error error = refused(dir_.path("mine.raw"));
    EXPECT_EQ(error.code(), EACCES);
    EXPECT_THAT(error.cure(), HasSubstr("read-only"));
    return;
  }
  // The superuser may write anything; a thread of another user may not (setfsuid is the thread's own).
  ASSERT_EQ(::chmod(dir_.path().c_str(), 0755), 0);
  std::thread([&] {
    ::syscall(SYS_setfsuid, 65534);
    const Error error = refused(dir_.path("mine.raw"));
    EXPECT_EQ(error.code(), EACCES);
    EXPECT_THAT(error.cure(), HasSubstr("read-only"));
  }).join();
}

TEST_F(AnImage, IsWrittenByOneServerOnly) {
  static_cast<void>(dir_.make_file("disk.raw", 4096));
  auto first = open(dir_.path("disk.raw"));
  ASSERT_TRUE(first);
  const Error error = refused(dir_.path("disk.raw"));
  EXPECT_EQ(error.code(), EBUSY);
  EXPECT_THAT(error.message(), HasSubstr("this process is using the image"));
  EXPECT_EQ(refused(dir_.path("disk.raw"), true).code(), EBUSY);
}

TEST_F(AnImage, IsReadByMany) {
  static_cast<void>(dir_.make_file("disk.raw", 4096));
  const auto first = open(dir_.path("disk.raw"), true);
  const auto second = open(dir_.path("disk.raw"), true);
  EXPECT_TRUE(first);
  EXPECT_TRUE(second);
  EXPECT_EQ(refused(dir_.path("disk.raw")).code(), EBUSY);
}

TEST_F(AnImage, IsFreeAsSoonAsItsServerHasGone) {
  static_cast<void>(dir_.make_file("disk.raw", 4096));
  for (int i = 0; i < 20; ++i) {
    auto opened = open(dir_.path("disk.raw"));
    ASSERT_TRUE(opened) << opened.error().message();
  }
}

TEST_F(AnImage, StaysLockedUntilTheLastSharedOneHasGone) {
  static_cast<void>(dir_.make_file("disk.raw", 4096));
  auto first = open(dir_.path("disk.raw"));
  ASSERT_TRUE(first);
  auto shared = (*first)->share(*loop_);
  ASSERT_TRUE(shared);
  first->reset();
  EXPECT_EQ(refused(dir_.path("disk.raw")).code(), EBUSY);
  shared->reset();
  EXPECT_TRUE(open(dir_.path("disk.raw")));
}

TEST_F(AnImage, ThatHasGrownIsLargerOnceThatIsAgreedTo) {
  const UniqueFd file = dir_.make_file("disk.raw", 8192);
  auto disk = open(dir_.path("disk.raw"));
  ASSERT_TRUE(disk);
  ASSERT_EQ(::ftruncate(file.get(), 65536), 0);
  EXPECT_EQ(measure(**disk), 65536U);
  EXPECT_EQ((*disk)->geometry().capacity, 8192U);
  (*disk)->set_capacity(65536);
  EXPECT_EQ((*disk)->geometry().capacity, 65536U);
  std::vector<std::byte> bytes(512);
  const iovec piece{bytes.data(), bytes.size()};
  EXPECT_EQ(run(**disk, [&](auto done) { (*disk)->write(65024, std::span(&piece, 1), done); }), 0);
}

TEST_F(AnImage, OfASizeThatCannotBeServedStaysAsItWas) {
  const UniqueFd file = dir_.make_file("disk.raw", 8192);
  auto disk = open(dir_.path("disk.raw"));
  ASSERT_TRUE(disk);
  for (const off_t size : {off_t{0}, off_t{8193}}) {
    ASSERT_EQ(::ftruncate(file.get(), size), 0);
    EXPECT_EQ(measure(**disk).error().code(), EINVAL);
    EXPECT_EQ((*disk)->geometry().capacity, 8192U);
  }
}

TEST_F(AnImage, IsKnownByWhichFileItIsAndNotByItsName) {
  const auto identity = [&](const char* name) {
    auto disk = open(dir_.path(name));
    EXPECT_TRUE(disk) << disk.error().message();
    return disk ? (*disk)->identity() : StorageIdentity{};
  };
  {
    const UniqueFd file = dir_.make_file("disk.raw", 8192);
  }
  const auto first = identity("disk.raw");
  EXPECT_EQ(first.contents, StorageIdentity::Contents::kept);
  EXPECT_EQ(first.size, 8192U);
  EXPECT_EQ(first.name, dir_.path("disk.raw"));
  EXPECT_TRUE(first.page_cache);
  EXPECT_NE(first.device, 0U);
  EXPECT_TRUE(check_same_storage(first, identity("disk.raw")));
  ASSERT_EQ(::rename(dir_.path("disk.raw").c_str(), dir_.path("moved.raw").c_str()), 0);
  EXPECT_TRUE(check_same_storage(first, identity("moved.raw")));
  {
    const UniqueFd file = dir_.make_file("disk.raw", 8192);
  }
  EXPECT_EQ(check_same_storage(first, identity("disk.raw")).error().code(), ESTALE);
  // Its inode number may be given to the next file at once.
  ASSERT_EQ(::unlink(dir_.path("moved.raw").c_str()), 0);
  {
    const UniqueFd file = dir_.make_file("moved.raw", 8192);
  }
  EXPECT_EQ(check_same_storage(first, identity("moved.raw")).error().code(), ESTALE);
}

TEST_F(AnImage, ThatHasGrownIsTheSameAndSoIsWhatSharesIt) {
  static_cast<void>(dir_.make_file("disk.raw", 8192));
  auto disk = open(dir_.path("disk.raw"));
  ASSERT_TRUE(disk);
  const auto before = (*disk)->identity();
  const auto shared = (*disk)->share(*loop_);
  ASSERT_TRUE(shared);
  (*disk)->set_capacity(16384);
  for (const Backend* each : {static_cast<Backend*>(disk->get()), shared->get()}) {
    EXPECT_EQ(each->geometry().capacity, 16384U);
    EXPECT_EQ(each->identity().size, 16384U);
    EXPECT_EQ(each->identity().id, before.id);
  }
  EXPECT_TRUE(check_same_storage(before, (*disk)->identity()));
}

// Whoever goes on with the larger size must not find the smaller one noted for its successor.
TEST_F(AnImage, ThatHasBecomeSmallerStaysAsItWasUntilThatIsAgreedTo) {
  const UniqueFd file = dir_.make_file("disk.raw", 8192);
  auto disk = open(dir_.path("disk.raw"));
  ASSERT_TRUE(disk);
  ASSERT_EQ(::ftruncate(file.get(), 4096), 0);
  EXPECT_EQ(measure(**disk), 4096U);
  EXPECT_EQ((*disk)->geometry().capacity, 8192U);
  EXPECT_EQ((*disk)->identity().size, 8192U);
}

TEST_F(AnImage, ThatShrinksFailsReadsBeyondItsEndAndLeaksNothing) {
  const UniqueFd file = dir_.make_file("disk.raw", 8192);
  auto disk = open(dir_.path("disk.raw"));
  ASSERT_TRUE(disk);
  ASSERT_EQ(::ftruncate(file.get(), 4096), 0);
  std::vector<std::byte> bytes(8192);
  const iovec piece{bytes.data(), bytes.size()};
  std::optional<int> result;
  (*disk)->read(0, std::span(&piece, 1), [&](int error) { result = error; });
  (*disk)->submit();
  while (!result) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
  EXPECT_EQ(*result, EIO);
}

TEST_F(AnImage, PassesOnWhatTheKernelSaysToAWrite) {
  // A file sealed against writing stands for a full or failing disk.
  const UniqueFd file = outboard::testing::make_memfd(4096);
  ASSERT_EQ(::fcntl(file.get(), F_ADD_SEALS, F_SEAL_WRITE), 0);
  for (const Engine engine : {Engine::automatic, Engine::pool}) {
    auto disk = RawFile::open(*loop_, {.path = "/proc/self/fd/" + std::to_string(file.get()), .engine = engine}, Log());
    ASSERT_TRUE(disk) << disk.error().message();
    std::vector<std::byte> bytes(512);
    const iovec piece{bytes.data(), bytes.size()};
    std::optional<int> result;
    (*disk)->write(0, std::span(&piece, 1), [&](int error) { result = error; });
    (*disk)->submit();
    while (!result) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
    EXPECT_EQ(*result, EPERM);
  }
}

/// Runs `what` on a thread where a system call fails with `code`, there and on threads that are made there.
template <typename What>
void with_failing(long call, int code, What&& what) {
  std::thread([&] {
    sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(call), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(code)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog program{std::size(filter), filter};
    ASSERT_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ASSERT_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    what();
  }).join();
}

/// The same where io_uring cannot be set up, as in a container.
template <typename What>
void without_io_uring(int code, What&& what) {
  with_failing(SYS_io_uring_setup, code, std::forward<What>(what));
}

TEST_F(AnImage, IsServedByThreadsWhereIoUringIsForbiddenAndTheLogSaysSoOnce) {
  static_cast<void>(dir_.make_file("disk.raw", 4096));
  for (const int code : {EPERM, ENOSYS}) {
    without_io_uring(code, [&] {
      auto reactor = Reactor::create();
      ASSERT_TRUE(reactor);
      std::vector<std::string> warnings;
      const Log log([&](Level level, std::string_view line) {
        if (level == Level::warning) warnings.emplace_back(line);
      });
      auto disk = RawFile::open(**reactor, {.path = dir_.path("disk.raw")}, log);
      ASSERT_TRUE(disk) << disk.error().message();
      auto shared = (*disk)->share(**reactor);
      ASSERT_TRUE(shared);
      EXPECT_THAT((*disk)->description(), HasSubstr("threads"));
      ASSERT_EQ(warnings.size(), 1u);
      EXPECT_THAT(warnings[0], HasSubstr("io_uring is not available here"));
    });
  }
}

TEST_F(AnImage, IsRefusedWhereIoUringIsForbiddenAndWasAskedFor) {
  static_cast<void>(dir_.make_file("disk.raw", 4096));
  without_io_uring(EPERM, [&] {
    auto reactor = Reactor::create();
    ASSERT_TRUE(reactor);
    auto disk = RawFile::open(**reactor, {.path = dir_.path("disk.raw"), .engine = Engine::io_uring}, Log());
    ASSERT_FALSE(disk);
    EXPECT_EQ(disk.error().code(), EPERM);
    EXPECT_THAT(disk.error().cure(), HasSubstr("io_uring_disabled"));
    EXPECT_FALSE(probe_io_uring());
  });
}

TEST_F(AnImage, WhoseFlushHasFailedFailsEveryLaterFlushAlsoWhenShared) {
  // The kernel says only once that it has lost pages, and holds them to be clean from then on.
  static_cast<void>(dir_.make_file("disk.raw", 4096));
  std::unique_ptr<RawFile> disk;
  with_failing(SYS_fdatasync, EIO, [&] {
    disk = RawFile::open(*loop_, {.path = dir_.path("disk.raw"), .engine = Engine::pool}, Log()).value();
    EXPECT_EQ(run(*disk, [&](auto done) { disk->flush(done); }), EIO);
  });
  auto shared = disk->share(*loop_);  // on threads whose calls succeed
  ASSERT_TRUE(shared);
  EXPECT_EQ(run(**shared, [&](auto done) { (*shared)->flush(done); }), EIO);
  EXPECT_EQ(run(*disk, [&](auto done) { disk->flush(done); }), EIO);
}

TEST_F(AnImage, ForWhichNoThreadCanBeStartedIsRefused) {
  static_cast<void>(dir_.make_file("disk.raw", 4096));
  outboard::testing::with_calls_denied({SYS_clone, SYS_clone3}, EAGAIN, [&] {
    const auto disk = RawFile::open(*loop_, {.path = dir_.path("disk.raw"), .engine = Engine::pool}, Log());
    ASSERT_FALSE(disk);
    EXPECT_EQ(disk.error().code(), EAGAIN);
    EXPECT_THAT(disk.error().message(), HasSubstr("a thread for disk I/O cannot be started"));
  });
}

TEST_F(AnImage, ThatIsOnlyReadIsNotFlushed) {
  static_cast<void>(dir_.make_file("disk.raw", 4096));
  with_failing(SYS_fdatasync, EIO, [&] {
    const auto disk =
        RawFile::open(*loop_, {.path = dir_.path("disk.raw"), .read_only = true, .engine = Engine::pool}, Log());
    ASSERT_TRUE(disk);
    EXPECT_EQ(run(**disk, [&](auto done) { (*disk)->flush(done); }), 0);
  });
}

TEST_F(AnImage, OnAFileSystemThatMakesNoZerosHasThemWritten) {
  const UniqueFd file = dir_.make_file("disk.raw", 8 << 20);
  const std::vector<char> bytes(8 << 20, 'x');
  ASSERT_EQ(::pwrite(file.get(), bytes.data(), bytes.size(), 0), 8 << 20);
  with_failing(SYS_fallocate, EOPNOTSUPP, [&] {
    const auto disk = RawFile::open(*loop_, {.path = dir_.path("disk.raw"), .engine = Engine::pool}, Log()).value();
    EXPECT_FALSE(disk->geometry().can_discard);
    EXPECT_FALSE(disk->geometry().can_write_zeroes);
    EXPECT_EQ(run(*disk, [&](auto done) { disk->discard(0, 4096, done); }), 0);
    for (const bool may_unmap : {false, true})
      EXPECT_EQ(run(*disk, [&](auto done) { disk->write_zeroes(512, (3 << 20) + 512, may_unmap, done); }), 0);
  });
  std::vector<char> back(8 << 20);
  ASSERT_EQ(::pread(file.get(), back.data(), back.size(), 0), 8 << 20);
  std::vector<char> expected = bytes;
  std::fill_n(expected.begin() + 512, (3 << 20) + 512, '\0');
  EXPECT_TRUE(back == expected);
}

TEST_F(AnImage, WhereODirectIsRefusedGoesThroughThePageCacheAsAWhole) {
  static_cast<void>(dir_.make_file("disk.raw", 8192));
  with_failing(SYS_pread64, EINVAL, [&] {
    std::vector<std::string> warnings;
    const Log log([&](Level level, std::string_view line) {
      if (level == Level::warning) warnings.emplace_back(line);
    });
    const auto image = open_image(dir_.path("disk.raw"), false, true, log);
    ASSERT_TRUE(image) << image.error().message();
    EXPECT_FALSE(image->direct);
    ASSERT_EQ(warnings.size(), 1U);
    EXPECT_THAT(warnings[0], HasSubstr("does not do O_DIRECT: going through the page cache"));
  });
}

TEST_F(AnImage, WhoseEndIsNotAUnitOfODirectIsRefusedOnlyForWritingByIt) {
  static_cast<void>(dir_.make_file("disk.raw", (1 << 20) + 512));
  Image image;
  image.path = dir_.path("disk.raw");
  image.fd = UniqueFd(::open(image.path.c_str(), O_RDWR | O_CLOEXEC));
  image.direct_rules = {.memory = 512, .unit = 4096};
  EXPECT_TRUE(image.size_now());
  image.direct = UniqueFd(::open(image.path.c_str(), O_RDWR | O_CLOEXEC));
  const auto size = image.size_now();
  ASSERT_FALSE(size);
  EXPECT_EQ(size.error().code(), EINVAL);
  EXPECT_THAT(size.error().message(), HasSubstr("not a multiple of 4096"));
  EXPECT_THAT(size.error().cure(), HasSubstr("truncate -s 1052672 " + image.path));
  image.geometry.read_only = true;
  EXPECT_TRUE(image.size_now());
}

TEST_F(AnImage, HasNoDescriptorThatIsNonBlocking) {
  // io_uring fails what would wait on such a descriptor where the disk beneath cannot tell (EAGAIN, again and again).
  static_cast<void>(dir_.make_file("disk.raw", 4096));
  const auto image = open_image(dir_.path("disk.raw"), false, true, Log());
  ASSERT_TRUE(image) << image.error().message();
  EXPECT_EQ(::fcntl(image->fd.get(), F_GETFL) & O_NONBLOCK, 0);
  if (!image->direct) return;  // the file system does not do O_DIRECT
  EXPECT_EQ(::fcntl(image->direct.get(), F_GETFL) & (O_NONBLOCK | O_DIRECT), O_DIRECT);
}

TEST_F(AnImage, IsDescribedWithItsEngine) {
  static_cast<void>(dir_.make_file("disk.raw", 4096));
  auto pool = RawFile::open(
      *loop_, {.path = dir_.path("disk.raw"), .read_only = true, .engine = Engine::pool, .threads = 2}, Log());
  ASSERT_TRUE(pool);
  EXPECT_EQ((*pool)->description(), dir_.path("disk.raw") + " (2 threads, read-only)");
}

TEST_F(AnImage, IsLoggedWithItsSize) {
  static_cast<void>(dir_.make_file("disk.raw", 4096));
  std::vector<std::string> lines;
  const Log log([&](Level level, std::string_view line) {
    if (level == Level::info) lines.emplace_back(line);
  });
  const auto disk = RawFile::open(*loop_, {.path = dir_.path("disk.raw"), .engine = Engine::pool, .threads = 2}, log);
  ASSERT_TRUE(disk);
  EXPECT_EQ(lines, std::vector<std::string>{dir_.path("disk.raw") + " (2 threads): 4096 bytes"});
}

TEST_F(AnImage, GivesSpaceBackOnDiscard) {
  const UniqueFd file = dir_.make_file("disk.raw", 1 << 20);
  const std::vector<char> bytes(1 << 20, 'x');
  ASSERT_EQ(::pwrite(file.get(), bytes.data(), bytes.size(), 0), 1 << 20);
  ASSERT_EQ(::fsync(file.get()), 0);
  auto disk = open(dir_.path("disk.raw"));
  ASSERT_TRUE(disk);
  if (!(*disk)->geometry().can_discard) GTEST_SKIP() << "this file system makes no holes";
  std::optional<int> result;
  (*disk)->discard(0, 1 << 20, [&](int error) { result = error; });
  (*disk)->submit();
  while (!result) ASSERT_TRUE(loop_->run_once(std::chrono::seconds(1)));
  struct stat info{};
  ASSERT_EQ(::fstat(file.get(), &info), 0);
  EXPECT_EQ(*result, 0);
  EXPECT_LT(info.st_blocks, 16);
  EXPECT_EQ(info.st_size, 1 << 20);
}

}  // namespace
}  // namespace outboard::storage
