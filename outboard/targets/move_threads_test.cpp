// A disk that moves between two servers while its driver has requests in flight. Each server has a thread of its own.

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <thread>

#include <outboard/devices/blk/device.hpp>
#include <outboard/devices/blk/driver.hpp>
#include <outboard/storage/ram.hpp>
#include <outboard/storage/raw_file.hpp>
#include <outboard/vfio_user/client.hpp>
#include <outboard/vfio_user/memory_copy.hpp>
#include <outboard/vfio_user/server.hpp>
#include <outboard/virtio_pci/function.hpp>
#include <outboard/virtio_pci/transport.hpp>
#include <tests/support/cutting_relay.hpp>
#include <tests/support/temp_dir.hpp>
#include <tests/support/written_pages.hpp>

namespace outboard::targets {
namespace {

using testing::WrittenPages;

constexpr std::uint64_t disk_size = 8 << 20, sector_size = 512;
constexpr unsigned depth = 32;
constexpr std::uint32_t request_size = 4096;

/// Keeps each request for a while, so that some are in flight at any time.
class SlowDisk final : public storage::Backend {
 public:
  SlowDisk(std::unique_ptr<storage::Backend> disk, Loop& loop) : disk_(std::move(disk)), loop_(loop) {}
  storage::Geometry geometry() const override { return disk_->geometry(); }
  std::string description() const override { return "slow " + disk_->description(); }
  StorageIdentity identity() const override { return disk_->identity(); }
  void read(std::uint64_t offset, std::span<const iovec> pieces, Completion done) override {
    later([=, this](Completion then) { disk_->read(offset, pieces, std::move(then)); }, std::move(done));
  }
  void write(std::uint64_t offset, std::span<const iovec> pieces, Completion done) override {
    later([=, this](Completion then) { disk_->write(offset, pieces, std::move(then)); }, std::move(done));
  }
  void flush(Completion done) override { disk_->flush(std::move(done)); }
  void discard(std::uint64_t offset, std::uint64_t length, Completion done) override {
    disk_->discard(offset, length, std::move(done));
  }
  void write_zeroes(std::uint64_t offset, std::uint64_t length, bool unmap, Completion done) override {
    disk_->write_zeroes(offset, length, unmap, std::move(done));
  }
  void let_go() override { disk_->let_go(); }
  Status take_back() override { return disk_->take_back(); }
  bool is_lent() const override { return disk_->is_lent(); }
  void submit() override { disk_->submit(); }
  bool poll() override { return disk_->poll(); }
  Result<std::unique_ptr<Backend>> share(Loop& loop) const override {
    OUTBOARD_TRY(auto disk, disk_->share(loop));
    return std::make_unique<SlowDisk>(std::move(disk), loop);
  }

 private:
  using Operation = std::function<void(Completion)>;
  void later(Operation operation, Completion done) {
    held_.emplace_back(std::move(operation), std::move(done));
    if (held_.size() == 1) timer_ = loop_.after(std::chrono::microseconds(200), [this] { run(); });
  }
  void run() {
    timer_.reset();
    for (auto held = std::exchange(held_, {}); auto& [operation, done] : held) operation(std::move(done));
    disk_->submit();
  }

  std::unique_ptr<storage::Backend> disk_;
  Loop& loop_;
  std::deque<std::pair<Operation, Completion>> held_;
  Registration timer_;
};

struct DiskOptions {
  bool packed = false;
  unsigned queues = 1;
};

using OpenDisk = std::function<Result<std::unique_ptr<storage::Backend>>(Loop& loop, const Log& log)>;

/// A server of a disk.
class DiskServer {
 public:
  DiskServer(const std::string& path, const OpenDisk& open, const DiskOptions& options) {
    auto make = [open, options](Loop& loop, const Log& log) -> Result<std::unique_ptr<virtio::Device>> {
      OUTBOARD_TRY(auto disk, open(loop, log));
      return blk::Device::create(std::make_unique<SlowDisk>(std::move(disk), loop), {.queues = options.queues});
    };
    auto server =
        vfio_user::Server::listen(path, virtio_pci::Function::factory(make, {.core = {.packed = options.packed}}));
    EXPECT_TRUE(server) << server.error().message();
    server_.emplace(std::move(*server));
    thread_ = std::thread([this] { EXPECT_EQ(server_->run(), 0); });
  }
  ~DiskServer() {
    server_->stop();
    thread_.join();
  }

