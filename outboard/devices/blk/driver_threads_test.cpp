// The calls that wait, over a PCI function on a thread of its own; and queues on threads of their own.

#include <array>
#include <atomic>
#include <deque>
#include <optional>
#include <thread>

#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/devices/blk/device.hpp>
#include <outboard/devices/blk/driver.hpp>
#include <outboard/pci/local_handle.hpp>
#include <outboard/storage/ram.hpp>
#include <outboard/storage/raw_file.hpp>
#include <outboard/virtio_pci/function.hpp>
#include <outboard/virtio_pci/transport.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::blk {
namespace {

constexpr std::uint64_t disk_size = 4 << 20;

struct Kind {
  const char* name;
  bool packed = false;
  bool poll = false;
  bool file = false;
};

class BlkOverPci : public ::testing::TestWithParam<Kind> {
 protected:
  void start(Driver::Options options = {}, Device::Options device = {}) {
    if (GetParam().file) static_cast<void>(dir.make_file("disk.raw", disk_size));
    const auto make = [path = dir.path("disk.raw"), device](Loop& loop,
                                                            const Log&) -> Result<std::unique_ptr<virtio::Device>> {
      std::unique_ptr<storage::Backend> disk;
      if (GetParam().file) {
        OUTBOARD_TRY(disk, storage::RawFile::open(loop, {.path = path}, Log()));
      } else {
        OUTBOARD_TRY(disk, storage::Ram::create(disk_size));
      }
      OUTBOARD_TRY(std::unique_ptr<virtio::Device> made, Device::create(std::move(disk), device));
      return made;
    };
    virtio_pci::Function::Options function;
    function.core.packed = GetParam().packed;
    auto opened = pci::LocalHandle::start(virtio_pci::Function::factory(make, std::move(function)), {});
    ASSERT_TRUE(opened) << opened.error().message();
    handle = std::move(*opened);
    auto transport = virtio_pci::Transport::open(*handle);
    ASSERT_TRUE(transport) << transport.error().message();
    options.poll = GetParam().poll;
    auto started = Driver::start(std::move(*transport), options);
    ASSERT_TRUE(started) << started.error().message();
    disk.emplace(std::move(*started));
  }

  testing::TempDir dir;
  std::unique_ptr<pci::LocalHandle> handle;
  std::optional<Driver> disk;
};
INSTANTIATE_TEST_SUITE_P(, BlkOverPci,
                         ::testing::Values(Kind{"split"}, Kind{"packed", true}, Kind{"split_polled", false, true},
                                           Kind{"packed_polled", true, true}, Kind{"split_file", false, false, true}),
                         [](const auto& kind) { return std::string(kind.param.name); });

TEST_P(BlkOverPci, TheCallsThatWaitDoWhatTheySay) {
  start({}, {.id = "threads"});
  auto buffer = disk->dma().allocate(8192);
  ASSERT_TRUE(buffer);
  std::memset(buffer->data(), 0x5a, 8192);
  ASSERT_TRUE(disk->write(Sector{8}, *buffer));
  ASSERT_TRUE(disk->flush());
  std::memset(buffer->data(), 0, 8192);
  const auto read = disk->read(Sector{8}, *buffer);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(std::to_integer<int>(buffer->data()[8191]), 0x5a);
  ASSERT_TRUE(disk->write_zeroes(Sector{8}, 8, true));
  ASSERT_TRUE(disk->discard(Sector{16}, 8));
  ASSERT_TRUE(disk->read(Sector{8}, *buffer));
  EXPECT_EQ(std::to_integer<int>(buffer->data()[0]), 0);
  EXPECT_EQ(disk->id().value(), "threads");
  EXPECT_EQ(disk->capacity(), disk_size);
}

TEST_P(BlkOverPci, BytesOfTheCallerGoThroughABufferOfTheDriver) {
  start();
  std::vector<std::byte> bytes(3 << 20), back(3 << 20);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 11 + i / 509);
  ASSERT_TRUE(disk->write_bytes(Sector{1}, bytes));
  ASSERT_TRUE(disk->read_bytes(Sector{1}, back));
  EXPECT_EQ(back, bytes);
  EXPECT_FALSE(disk->read_bytes(Sector{1}, MutableBytes(back).first(100)));
}

TEST_P(BlkOverPci, ErrorsAreValues) {
  start();
  auto buffer = disk->dma().allocate(512);
  ASSERT_TRUE(buffer);
  EXPECT_EQ(disk->read(Sector{disk_size / 512}, *buffer).error().code(), EINVAL);
}

