// Requests of a dead server on an image that its successor does not have.

#include <outboard/storage/internal/image_requests.hpp>

#include <string>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/storage/internal/image.hpp>
#include <outboard/storage/internal/image_identity.hpp>
#include <outboard/storage/internal/lock_bytes.hpp>
#include <outboard/storage/internal/lock_owner.hpp>
#include <tests/support/loop_device.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::storage {
namespace {

using std::chrono::seconds;
using ::testing::HasSubstr;

const LockTimeouts none{.running = Duration::zero(), .ended = Duration::zero()};

class ImageRequests : public ::testing::Test {
 protected:
  void SetUp() override {
    static_cast<void>(dir_.make_file("disk.raw", 65536));
    before_ = identity_of_image(open_image(path(), true, false, Log(), none).value()).value();
  }
  std::string path() const { return dir_.path("disk.raw"); }
  /// What is left of a dead server; or, with `lives`, a server of another host.
  UniqueFd requests(bool lives = false) const {
    UniqueFd fd(::open(path().c_str(), O_RDONLY | O_CLOEXEC));
    LockOwner owner = LockOwner::self();
    owner.host ^= 1;
    EXPECT_EQ(lock_byte(fd.get(), owner.requests()), 0);
    const int error = lives ? lock_byte(fd.get(), owner.life()) : 0;
    EXPECT_EQ(error, 0);
    return fd;
  }
  /// The errno that waiting ends with; 0: none.
  int wait(const LockTimeouts& timeouts = none) const {
    const Status ended = wait_for_requests_on(before_, timeouts, Log());
    return ended ? 0 : ended.error().code();
  }

  outboard::testing::TempDir dir_;
  StorageIdentity before_;
};

TEST_F(ImageRequests, ThatHaveEndedAreNotWaitedFor) { EXPECT_EQ(wait(), 0); }

TEST_F(ImageRequests, AreWaitedForUntilTheKernelHasEndedThem) {
  UniqueFd dead = requests();
  EXPECT_EQ(wait(), EBUSY);
  LockTimeouts timeouts{.running = Duration::zero(), .ended = seconds(600)};
  timeouts.pause = [&](Duration) {
    dead.reset();
    return true;
  };
  EXPECT_EQ(wait(timeouts), 0);
}

TEST_F(ImageRequests, AreNotWaitedForOnceTheProgramIsToEnd) {
  const UniqueFd dead = requests();
  LockTimeouts timeouts{.running = Duration::zero(), .ended = seconds(600)};
  timeouts.pause = [](Duration) { return false; };
  EXPECT_EQ(wait(timeouts), ECANCELED);
}

TEST_F(ImageRequests, OfALivingServerAreItsOwn) {
  const UniqueFd alive = requests(true);
  EXPECT_EQ(wait(), 0);
}

TEST_F(ImageRequests, OnAnImageThatIsNotThereCannotBeKnown) {
  ASSERT_EQ(::unlink(path().c_str()), 0);
  EXPECT_EQ(wait(), ESTALE);
  static_cast<void>(dir_.make_file("disk.raw", 65536));
  EXPECT_EQ(wait(), ESTALE) << "another file of that name";
  ASSERT_EQ(::unlink(path().c_str()), 0);
  ASSERT_EQ(::mkfifo(path().c_str(), 0600), 0);
  EXPECT_EQ(wait(), ESTALE) << "and nothing has waited for its other end";
  EXPECT_THAT(wait_for_requests_on(before_, none, Log()).error().message(),
              HasSubstr("whether the kernel still carries out disk requests of a dead server on " + path()));
}

TEST_F(ImageRequests, OnWhatKeptNothingAreNoMore) {
  ASSERT_EQ(::unlink(path().c_str()), 0);
  for (const auto contents :
       {StorageIdentity::Contents::none, StorageIdentity::Contents::zeros, StorageIdentity::Contents::memory}) {
    before_.contents = contents;
    EXPECT_EQ(wait(), 0);
  }
}

TEST_F(ImageRequests, AreLookedForWhereTheImageIsWhateverTheWorkingDirectory) {
  char folder[4096];
  ASSERT_NE(::getcwd(folder, sizeof folder), nullptr);
  ASSERT_EQ(::chdir(dir_.path("").c_str()), 0);
  before_ = identity_of_image(open_image("disk.raw", true, false, Log(), none).value()).value();
  ASSERT_EQ(::chdir(folder), 0);
  EXPECT_EQ(before_.name, path());
  const UniqueFd dead = requests();
  EXPECT_EQ(wait(), EBUSY);
}

TEST_F(ImageRequests, OnABlockDeviceAreSeenByTheirClaimToo) {
  // As those of a server that had another node of the device: its locks are not to be seen.
  auto device = outboard::testing::LoopDevice::attach(path());
  if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
  before_ = identity_of_image(open_image(device->path, true, false, Log(), none).value()).value();
  EXPECT_EQ(wait(), 0);
  UniqueFd claim(::open(device->path.c_str(), O_RDWR | O_EXCL | O_CLOEXEC));
  ASSERT_TRUE(claim);
  EXPECT_EQ(wait(), EBUSY);
  LockTimeouts timeouts{.running = Duration::zero(), .ended = seconds(600)};
  timeouts.pause = [&](Duration) {
    claim.reset();
    return true;
  };
  EXPECT_EQ(wait(timeouts), 0);
}

TEST_F(ImageRequests, OnABlockDeviceAreWaitedForThoughALoopDeviceStandsOnIt) {
  auto device = outboard::testing::LoopDevice::attach(path());
  if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
  before_ = identity_of_image(open_image(device->path, true, false, Log(), none).value()).value();
  UniqueFd claim(::open(device->path.c_str(), O_RDWR | O_EXCL | O_CLOEXEC));
  ASSERT_TRUE(claim);
  const auto above = outboard::testing::LoopDevice::attach(device->path);
  ASSERT_TRUE(above) << above.error().message();
  EXPECT_EQ(wait(), EBUSY);
  claim.reset();
  EXPECT_EQ(wait(), 0) << "a loop device has no claim on what it stands on";
}

TEST_F(ImageRequests, AreNotTakenForEndedWhereTheirClaimCannotBeLookedAt) {
  const auto device = outboard::testing::LoopDevice::attach(path());
  if (!device) GTEST_SKIP() << "no loop device here: " << device.error().message();
  before_ = identity_of_image(open_image(device->path, true, false, Log(), none).value()).value();
  const UniqueFd claim(::open(device->path.c_str(), O_RDWR | O_EXCL | O_CLOEXEC));
  ASSERT_TRUE(claim);
  rlimit all{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &all), 0);
  const auto next = static_cast<rlim_t>(claim.duplicate().value().get());
  for (rlim_t left = 0; left < 4; ++left) {
    rlimit few = all;
    few.rlim_cur = next + left;
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
    const int error = wait();
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &all), 0);
    EXPECT_NE(error, 0) << left << " descriptors are left";
  }
}

}  // namespace
}  // namespace outboard::storage
