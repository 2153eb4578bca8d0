// Storage that hangs behind a served disk: what a client is told of a reset, an unmap and its own end, and what becomes of
// its memory meanwhile. Function, device and server are the product's; the storage and the client are the test's.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/devices/blk/device.hpp>
#include <outboard/devices/blk/layout.hpp>
#include <outboard/memory/host_memory.hpp>
#include <outboard/storage/raw_file.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/vfio_user/server.hpp>
#include <outboard/virtio/spec.hpp>
#include <outboard/virtio_pci/function.hpp>
#include <tests/support/held_backend.hpp>
#include <tests/support/held_file_system.hpp>
#include <tests/support/temp_dir.hpp>
#include <tests/support/vfio_user_peer.hpp>

namespace outboard::targets {
namespace {

namespace status = virtio::spec::status;
namespace wire = vfio_user::spec;
using Common = virtio_pci::spec::CommonConfig;
using Peer = testing::VfioUserPeer;
using storage::Engine;
using testing::HeldBackend;
using testing::HeldFileSystem;
using testing::joined;
using wire::Command;

constexpr std::uint64_t base = 0x100000;  // where a client maps its memory
constexpr std::uint64_t memory_size = 0x10000;
constexpr std::uint64_t data_at = 0x8000, data_size = 4096;
constexpr std::uint64_t disk_size = 1 << 20;
constexpr std::byte on_disk{0xd5}, untouched{0x11};
constexpr const char* version = R"({"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576}})";

/// A client's memory, in a file that cannot shrink.
struct Memory {
  Memory() : fd(::memfd_create("client", MFD_CLOEXEC | MFD_ALLOW_SEALING)) {
    EXPECT_EQ(::ftruncate(fd.get(), memory_size), 0);
    EXPECT_EQ(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
    host = memory::HostMemory::map_file(fd, 0, memory_size, memory::Access::read_write).value();
  }
  template <typename T>
  void store(std::uint64_t at, T value) const {
    std::memcpy(host->data() + at, &value, sizeof value);
  }
  template <typename T>
  T load(std::uint64_t at) const {
    T value;
    std::memcpy(&value, host->data() + at, sizeof value);
    return value;
  }
  void fill() const { std::fill_n(host->data(), memory_size, untouched); }
  bool all(std::byte value) const {
    return std::ranges::all_of(Bytes(host->data() + data_at, data_size), [value](std::byte b) { return b == value; });
  }

  UniqueFd fd;
  std::shared_ptr<memory::HostMemory> host;
};

/// Storage whose reads end when the test wants it.
class HeldStorage {
 public:
  virtual ~HeldStorage() = default;
  virtual Result<std::unique_ptr<storage::Backend>> open(Loop& loop, const Log& log) = 0;
  virtual std::size_t held() const = 0;
  virtual void release() = 0;  ///< and the next reads are held again
};

/// A back end of the test's. Opened once.
class InMemory final : public HeldStorage {
 public:
  Result<std::unique_ptr<storage::Backend>> open(Loop&, const Log&) override {
    auto backend = std::make_unique<HeldBackend>(disk_size);
    std::ranges::fill(backend->bytes, on_disk);
    backend->hold = backend->moves_late = true;
    backend_ = backend.get();
    return backend;
  }
  std::size_t held() const override { return backend_->held(); }
  void release() override { backend_->release(); }

 private:
  HeldBackend* backend_ = nullptr;
};

/// An image on a file system of the test's, by one of the product's engines: the read is in the kernel.
class OnAFileSystem final : public HeldStorage {
 public:
  OnAFileSystem(std::unique_ptr<HeldFileSystem> files, Engine engine) : files_(std::move(files)), engine_(engine) {}
  Result<std::unique_ptr<storage::Backend>> open(Loop& loop, const Log& log) override {
    OUTBOARD_TRY(auto opened,
                 storage::RawFile::open(loop, {.path = files_->disk(), .direct = true, .engine = engine_}, log));
    files_->hold(HeldFileSystem::Call::read);
    return opened;
  }
  std::size_t held() const override { return files_->holding(); }
  void release() override {
    EXPECT_FALSE(files_->gave_up());
    files_->release();
    files_->hold(HeldFileSystem::Call::read);
  }