TEST_P(BlkOverPci, ABlockingCallFromACompletionIsRefused) {
  start();
  struct Nested : Io {
    Driver* driver = nullptr;
    std::optional<int> code;
  } io;
  io.kind = Io::Kind::flush;
  io.driver = &*disk;
  io.done = [](Io& done) {
    auto& self = static_cast<Nested&>(done);
    const auto flushed = self.driver->flush();
    self.code = flushed ? 0 : flushed.error().code();
  };
  ASSERT_TRUE(disk->queue(0).submit(io));
  disk->queue(0).publish();
  while (!io.code) {
    ASSERT_TRUE(disk->process());
    disk->queue(0).poll();
  }
  EXPECT_EQ(*io.code, EDEADLK);
}

TEST_P(BlkOverPci, OperationsAtDepthAllComplete) {
  start();
  auto buffer = disk->dma().allocate(64 * 4096);
  ASSERT_TRUE(buffer);
  struct Load : Io {
    unsigned* left = nullptr;
    virtio::Element element;
    Queue* queue = nullptr;
  };
  unsigned left = 5000;
  std::array<Load, 32> loads;
  for (unsigned i = 0; i < loads.size(); ++i) {
    Load& load = loads[i];
    load.kind = i % 2 == 0 ? Io::Kind::read : Io::Kind::write;
    load.sector = Sector{i * 8};
    load.element = {buffer->iova() + i * 4096, 4096};
    load.data = std::span(&load.element, 1);
    load.left = &left;
    load.queue = &disk->queue(0);
    load.done = [](Io& io) {
      auto& self = static_cast<Load&>(io);
      EXPECT_EQ(self.error, 0);
      if (*self.left == 0 || --*self.left == 0) return;
      EXPECT_TRUE(self.queue->submit(self));
    };
    ASSERT_TRUE(disk->queue(0).submit(load));
  }
  disk->queue(0).publish();
  while (left != 0 || disk->queue(0).in_flight() != 0) {
    ASSERT_TRUE(disk->process());
    disk->queue(0).poll();
  }
}

TEST(BlkQueues, OnThreadsOfTheirOwnWorkAtOnce) {
  const auto make = [](Loop&, const Log&) -> Result<std::unique_ptr<virtio::Device>> {
    OUTBOARD_TRY(std::unique_ptr<storage::Backend> disk, storage::Ram::create(disk_size));
    OUTBOARD_TRY(std::unique_ptr<virtio::Device> made, Device::create(std::move(disk), {.queues = 2}));
    return made;
  };
  auto handle = pci::LocalHandle::start(virtio_pci::Function::factory(make, {}), {});
  ASSERT_TRUE(handle) << handle.error().message();
  auto transport = virtio_pci::Transport::open(**handle);
  ASSERT_TRUE(transport) << transport.error().message();

  auto control = Reactor::create().value();
  std::array<std::unique_ptr<Reactor>, 2> loops{Reactor::create().value(), Reactor::create().value()};
  Driver::Options options;
  options.queues = 2;
  options.loop = control.get();
  options.queue_loops = {loops[0].get(), loops[1].get()};
  // Before the threads run: a loop that nobody runs belongs to whoever made it.
  auto disk = Driver::start(std::move(*transport), options);
  ASSERT_TRUE(disk) << disk.error().message();
  ASSERT_EQ(disk->queue_count(), 2u);

  struct Load : Io {
    Queue* queue = nullptr;
    std::atomic<unsigned>* finished = nullptr;
    unsigned left = 500;
  };
  std::atomic<unsigned> finished{0};
  std::array<Load, 2> loads;
  std::array<std::thread, 2> threads;
  for (unsigned i = 0; i < 2; ++i) {
    loads[i].kind = Io::Kind::flush;
    loads[i].queue = &disk->queue(i);
    loads[i].finished = &finished;
    loads[i].done = [](Io& io) {
      auto& self = static_cast<Load&>(io);
      EXPECT_EQ(self.error, 0);
      if (--self.left != 0) {
        EXPECT_TRUE(self.queue->submit(self));
      } else {
        self.finished->fetch_add(1);
      }
    };
    loops[i]->post([&load = loads[i]] {
      EXPECT_TRUE(load.queue->submit(load));
      load.queue->publish();
    });
    threads[i] = std::thread([&loop = *loops[i]] { EXPECT_TRUE(loop.run()); });
  }
  while (finished != 2) ASSERT_TRUE(control->run_once(std::chrono::milliseconds(10)));
  bool stopped = false;
  disk->stop_queues([&] { stopped = true; });
  while (!stopped) ASSERT_TRUE(control->run_once(std::chrono::milliseconds(10)));
  for (unsigned i = 0; i < 2; ++i) {
    loops[i]->stop();
    threads[i].join();
  }
}

}  // namespace
}  // namespace outboard::blk