 private:
  std::optional<vfio_user::Server> server_;
  std::thread thread_;
};

/// Writes to a place of its own, reads it back, compares, and begins again.
struct Worker : blk::Io {
  memory::DmaBuffer out, in;
  std::array<virtio::Element, 1> piece{};
  blk::Queue* queue = nullptr;
  unsigned number = 0;
  std::uint64_t turn = 0, wrong = 0, errors = 0, done_count = 0;
  bool stopping = false, busy = false;

  void begin() {
    sector = blk::Sector{number * (disk_size / depth / sector_size) + turn % 16 * (request_size / sector_size)};
    for (std::size_t i = 0; i < request_size; i += 8) {
      const std::uint64_t value = (turn << 32) + (std::uint64_t{number} << 16) + i;
      std::memcpy(out.data() + i, &value, 8);
    }
    issue(Kind::write, out);
  }
  void issue(Kind what, const memory::DmaBuffer& buffer) {
    kind = what;
    piece = {virtio::Element{buffer.iova(), request_size}};
    data = piece;
    done = [](Io& io) { static_cast<Worker&>(io).completed(); };
    busy = true;
    ASSERT_TRUE(queue->submit(*this));
  }
  void completed() {
    busy = false;
    errors += error != 0 ? 1U : 0U;
    ++done_count;
    if (error == ECANCELED) return;
    if (kind == Kind::write) return issue(Kind::read, in);
    if (error == 0) wrong += std::memcmp(out.data(), in.data(), request_size) != 0 ? 1U : 0U;
    ++turn;
    if (!stopping) begin();
  }
};

/// A copy that knows which pages the driver has written: all others must have been reported.
class WatchedCopy final : public vfio_user::SecondMemory {
 public:
  Result<File> add(memory::IovaRange range, MutableBytes bytes, const File& file) override {
    WrittenPages::watch(bytes);
    ranges_[range.start] = bytes;
    return copy_.add(range, bytes, file);
  }
  void remove(memory::IovaRange range) override {
    WrittenPages::forget(ranges_[range.start]);
    copy_.remove(range);
  }
  void copy(memory::IovaRange pages) override { copy_.copy(pages); }
  Status take_over() override { return copy_.take_over(); }
  void give_back() override { copy_.give_back(); }

  std::uint64_t copied() const { return copy_.copied(); }
  unsigned not_reported = 0;

 private:
  void differs(memory::IovaRange page) {
    const auto next = ranges_.upper_bound(page.start);
    const auto& [start, bytes] = *std::prev(next);
    if (!WrittenPages::written(bytes.data() + (raw(page.start) - raw(start)))) ++not_reported;
  }

  WrittenPages pages_;
  std::map<memory::Iova, MutableBytes> ranges_;
  vfio_user::MemoryCopy copy_{[this](memory::IovaRange page) { differs(page); }};
};

class MovedDisk : public ::testing::TestWithParam<DiskOptions> {
 protected:
  void SetUp() override {
    bytes_ = *storage::Ram::create(disk_size);
    const auto share = [this](Loop& loop, const Log&) { return bytes_->share(loop); };
    for (unsigned i = 0; i < 2; ++i) servers_[i].emplace(path(i), share, GetParam());
    begin();
  }
  void begin() {
    auto client = vfio_user::Client::connect(path(0));
    EXPECT_TRUE(client) << client.error().message();
    client_ = std::move(*client);
    auto driver = blk::Driver::start(*client_, {.queues = GetParam().queues, .packed = GetParam().packed});
    EXPECT_TRUE(driver) << driver.error().message();
    driver_.emplace(std::move(*driver));
    for (unsigned i = 0; i < depth; ++i) {
      workers_.emplace_back();
      Worker& worker = workers_.back();
      worker.number = i;
      worker.queue = &driver_->queue(i % driver_->queue_count());
      worker.out = *driver_->dma().allocate(request_size, {.alignment = 4096});
      worker.in = *driver_->dma().allocate(request_size, {.alignment = 4096});
    }
  }