 private:
  std::unique_ptr<HeldFileSystem> files_;
  Engine engine_;
};

/// EPERM and the like where no file system can be made.
Result<std::unique_ptr<HeldStorage>> make_storage(const std::optional<Engine>& engine) {
  if (!engine) return std::make_unique<InMemory>();
  OUTBOARD_TRY(auto files, HeldFileSystem::create(disk_size));
  const UniqueFd image(::open(files->disk().c_str(), O_WRONLY | O_CLOEXEC));
  const std::vector<std::byte> contents(data_size, on_disk);
  if (::pwrite(image.get(), contents.data(), contents.size(), 0) != static_cast<ssize_t>(contents.size()))
    return Error::from_errno("writing an image");
  return std::make_unique<OnAFileSystem>(std::move(files), *engine);
}

/// The engine of the product that has the read, or none: see InMemory.
class SlowStorage : public ::testing::TestWithParam<std::optional<Engine>> {
 protected:
  void SetUp() override {
    auto storage = make_storage(GetParam());
    if (!storage) GTEST_SKIP() << "no FUSE file system here: " << storage.error().message();
    disk = std::move(*storage);
    auto factory = virtio_pci::Function::factory(
        [this](Loop& on, const Log& log) -> Result<std::unique_ptr<virtio::Device>> {
          OUTBOARD_TRY(auto backend, disk->open(on, log));
          return blk::Device::create(std::move(backend), {});
        },
        {});
    auto made = vfio_user::Server::listen(dir.path("s"), std::move(factory), {.loop = &loop});
    ASSERT_TRUE(made) << made.error().message();
    server.emplace(std::move(*made));
    peer = connect();
    ASSERT_EQ(answer(peer), 0);
  }
  void TearDown() override {  // the server waits for what runs in the kernel
    if (server) disk->release();
  }

  void pump() { loop.run_until_idle(); }
  void wait_too_long() { loop.advance(std::chrono::milliseconds(2001)); }
  Peer connect() {
    Peer one = Peer::connect_to(dir.path("s"));
    one.send_version(version);
    pump();
    return one;
  }
  /// The error of the next reply: 0 for success, -1 where there is none.
  static int answer(Peer& from) {
    const auto reply = from.receive();
    return reply ? reply->error() : -1;
  }
  int ask(Command command, Bytes payload = {}, const std::vector<int>& fds = {}) {
    peer.send(command, payload, {.fds = fds});
    pump();
    return answer(peer);
  }
  int map(const Memory& from) {
    return ask(Command::dma_map,
               joined(wire::DmaMap{.argsz = 32, .flags = 3, .offset = 0, .address = base, .size = memory_size}),
               {from.fd.get()});
  }
  int unmap() {
    return ask(Command::dma_unmap,
               joined(wire::DmaUnmap{.argsz = 24, .flags = 0, .address = base, .size = memory_size}));
  }
  template <typename T>
  void write(unsigned region, std::uint64_t at, T value) {
    const wire::RegionAccess access{.offset = at, .region = region, .count = sizeof value};
    EXPECT_EQ(ask(Command::region_write, joined(access, value)), 0);
  }
  std::uint8_t device_status() {
    const wire::RegionAccess access{.offset = offsetof(Common, device_status), .region = 0, .count = 1};
    peer.send(Command::region_read, joined(access));
    pump();
    const auto reply = peer.receive();
    return reply ? reply->at<std::uint8_t>(sizeof access) : 0;
  }
  template <typename T>
  void set(std::size_t field, T value) {
    write(0, field, value);
  }

