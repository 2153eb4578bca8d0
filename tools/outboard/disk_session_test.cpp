#include <tools/outboard/disk_session.hpp>

#include <algorithm>
#include <array>
#include <string>
#include <thread>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tests/support/held_file_system.hpp>
#include <tools/outboard/blk/transfer.hpp>

namespace outboard::command {
namespace {

using outboard::testing::HeldFileSystem;
using ::testing::HasSubstr;

/// Once the storage is released what was bounded may end before the process does: it is the bound that is to end it. The limit is
/// for where there is none.
[[noreturn]] void end_unless_the_bound_does() {
  ::poll(nullptr, 0, 10'000);
  ::_exit(0);
}

TargetArguments disk_on(const HeldFileSystem& storage, const std::string& engine) {
  return {.target = "local:blk,image=" + storage.disk() + ",engine=" + engine,
          .end_timeout = std::chrono::milliseconds(100)};
}

void wait_until_it_holds(const HeldFileSystem& storage) {
  while (storage.holding() == 0 && !storage.gave_up()) std::this_thread::yield();
}

void signal_once_it_holds(const HeldFileSystem& storage) {
  std::thread([&storage] {
    wait_until_it_holds(storage);
    ::kill(::getpid(), SIGTERM);
  }).detach();
}

/// Drives a disk of its own process, and gives it up once `storage` holds a read of it. Ends the process.
void drive(const HeldFileSystem& storage, const std::string& engine) {
  const auto stop = StopSignal::create().value();
  Context context{.log = Log(), .stop = *stop};
  const TargetArguments target = disk_on(storage, engine);
  blk::Io io;  // outlives the driver
  {
    auto session = DiskSession::open(target, context, {}).value();
    const auto buffer = session->driver().dma().allocate(4096).value();
    const virtio::Element element{buffer.iova(), 4096};
    io.data = {&element, 1};
    io.done = [](blk::Io&) {};
    static_cast<void>(session->driver().queue(0).submit(io));
    session->driver().queue(0).publish();
    wait_until_it_holds(storage);
  }
  end_unless_the_bound_does();
}

/// Copies from a disk of its own process whose storage holds the reads, and gets SIGTERM then. Ends the process.
void copy_until_told_to_end(const HeldFileSystem& storage, const std::string& engine) {
  const auto stop = StopSignal::create().value();
  Context context{.log = Log(), .stop = *stop};
  const TargetArguments target = disk_on(storage, engine);
  {
    auto session = DiskSession::open(target, context, {}).value();
    const auto transfer = Transfer::create(*session, blk::Io::Kind::read, {.depth = 2, .piece = 4096}).value();
    signal_once_it_holds(storage);
    Walk walk(0, 1 << 20);
    static_cast<void>(transfer->run([&](Transfer::Piece& piece) -> Result<bool> { return walk.next(piece); },
                                    [](const Transfer::Piece&) -> Status { return {}; }));
  }
  end_unless_the_bound_does();
}

/// Opens a disk of its own process, which the storage does not let it, and gets SIGTERM meanwhile. Ends the process.
void open_until_told_to_end(const HeldFileSystem& storage, const std::string& engine) {
  const auto stop = StopSignal::create().value();
  Context context{.log = Log(), .stop = *stop};
  const TargetArguments target = disk_on(storage, engine);
  signal_once_it_holds(storage);
  static_cast<void>(target.open(context));
  end_unless_the_bound_does();
}

TEST(DiskSession, BoundsNothingOnceItHasEnded) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    const auto stop = StopSignal::create().value();
    Context context{.log = Log(), .stop = *stop};
    const TargetArguments target{.target = "local:blk,ram,size=1M", .end_timeout = std::chrono::seconds(1)};
    DiskSession::open(target, context, {}).value().reset();
    ::_exit(stop->pause(std::chrono::milliseconds(1500)) ? 0 : 2);  // 1: the bound was still there
  }
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

class ADiskOfThisProcess : public ::testing::TestWithParam<const char*> {
 protected:
  using Drive = void (*)(const HeldFileSystem& storage, const std::string& engine);
  static void is_ended_by_its_bound(Drive drive, HeldFileSystem::Call hangs, const char* words);
};

void ADiskOfThisProcess::is_ended_by_its_bound(Drive drive, HeldFileSystem::Call hangs, const char* words) {
  auto made = HeldFileSystem::create(1 << 20);
  if (!made) GTEST_SKIP() << "no FUSE file system here: " << made.error().message();
  HeldFileSystem& storage = **made;
  storage.hold(hangs);
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd output(ends[0]);
  UniqueFd input(ends[1]);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::dup2(input.get(), STDERR_FILENO);
    drive(storage, GetParam());
  }
  input.reset();
  // It has said so, and ends, which takes until the kernel's threads have come back from the storage.
  std::string said(200, '\0');
  said.resize(static_cast<std::size_t>(std::max<ssize_t>(::read(output.get(), said.data(), said.size()), 0)));
  EXPECT_THAT(said, HasSubstr(words));
  EXPECT_GT(storage.holding(), 0U);
  EXPECT_FALSE(storage.gave_up());
  storage.release();
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 1) << status;
}

constexpr const char* not_answered = "ending although not all requests have been answered";

TEST_P(ADiskOfThisProcess, WhoseStorageHangsKeepsNoProcess) {
  is_ended_by_its_bound(drive, HeldFileSystem::Call::read, not_answered);
}

// The driver's timeout expires much later; the file system gives up before it.
TEST_P(ADiskOfThisProcess, WhoseStorageHangsInATransferKeepsNoProcessAfterASignal) {
  is_ended_by_its_bound(copy_until_told_to_end, HeldFileSystem::Call::read, not_answered);
}

TEST_P(ADiskOfThisProcess, ThatCannotBeOpenedKeepsNoProcessAfterASignal) {
  is_ended_by_its_bound(open_until_told_to_end, HeldFileSystem::Call::open,
                        "ending although the device has not been opened");
}

INSTANTIATE_TEST_SUITE_P(Engines, ADiskOfThisProcess, ::testing::Values("io_uring", "pool"),
                         [](const auto& engine) { return std::string(engine.param); });

}  // namespace
}  // namespace outboard::command