  std::string path(unsigned server) const { return dir_.path("s" + std::to_string(server)); }

  void start_load() {
    for (Worker& worker : workers_) worker.begin();
    for (unsigned i = 0; i < driver_->queue_count(); ++i) driver_->queue(i).publish();
  }
  std::uint64_t done() const {
    std::uint64_t all = 0;
    for (const Worker& worker : workers_) all += worker.done_count;
    return all;
  }
  bool wait_for_driver() {
    pollfd state{.fd = driver_->fd(), .events = POLLIN, .revents = 0};
    return ::poll(&state, 1, 30000) == 1 && driver_->process();
  }
  /// Until so many more requests have ended.
  bool work(std::uint64_t requests) {
    for (const std::uint64_t until = done() + requests; done() < until;) {
      if (!wait_for_driver()) return false;
    }
    return true;
  }
  void end_load() {
    for (Worker& worker : workers_) worker.stopping = true;
    while (std::ranges::any_of(workers_, &Worker::busy)) ASSERT_TRUE(wait_for_driver());
    for (const Worker& worker : workers_) {
      EXPECT_EQ(worker.wrong, 0U) << worker.number;
      EXPECT_EQ(worker.errors, 0U) << worker.number;
    }
    EXPECT_EQ(driver_->recoveries(), 0U);
  }
  vfio_user::MigrationOptions options() {
    return {.max_rounds = 3, .between_rounds = [this] {
              return work(depth) ? Status() : Status(Error(ETIMEDOUT, "the disk does not answer"));
            }};
  }