  /// As a guest's driver does it, with one queue whose ring is at the start of the memory.
  void start_driver() {
    write<std::uint16_t>(pci::region::config, 4, 6);
    set<std::uint8_t>(offsetof(Common, device_status), 0);
    set<std::uint8_t>(offsetof(Common, device_status), status::acknowledge | status::driver);
    set<std::uint32_t>(offsetof(Common, driver_feature_select), 1);
    set<std::uint32_t>(offsetof(Common, driver_feature), 3);  // VERSION_1, ACCESS_PLATFORM
    set<std::uint8_t>(offsetof(Common, device_status), status::acknowledge | status::driver | status::features_ok);
    set<std::uint16_t>(offsetof(Common, queue_select), 0);
    set<std::uint16_t>(offsetof(Common, queue_size), 8);
    set<std::uint32_t>(offsetof(Common, queue_desc), base);
    set<std::uint32_t>(offsetof(Common, queue_driver), base + 0x1000);
    set<std::uint32_t>(offsetof(Common, queue_device), base + 0x2000);
    set<std::uint16_t>(offsetof(Common, queue_enable), 1);
    set<std::uint8_t>(offsetof(Common, device_status), live);
    ASSERT_EQ(device_status(), live);
  }
  /// A read of the disk into the memory at data_at.
  void read_disk(const Memory& into) {
    into.store(0x3000, blk::spec::RequestHeader{blk::spec::type::in, 0, 0});
    using virtio::spec::Descriptor;
    namespace flag = virtio::spec::descriptor;
    into.store(0, Descriptor{base + 0x3000, sizeof(blk::spec::RequestHeader), flag::next, 1});
    into.store(16, Descriptor{base + data_at, data_size, flag::next | flag::write, 2});
    into.store(32, Descriptor{base + 0x3100, 1, flag::write, 0});
    into.store(0x1004, le16(0));
    into.store(0x1002, le16(1));
    write<std::uint16_t>(0, virtio_pci::Function::notify_at, 0);
    ASSERT_TRUE(loop.run_until([this] { return disk->held() == 1; }));
  }
  static std::uint16_t used(const Memory& memory) { return memory.load<le16>(0x2002); }

  /// A client with a read at storage that hangs.
  void hang() {
    memory.fill();
    std::fill_n(memory.host->data(), 0x4000, std::byte{0});
    ASSERT_EQ(map(memory), 0);
    start_driver();
    read_disk(memory);
  }
  /// The storage answers; what it does then is seen by `seen`.
  template <typename Seen>
  void release(Seen&& seen) {
    disk->release();
    EXPECT_TRUE(loop.run_until([&] { return disk->held() == 0 && seen(); }));
  }
  bool next_client_is_admitted() {
    peer = connect();
    return answer(peer) == 0;
  }
  bool reset_is_done() {
    const int error = ask(Command::device_reset);
    EXPECT_TRUE(error == 0 || error == EBUSY) << error;
    return error == 0;
  }

  static constexpr std::uint8_t live = status::acknowledge | status::driver | status::features_ok | status::driver_ok;

