// A disk on VDUSE whose storage hangs while its server ends: the queue's thread has the storage, the kernel has a read into the
// driver's memory. Server, disk and engines are the product's; the file system and the kernel's side of VDUSE are the test's.

#include <fcntl.h>
#include <unistd.h>

#include <thread>

#include <outboard/devices/blk/device.hpp>
#include <outboard/devices/blk/layout.hpp>
#include <outboard/storage/ending.hpp>
#include <outboard/storage/raw_file.hpp>
#include <outboard/vduse/server_rig_test.hpp>
#include <tests/support/held_file_system.hpp>

namespace outboard::targets {
namespace {

using storage::Engine;
using testing::HeldFileSystem;
using vduse::Server;

constexpr std::uint64_t disk_size = 1 << 20;

class LateDisk : public vduse::ServerTest, public ::testing::WithParamInterface<Engine> {
 protected:
  void SetUp() override {
    auto made = HeldFileSystem::create(disk_size);
    if (!made) GTEST_SKIP() << "no FUSE file system here: " << made.error().message();
    files = std::move(*made);
    const UniqueFd image(::open(files->disk().c_str(), O_WRONLY | O_CLOEXEC));
    ASSERT_EQ(::pwrite(image.get(), contents.data(), contents.size(), 0), static_cast<ssize_t>(contents.size()));
    auto with = options();
    with.threads = 2;
    with.device.core.stop_timeout = std::chrono::milliseconds(1);
    auto served = Server::create(
        [this](Loop& loop, const Log& log) -> Result<std::unique_ptr<virtio::Device>> {
          OUTBOARD_TRY(auto opened, storage::RawFile::open(loop, {.path = files->disk(), .engine = GetParam()}, log));
          return blk::Device::create(std::move(opened), {.queues = 2});
        },
        std::move(with));
    ASSERT_TRUE(served) << served.error().message();
    server.emplace(std::move(*served));
  }

  /// A driver on the second queue whose read is held.
  void hang() {
    auto& loop = dynamic_cast<Reactor&>(server->loop());
    const auto pump = [&loop] { loop.run_once(Duration(0)); };
    ASSERT_NO_FATAL_FAILURE(attach_with_ring(pump));
    files->hold(HeldFileSystem::Call::read);
    const blk::spec::RequestHeader header{blk::spec::type::in, 0, 0};
    const auto bytes = as_bytes_of(header);
    constexpr std::uint64_t data_at = 0x20000000;
    data = kernel->map({.start = data_at, .size = contents.size()});
    driver->chain()
        .readable({reinterpret_cast<const char*>(bytes.data()), bytes.size()})
        .writable_at(memory::Iova{data_at}, static_cast<std::uint32_t>(contents.size()))
        .writable(1)
        .publish();
    ASSERT_TRUE(kernel->advance(0x0f, pump));
    while (files->holding() == 0) pump();
  }

  /// The read ends while the back end's destruction waits for it.
  void end() {
    std::thread storage([this] {
      while (storage::ending() != storage::Ending::requests && !files->gave_up()) std::this_thread::yield();
      files->release();
    });
    server.reset();
    storage.join();
    EXPECT_FALSE(files->gave_up());
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(data->data()), contents.size()), contents)
        << "the memory was there as long as the kernel used it";
    EXPECT_EQ(driver->used_count(), 0U) << "nobody answers any more";
  }

  std::unique_ptr<HeldFileSystem> files;
  std::optional<Server> server;
  const std::string contents = std::string(4096, 'd');
  std::shared_ptr<memory::HostMemory> data;  ///< that is read into
};

INSTANTIATE_TEST_SUITE_P(, LateDisk, ::testing::Values(Engine::io_uring, Engine::pool),
                         [](const auto& each) { return each.param == Engine::pool ? "pool" : "io_uring"; });

TEST_P(LateDisk, DestroyedWhileServingItsServerWaitsForTheKernelOnly) {
  hang();
  end();
  EXPECT_TRUE(kernel->attached());
}

TEST_P(LateDisk, EndedBySignalItsServerWaitsForTheKernelAndForNobodyElse) {
  hang();
  EXPECT_TRUE(run(*server));
  end();
}

}  // namespace
}  // namespace outboard::targets