  testing::TempDir dir_;
  std::unique_ptr<storage::Ram> bytes_;
  std::array<std::optional<DiskServer>, 2> servers_;
  std::unique_ptr<vfio_user::Client> client_;
  std::optional<blk::Driver> driver_;
  std::deque<Worker> workers_;
};

std::string name_of(const ::testing::TestParamInfo<DiskOptions>& each) {
  return std::string(each.param.packed ? "Packed" : "Split") + std::to_string(each.param.queues);
}

INSTANTIATE_TEST_SUITE_P(, MovedDisk,
                         ::testing::Values(DiskOptions{false, 1}, DiskOptions{true, 1}, DiskOptions{false, 3},
                                           DiskOptions{true, 3}),
                         name_of);

/// The same; each of its tests makes many moves.
class MovedDiskCut : public MovedDisk {};
INSTANTIATE_TEST_SUITE_P(, MovedDiskCut, ::testing::Values(DiskOptions{false, 1}, DiskOptions{true, 3}), name_of);

TEST_P(MovedDisk, TenMovesUnderLoadOfTheSameMemory) {
  start_load();
  ASSERT_TRUE(work(depth));
  for (unsigned turn = 0; turn < 10; ++turn) {
    const auto report = client_->migrate_to(path((turn + 1) % 2), options());
    ASSERT_TRUE(report) << turn << ": " << report.error().message();
    EXPECT_EQ(client_->name(), "vfio-user:" + path((turn + 1) % 2));
    EXPECT_GT(report->state_size, 0U);
    EXPECT_GE(report->rounds.size(), 2U);
    ASSERT_TRUE(work(2 * depth)) << turn;
  }
  end_load();
}

/// The new server is told of it, and what the device wrote to memory that goes is copied before.
TEST_P(MovedDisk, MemoryMayComeAndGoDuringTheMove) {
  start_load();
  ASSERT_TRUE(work(depth));
  memory::DmaBuffer buffer = *driver_->dma().allocate(3 << 20);
  for (unsigned turn = 0; turn < 3; ++turn) {
    WatchedCopy copy;
    auto with_copy = options();
    with_copy.memory = &copy;
    with_copy.few_bytes = 0;
    with_copy.between_rounds = [&]() -> Status {
      buffer.reset();
      OUTBOARD_TRY(buffer, driver_->dma().allocate(3 << 20));
      return work(depth) ? Status() : Status(Error(ETIMEDOUT, "the disk does not answer"));
    };
    const auto report = client_->migrate_to(path((turn + 1) % 2), with_copy);
    ASSERT_TRUE(report) << turn << ": " << report.error().message();
    EXPECT_EQ(report->rounds.size(), 4U);
    EXPECT_GE(report->memory_size, 3U << 20);
    EXPECT_EQ(copy.not_reported, 0U);
    ASSERT_TRUE(work(2 * depth)) << turn;
  }
  end_load();
}

/// A driver that gives up between two rounds, and servers that are not alike.
TEST_P(MovedDisk, WhatEndsTheMoveLeavesTheDiskWhereItWas) {
  start_load();
  ASSERT_TRUE(work(depth));
  auto given_up = options();
  given_up.between_rounds = [] { return Status(Error(ECANCELED, "not now")); };
  EXPECT_EQ(client_->migrate_to(path(1), given_up).error().code(), ECANCELED);
  ASSERT_TRUE(work(depth));
  EXPECT_EQ(client_->migrate_to(path(0), options()).error().code(), EBUSY) << "it has a client";
  EXPECT_EQ(client_->migrate_to(path(2), options()).error().code(), ENOENT);
  DiskOptions other = GetParam();
  other.queues += 1;
  const auto share = [this](Loop& loop, const Log&) { return bytes_->share(loop); };
  const DiskServer unlike(path(2), share, other);
  const auto refused = client_->migrate_to(path(2), options());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), EINVAL) << "the state has another number of queues";
  EXPECT_NE(refused.error().cure().find("same device and options"), std::string::npos);
  ASSERT_TRUE(work(depth));
  auto inside = options();
  inside.between_rounds = [this] {
    EXPECT_EQ(client_->migrate_to(path(1)).error().code(), EALREADY);
    return Status();
  };
  EXPECT_TRUE(client_->migrate_to(path(1), inside));
  ASSERT_TRUE(work(depth));
  end_load();
}

TEST_P(MovedDisk, TenMovesUnderLoadOfACopyOfTheMemory) {
  start_load();
  ASSERT_TRUE(work(depth));
  for (unsigned turn = 0; turn < 10; ++turn) {
    WatchedCopy copy;
    auto with_copy = options();
    with_copy.memory = &copy;
    const auto report = client_->migrate_to(path((turn + 1) % 2), with_copy);
    ASSERT_TRUE(report) << turn << ": " << report.error().message();
    EXPECT_EQ(copy.not_reported, 0U) << "a page that the device wrote is not in the report";
    EXPECT_GT(copy.copied(), 0U);
    ASSERT_TRUE(work(2 * depth)) << turn;
  }
  end_load();
}

/// A connection to a server at `path`, for a client that a relay stands in front of.
UniqueFd connect_to(const std::string& path) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  EXPECT_EQ(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  return socket;
}