  testing::TempDir dir;
  testing::ManualLoop loop;
  std::unique_ptr<HeldStorage> disk;
  Memory memory;
  std::optional<vfio_user::Server> server;
  Peer peer;
};

INSTANTIATE_TEST_SUITE_P(, SlowStorage, ::testing::Values(std::nullopt, Engine::io_uring, Engine::pool),
                         [](const auto& each) -> std::string {
                           if (!each.param) return "in_memory";
                           return *each.param == Engine::pool ? "pool" : "io_uring";
                         });

TEST_P(SlowStorage, VU62_AResetDoesNotSucceedWhileAReadMayStillWriteToMemory) {
  hang();
  peer.send(Command::device_reset);
  pump();
  EXPECT_EQ(answer(peer), -1);
  wait_too_long();
  EXPECT_EQ(answer(peer), ETIMEDOUT);
  EXPECT_EQ(ask(Command::device_reset), EBUSY);
  EXPECT_EQ(unmap(), EBUSY);

  // A VMM that goes on all the same: its guest finds no device that could be taken for reset, and starts no queue.
  write<std::uint16_t>(pci::region::config, 4, 6);
  EXPECT_EQ(device_status(), 0xff);
  set<std::uint8_t>(offsetof(Common, device_status), 0);
  set<std::uint8_t>(offsetof(Common, device_status), live);
  EXPECT_EQ(device_status(), 0xff);

  release([this] { return device_status() == 0; });
  EXPECT_TRUE(memory.all(on_disk)) << "this is what the answers were about";
  EXPECT_EQ(used(memory), 0) << "the answer of before the reset is dropped";
  EXPECT_EQ(ask(Command::device_reset), 0);
  memory.fill();
  std::fill_n(memory.host->data(), 0x4000, std::byte{0});
  start_driver();
  EXPECT_TRUE(memory.all(untouched)) << "nothing is written after an answer of success";
  read_disk(memory);
  release([this] { return used(memory) == 1; });
  EXPECT_TRUE(memory.all(on_disk)) << "and the device works again";
}

TEST_P(SlowStorage, VD51_TheStatusReadsZeroOnlyWhenMemoryIsNoLongerUsed) {
  hang();
  set<std::uint8_t>(offsetof(Common, device_status), 0);
  EXPECT_EQ(device_status(), live);
  wait_too_long();
  EXPECT_EQ(device_status(), live | status::needs_reset);
  EXPECT_EQ(ask(Command::device_reset), -1) << "waits for the same";
  wait_too_long();
  EXPECT_EQ(answer(peer), ETIMEDOUT);
  release([this] {
    write<std::uint16_t>(pci::region::config, 4, 6);
    return device_status() == 0;
  });
  EXPECT_TRUE(memory.all(on_disk));
}

TEST_P(SlowStorage, VU41_UnmappedMemoryIsNotReachedThroughItsReplacement) {
  hang();
  peer.send(Command::dma_unmap, joined(wire::DmaUnmap{.argsz = 24, .flags = 0, .address = base, .size = memory_size}));
  pump();
  EXPECT_EQ(answer(peer), -1);
  wait_too_long();
  EXPECT_EQ(answer(peer), ETIMEDOUT);
  EXPECT_EQ(device_status(), live | status::needs_reset);
  EXPECT_EQ(ask(Command::device_reset), EBUSY);
  const Memory other;
  other.fill();
  EXPECT_EQ(map(other), 0);

  release([this] { return memory.all(on_disk); });  // where it has been all the time
  EXPECT_EQ(answer(peer), -1) << "the unmap has been answered";
  EXPECT_TRUE(loop.run_until([this] { return reset_is_done(); }));
  EXPECT_TRUE(other.all(untouched));
}

TEST_P(SlowStorage, VU63_TheNextClientWaitsForIoInTheMemoryOfTheLastOne) {
  hang();
  peer.close();
  pump();
  Peer waiting = connect();
  EXPECT_EQ(answer(waiting), -1);
  wait_too_long();
  EXPECT_EQ(answer(waiting), EBUSY);
  Peer late = connect();
  EXPECT_EQ(answer(late), EBUSY);

  release([this] { return next_client_is_admitted(); });
  const Memory other;
  other.fill();
  EXPECT_EQ(map(other), 0);
  EXPECT_TRUE(memory.all(on_disk));
  EXPECT_TRUE(other.all(untouched));
  EXPECT_EQ(ask(Command::device_reset), 0);
}

TEST_P(SlowStorage, VU63_AfterALateResetTheNextClientWaitsForItsEnd) {
  hang();
  peer.send(Command::device_reset);
  wait_too_long();
  EXPECT_EQ(answer(peer), ETIMEDOUT);
  peer.close();
  pump();
  Peer waiting = connect();
  wait_too_long();
  EXPECT_EQ(answer(waiting), EBUSY);
  release([this] { return next_client_is_admitted(); });
}

}  // namespace
}  // namespace outboard::targets
