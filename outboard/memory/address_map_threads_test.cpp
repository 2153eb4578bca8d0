#include <outboard/memory/address_map.hpp>

#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <deque>
#include <future>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/memory/fault_guard.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::memory {
namespace {

constexpr std::uint64_t page = 4096;

TEST(AddressMapThreads, ReadersAlwaysFindAWholeMap) {
  // Two mappings change places again and again; every snapshot has exactly one of them, and one that always stays.
  const auto control = *Reactor::create();
  AddressMap map(*control);
  const auto memory = *HostMemory::anonymous(page);
  const auto add = [&](std::uint64_t start) {
    ASSERT_TRUE(map.map({.range = {Iova{start}, page}, .memory = memory}).has_value());
  };
  add(0x10000);
  add(0x1000);
  std::atomic<bool> stop{false};
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      std::uint64_t newest = 0;
      std::size_t hint = 0;
      while (!stop.load()) {
        const std::uint64_t announced = map.generation();
        const auto snapshot = map.current();
        EXPECT_GE(snapshot->generation(), announced);
        EXPECT_GE(snapshot->generation(), newest);
        newest = snapshot->generation();
        EXPECT_NE(snapshot->find(Iova{0x10000}), nullptr);
        EXPECT_LE(snapshot->mapping_count(), 2U);
        const auto seen = snapshot->translate({Iova{0x10010}, 64}, Access::read, &hint,
                                              [](Segment segment) { EXPECT_EQ(segment.data[0], std::byte{0}); });
        EXPECT_EQ(seen, Lookup::ok);
      }
    });
  }
  for (int round = 0; round < 3000; ++round) {
    const std::uint64_t now = round % 2 == 0 ? 0x1000 : 0x2000;
    map.unmap({Iova{now}, page}, [](Status status) { EXPECT_TRUE(status.has_value()); });
    add(now ^ 0x3000);
  }
  stop.store(true);
  for (auto& reader : readers) reader.join();
}

TEST(AddressMapThreads, ResolvedMappingsAndThoseOfTheControlLoopAreAllKept) {
  constexpr std::uint64_t pages = 300;
  const auto control = *Reactor::create();
  AddressMap map(*control);
  const auto memory = *HostMemory::anonymous(pages * page);
  std::uint64_t asked = 0;  // by one thread at a time: TSan watches it
  map.set_resolver([&](IovaRange range, Access) {
    ++asked;
    const std::uint64_t at = raw(range.start) / page * page;
    return std::optional(Mapping{.range = {Iova{at}, page}, .memory = memory, .offset = at});
  });
  std::atomic<bool> go{false};
  std::vector<std::thread> queues;
  for (std::uint64_t who = 0; who < 3; ++who) {
    queues.emplace_back([&, who] {
      while (!go.load()) std::this_thread::yield();
      for (std::uint64_t i = 0; i < pages; ++i) {
        const std::uint64_t at = (i + who) % pages * page;
        EXPECT_TRUE(map.resolve({Iova{at}, 8}, Access::read));
        EXPECT_NE(map.current()->find(Iova{at}), nullptr);
      }
    });
  }
  go.store(true);
  constexpr std::uint64_t own = UINT64_C(1) << 40;
  for (std::uint64_t i = 0; i < pages; ++i) {
    ASSERT_TRUE(map.map({.range = {Iova{own + i * page}, page}, .memory = memory}).has_value());
    map.unmap({Iova{own + i / 2 * page}, page}, [](Status) {});
  }
  for (auto& queue : queues) queue.join();
  EXPECT_EQ(asked, pages) << "each page once, by whoever came first";
  EXPECT_EQ(map.current()->mapping_count(), pages + pages / 2);
}

/// Counts what it is told, on a loop that no thread runs but the test, when it likes.
class SlowUser final : public MapUser {
 public:
  Loop& map_loop() override { return *loop; }
  void map_changed(IovaRange removed, Loop::Task released) override {
    seen.push_back(removed);
    released();
  }
  std::unique_ptr<Reactor> loop = *Reactor::create();
  std::vector<IovaRange> seen;
};

TEST(AddressMapThreads, AUserOnAnotherLoopIsToldOnceOfWhatIsNewAndOfEachRemoval) {
  SlowUser user;
  std::promise<void> posted;
  std::thread control_thread([&] {
    const auto control = *Reactor::create();
    AddressMap map(*control);
    map.add_user(user);
    control->post([&] {
      const auto memory = *HostMemory::anonymous(page);
      for (const std::uint64_t start : {0x1000, 0x2000, 0x3000}) {
        EXPECT_TRUE(map.map({.range = {Iova{start}, page}, .memory = memory}).has_value());
      }
      map.unmap({Iova{0x2000}, page}, [&](Status status) {
        EXPECT_TRUE(status.has_value());
        control->stop();
      });
      user.loop->post([&] { user.loop->stop(); });
      posted.set_value();
    });
    EXPECT_TRUE(control->run().has_value());
    map.remove_user(user);
  });
  posted.get_future().wait();
  EXPECT_TRUE(user.loop->run().has_value());
  control_thread.join();
  EXPECT_EQ(user.seen, (std::vector<IovaRange>{{}, {Iova{0x2000}, page}}));
}