/// The last answer is that the device runs there: where it is lost, it may have run.
TEST_P(MovedDiskCut, AConnectionThatIsCutAnywhereLeavesTheDiskWhereItWas) {
  start_load();
  ASSERT_TRUE(work(depth));
  std::size_t bytes = 0;
  for (bool moved = false; !moved; bytes += 61) {
    ASSERT_LT(bytes, 100000U) << "moves more than a disk's state should need";
    WatchedCopy copy;
    testing::CuttingRelay relay(connect_to(path(1)), bytes + 1);
    auto with_copy = options();
    with_copy.max_rounds = 1;
    with_copy.memory = &copy;
    const auto report = client_->migrate_over(relay.take_client(), "the relay", with_copy);
    moved = report.has_value();
    if (moved) {
      // With the connection that is cut next.
      for (Worker& worker : workers_) worker.stopping = true;
      driver_.reset();
      workers_.clear();
      client_.reset();
      break;
    }
    ASSERT_FALSE(client_->gone()) << bytes;
    EXPECT_EQ(client_->name(), "vfio-user:" + path(0));
    EXPECT_EQ(relay.wait(), bytes + 1);
    ASSERT_TRUE(work(depth)) << "cut after " << bytes << ": " << report.error().message();
    for (const Worker& worker : workers_) ASSERT_EQ(worker.wrong + worker.errors, 0U) << bytes;
  }
  EXPECT_GT(bytes, 1000U);
}

/// Both servers have one image file, which only one of them may use at a time.
class MovedImage : public MovedDisk {
 protected:
  void SetUp() override {
    static_cast<void>(dir_.make_file("disk.raw", disk_size));
    servers_[0].emplace(path(0), open_image(false), GetParam());
    servers_[1].emplace(path(1), open_image(true), GetParam());
    begin();
  }
  OpenDisk open_image(bool incoming) const {
    return [path = dir_.path("disk.raw"), incoming](Loop& loop, const Log& log) {
      return storage::RawFile::open(loop, {.path = path, .lent = incoming}, log);
    };
  }
};
INSTANTIATE_TEST_SUITE_P(, MovedImage, ::testing::Values(DiskOptions{false, 1}, DiskOptions{true, 3}), name_of);

TEST_P(MovedImage, GoesFromServerToServer) {
  start_load();
  ASSERT_TRUE(work(depth));
  for (unsigned turn = 0; turn < 4; ++turn) {
    const auto report = client_->migrate_to(path((turn + 1) % 2), options());
    ASSERT_TRUE(report) << turn << ": " << report.error().message();
    ASSERT_TRUE(work(2 * depth)) << turn;
  }
  end_load();
}

TEST_P(MovedImage, CannotBeUsedWhereAnotherServerHasIt) {
  auto other = vfio_user::Client::connect(path(1));
  ASSERT_TRUE(other);
  const auto refused = blk::Driver::start(**other);
  ASSERT_FALSE(refused);
  other->reset();
  start_load();
  ASSERT_TRUE(work(depth));
  end_load();
}

/// Where the answer is lost that the disk runs there, it has run there: it lets the image go, and the old server goes on.
TEST_P(MovedImage, ALastAnswerThatIsLostBringsItBack) {
  start_load();
  ASSERT_TRUE(work(depth));
  auto one_round = options();
  one_round.max_rounds = 1;
  std::size_t all = 0;
  // The reply has 32 bytes, and what follows a move that succeeds is sent after it: the number of bytes is found first.
  for (std::size_t bytes = 4000; all == 0; bytes += 16) {
    WatchedCopy copy;
    one_round.memory = &copy;
    testing::CuttingRelay relay(connect_to(path(1)), bytes);
    const auto report = client_->migrate_over(relay.take_client(), "the relay", one_round);
    ASSERT_LT(bytes, 20000U);
    if (report) {
      all = bytes;
      for (Worker& worker : workers_) worker.stopping = true;
      break;
    }
    ASSERT_FALSE(client_->gone());
    relay.wait();
    ASSERT_TRUE(work(depth)) << "cut after " << bytes << ": " << report.error().message();
    for (const Worker& worker : workers_) ASSERT_EQ(worker.wrong + worker.errors, 0U) << bytes;
  }
  driver_.reset();
  workers_.clear();
  client_.reset();
}

}  // namespace
}  // namespace outboard::targets