/// A queue on a thread of its own: writes to memory that it finds in its snapshot, all the time.
class Worker final : public MapUser {
 public:
  explicit Worker(AddressMap& map) : map_(map), snapshot_(map.current()) {
    poller_ = loop_->poll([this] { return work(); });
    std::promise<void> running;
    loop_->post([&] { running.set_value(); });
    thread_ = std::thread([this] { EXPECT_TRUE(loop_->run().has_value()); });
    running.get_future().wait();
  }
  ~Worker() override {
    loop_->post([this] { poller_.reset(); });
    loop_->post([this] { loop_->stop(); });
    thread_.join();
  }
  Loop& map_loop() override { return *loop_; }
  void map_changed(IovaRange removed, Loop::Task released) override {
    snapshot_ = map_.current();
    if (removed.size == 0) return released();
    // Some removals are held for a while, as by I/O that is running.
    held_.push_back(std::move(released));
    if (held_.size() > 2 || ++changes_ % 3 == 0) {
      while (!held_.empty()) {
        held_.front()();
        held_.pop_front();
      }
    }
  }

 private:
  bool work() {
    while (!held_.empty()) {
      held_.front()();
      held_.pop_front();
    }
    snapshot_->translate({Iova{0x1000}, 8}, Access::write, nullptr,
                         [](Segment segment) { std::memset(segment.data, 0x77, segment.size); });
    return true;
  }

  AddressMap& map_;
  std::shared_ptr<const Snapshot> snapshot_;
  std::unique_ptr<Reactor> loop_ = *Reactor::create();
  Registration poller_;
  std::deque<Loop::Task> held_;
  int changes_ = 0;
  std::thread thread_;
};

TEST(AddressMapThreads, NobodyTouchesARangeOnceItsUnmapIsAnswered) {
  const auto control = *Reactor::create();
  AddressMap map(*control);
  std::array<std::byte, page> bytes{};  // what the client has back once its unmap is answered: TSan watches it
  const auto memory = HostMemory::borrowed(bytes);
  Worker worker(map);
  map.add_user(worker);
  for (int round = 0; round < 1000; ++round) {
    ASSERT_TRUE(map.map({.range = {Iova{0x1000}, page}, .memory = memory}).has_value());
    bool answered = false;
    map.unmap({Iova{0x1000}, page}, [&](Status status) {
      EXPECT_TRUE(status.has_value());
      EXPECT_TRUE(control->in_loop_thread());
      answered = true;
    });
    while (!answered) ASSERT_TRUE(control->run_once(Duration(-1)).has_value());
    std::memset(bytes.data(), round, 8);
  }
  map.remove_user(worker);
}

TEST(AddressMapThreads, UserMayBeRemovedWhileItIsBeingTold) {
  const auto control = *Reactor::create();
  AddressMap map(*control);
  const auto memory = *HostMemory::anonymous(page);
  for (int round = 0; round < 200; ++round) {
    auto worker = std::make_unique<Worker>(map);
    map.add_user(*worker);
    ASSERT_TRUE(map.map({.range = {Iova{0x1000}, page}, .memory = memory}).has_value());
    bool answered = false;
    map.unmap({Iova{0x1000}, page}, [&](Status) { answered = true; });
    map.remove_user(*worker);
    worker.reset();
    while (!answered) ASSERT_TRUE(control->run_once(Duration(-1)).has_value());
  }
  while (*control->run_once(Duration::zero())) continue;
}

TEST(FaultGuardThreads, ThreadsThatTouchATruncatedFileTogetherAreAllContained) {
  ASSERT_TRUE(install_fault_guard().has_value());
  constexpr std::uint64_t pages = 64;
  for (int round = 0; round < 20; ++round) {
    const UniqueFd fd = testing::make_memfd(pages * page);
    const auto memory = *HostMemory::map_file(fd, 0, pages * page, Access::read_write);
    std::atomic<bool> go{false};
    std::vector<std::thread> threads;
    for (std::uint64_t who = 0; who < 3; ++who) {
      threads.emplace_back([&, who] {
        while (!go.load()) std::this_thread::yield();
        for (std::uint64_t i = 0; i < pages; ++i) {
          const std::uint64_t at = (i * 7 + who * 13) % pages * page + who;
          EXPECT_EQ(*reinterpret_cast<volatile unsigned char*>(memory->data() + at), 0);
        }
      });
    }
    // Other mappings come and go meanwhile: the handler walks the registry while it changes.
    const UniqueFd sealed = testing::make_sealed_memfd(page);
    ASSERT_EQ(::ftruncate(fd.get(), 0), 0);
    go.store(true);
    for (int i = 0; i < 50; ++i) EXPECT_TRUE(HostMemory::map_file(sealed, 0, page, Access::read).has_value());
    for (auto& thread : threads) thread.join();
    EXPECT_TRUE(memory->poisoned());
  }
}

}  // namespace
}  // namespace outboard::memory
