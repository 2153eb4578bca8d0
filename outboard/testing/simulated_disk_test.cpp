#include <outboard/testing/simulated_disk.hpp>

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/storage/backend.hpp>
#include <outboard/testing/simulation_test.hpp>

namespace outboard::testing {
namespace {

using namespace std::chrono_literals;
using Role = Simulation::Role;
using Mortality = Simulation::Mortality;
using Content = std::vector<std::byte>;

constexpr std::size_t sector = 512;
constexpr int running = -1;
constexpr std::uint64_t small = 64 * sector;

Content full_of(unsigned value, std::size_t sectors = 1) {
  return Content(sectors * sector, static_cast<std::byte>(value));
}

/// A disk, and a process that uses it. A decision is addressed by its distance from where the run stood at mark().
class World {
 public:
  using Body = std::function<void(World&)>;

  /// Runs the body on a quiet machine, and where there are decisions once more with them.
  static void run(const Body& body, SimulatedDisk::Options options = {.capacity = small},
                  const std::vector<Deviation>& decisions = {}) {
    World quiet(Schedule::replay({}), options);
    quiet.run_body(body);
    if (decisions.empty()) return;
    std::vector<Deviation> schedule;
    for (const Deviation& one : decisions) schedule.push_back({quiet.mark_ + one.step, one.value});
    World decided(Schedule::replay(schedule), options);
    decided.decided_ = true;
    decided.run_body(body);
  }
  /// Runs it with `first`, and once for each of the decisions that follow, which is then 1.
  static void run_with_any_second(const Body& body, SimulatedDisk::Options options, Deviation first) {
    for (std::uint32_t further = 1; further < 60; ++further) run(body, options, {first, {first.step + further, 1}});
  }

  /// This run has the decisions.
  bool decided() const { return decided_; }
  void mark() { mark_ = simulation_.schedule().steps(); }

  void write(std::uint64_t at, const Content& content) {
    int result = running;
    start_write(at, content, result);
    finish(result);
    EXPECT_EQ(result, 0);
  }
  void start_write(std::uint64_t at, const Content& content, int& result) {
    const iovec piece{const_cast<std::byte*>(content.data()), content.size()};
    backend->write(at * sector, {&piece, 1}, [&result](int error) { result = error; });
  }
  void flush() {
    int result = running;
    start_flush(result);
    finish(result);
    EXPECT_EQ(result, 0);
  }
  void start_flush(int& result) {
    backend->flush([&result](int error) { result = error; });
  }
  void finish(int& result) {
    process->run_until([&] { return result != running; });
  }
  Content read(std::uint64_t at, std::size_t sectors = 1) {
    Content content(sectors * sector);
    const iovec piece{content.data(), content.size()};
    int result = running;
    backend->read(at * sector, {&piece, 1}, [&result](int error) { result = error; });
    finish(result);
    return content;
  }
  /// How many of the sectors from there on are.
  std::size_t sectors_full_of(unsigned value, std::uint64_t at) const {
    std::size_t count = 0;
    while (std::ranges::equal(disk.contents().subspan((at + count) * sector, sector), full_of(value))) ++count;
    return count;
  }
  void pass(Duration time) { process->run_for(time, never); }
  TimePoint now() const { return simulation_.clock().now(); }

  World(Schedule schedule, SimulatedDisk::Options options)
      : simulation_(std::move(schedule), {}), disk(simulation_, options) {}
  void run_body(const Body& body) {
    simulation_.add_process("user", Role::worker, Mortality::lives, [&](Process& self) {
      process = &self;
      backend = disk.open(self.loop()).value();
      body(*this);
      backend.reset();
    });
    EXPECT_EQ(simulation_.run().value_or(""), "");
  }

 private:
  Simulation simulation_;
  std::uint32_t mark_ = 0;
  bool decided_ = false;

 public:
  SimulatedDisk disk;
  Process* process = nullptr;
  std::unique_ptr<storage::Backend> backend;
};

TEST(SimulatedDisk, ReadReturnsWhatWasWritten) {
  World::run([](World& world) {
    EXPECT_EQ(world.read(3), full_of(0));
    world.write(3, full_of(7, 2));
    EXPECT_EQ(world.read(3, 2), full_of(7, 2));
    EXPECT_EQ(world.read(5), full_of(0));
    EXPECT_EQ(world.backend->geometry().capacity, small);
  });
}

TEST(SimulatedDisk, DiscardAndWriteZeroesClear) {
  World::run([](World& world) {
    world.write(3, full_of(7, 3));
    int discarded = running, zeroed = running;
    world.backend->discard(3 * sector, sector, [&](int error) { discarded = error; });
    world.backend->write_zeroes(4 * sector, sector, true, [&](int error) { zeroed = error; });
    world.finish(discarded);
    world.finish(zeroed);
    EXPECT_EQ(world.read(3, 2), full_of(0, 2));
    EXPECT_EQ(world.read(5), full_of(7));
  });
}

TEST(SimulatedDisk, WriteTakesItsBytesWhenItIsSubmitted) {
  World::run([](World& world) {
    Content content = full_of(7);
    int result = running;
    world.start_write(3, content, result);
    std::ranges::fill(content, std::byte{9});
    world.finish(result);
    EXPECT_EQ(world.read(3), full_of(7));
  });
}

TEST(SimulatedDisk, OperationIsNotCompletedFromInsideTheCall) {
  World::run([](World& world) {
    int result = running;
    world.start_flush(result);
    EXPECT_EQ(result, running);
    EXPECT_FALSE(world.disk.idle());
    world.finish(result);
    EXPECT_TRUE(world.disk.idle());
  });
}

TEST(SimulatedDisk, ScheduleDecidesHowLongAnOperationTakes) {
  World::run(
      [](World& world) {
        const TimePoint start = world.now();
        world.mark();
        world.flush();
        if (world.decided())
          EXPECT_GE(world.now() - start, 3s);
        else
          EXPECT_LT(world.now() - start, 1ms);
      },
      {.capacity = small}, {{0, 4}});
}

TEST(SimulatedDisk, OperationsMayOvertakeEachOther) {
  World::run(
      [](World& world) {
        int first = running, second = running;
        world.mark();
        world.start_write(3, full_of(1), first);
        world.start_write(4, full_of(2), second);
        world.finish(second);
        EXPECT_EQ(first, world.decided() ? running : 0);
        world.finish(first);
      },
      {.capacity = small}, {{0, 4}});
}

// Failure: decided before the time.

TEST(SimulatedDisk, OperationFailsOnlyWhereTheDiskMayFail) {
  for (const bool fails : {true, false}) {
    World::run(
        [fails](World& world) {
          int result = running;
          world.mark();
          world.start_flush(result);
          world.finish(result);
          EXPECT_EQ(result, fails && world.decided() ? EIO : 0);
        },
        {.capacity = small, .fails = fails}, {{0, 15}});
  }
}

TEST(SimulatedDisk, WriteThatFailsMayHaveWrittenAPart) {
  std::set<std::size_t> parts;
  for (std::uint64_t seed = 1; seed < 100; ++seed) {
    World world(Schedule::from_seed(seed), {.capacity = small, .fails = true});
    world.run_body([&](World& self) {
      for (std::uint64_t at = 0; at < 64; at += 4) {
        int result = running;
        self.start_write(at, full_of(7, 3), result);
        self.finish(result);
        const std::size_t written = self.sectors_full_of(7, at);
        if (result == EIO) parts.insert(written);
        EXPECT_TRUE(result == EIO || written == 3) << result;
      }
    });
  }
  EXPECT_EQ(parts, (std::set<std::size_t>{0, 1, 2, 3}));
}

// Loss of power. Each sector that is not on the medium is decided.

TEST(SimulatedDisk, PowerLossMayLoseWhatNoFlushHasCovered) {
  World::run(
      [](World& world) {
        world.write(3, full_of(7, 2));
        world.mark();
        world.disk.lose_power();
        EXPECT_EQ(world.read(3), world.decided() ? full_of(0) : full_of(7));
        EXPECT_EQ(world.read(4), full_of(7)) << "each sector by itself";
      },
      {.capacity = small}, {{0, 1}});
}

TEST(SimulatedDisk, FlushedWritesOutliveAPowerLoss) {
  World::run(
      [](World& world) {
        world.write(3, full_of(7));
        world.flush();
        world.mark();
        world.disk.lose_power();
        EXPECT_EQ(world.read(3), full_of(7));
      },
      {.capacity = small}, {{0, 1}});
}

TEST(SimulatedDisk, WhatAPowerLossHasLeftStays) {
  World::run(
      [](World& world) {
        world.write(3, full_of(7));
        world.disk.lose_power();
        world.mark();
        world.disk.lose_power();
        EXPECT_EQ(world.read(3), full_of(7));
      },
      {.capacity = small}, {{0, 1}});
}

/// What the sector that a body has read last begins with.
class Seen {
 public:
  void add(const Content& content) { first_bytes_.insert(content[0]); }
  bool has(unsigned value) const { return first_bytes_.contains(static_cast<std::byte>(value)); }

 private:
  std::set<std::byte> first_bytes_;
};

TEST(SimulatedDisk, FlushDoesNotCoverWritesThatEndAfterItBegan) {
  Seen seen;
  World::run_with_any_second(
      [&](World& world) {
        world.write(3, full_of(1));
        int flushed = running;
        world.mark();
        world.start_flush(flushed);  // takes long
        world.write(3, full_of(2));
        world.finish(flushed);
        world.disk.lose_power();
        if (world.decided()) seen.add(world.read(3));
      },
      {.capacity = small}, {0, 4});
  EXPECT_FALSE(seen.has(0));
  EXPECT_TRUE(seen.has(1));
  EXPECT_TRUE(seen.has(2));
}

TEST(SimulatedDisk, EarlierFlushThatEndsLaterTakesNothingBack) {
  World::run_with_any_second(
      [](World& world) {
        int earlier = running;
        world.mark();
        world.start_flush(earlier);  // takes long
        world.write(3, full_of(2));
        world.flush();
        world.finish(earlier);
        world.disk.lose_power();
        EXPECT_EQ(world.read(3), full_of(2));
      },
      {.capacity = small}, {0, 4});
}

TEST(SimulatedDisk, FailedFlushCoversNothing) {
  Seen seen;
  World::run_with_any_second(
      [&](World& world) {
        world.write(3, full_of(7));
        int result = running;
        world.mark();
        world.start_flush(result);
        world.finish(result);
        EXPECT_EQ(result, world.decided() ? EIO : 0);
        world.disk.lose_power();
        if (world.decided()) seen.add(world.read(3));
      },
      {.capacity = small, .fails = true}, {0, 15});
  EXPECT_TRUE(seen.has(0));
  EXPECT_TRUE(seen.has(7));
}

TEST(SimulatedDisk, PowerLossEndsWhatWasBeingCarriedOut) {
  World::run([](World& world) {
    int result = running;
    world.start_write(3, full_of(7), result);
    world.disk.lose_power();
    EXPECT_TRUE(world.disk.idle());
    world.pass(1min);
    EXPECT_EQ(result, running);
    EXPECT_EQ(world.read(3), full_of(0));
  });
}

// Processes that have gone.

TEST(SimulatedDisk, OperationsOfABackendThatHasGoneAreCarriedOutAndNotCompleted) {
  World::run([](World& world) {
    int result = running;
    world.start_write(3, full_of(7), result);
    world.backend.reset();
    EXPECT_FALSE(world.disk.idle());
    world.pass(1s);
    EXPECT_EQ(result, running);
    EXPECT_TRUE(world.disk.idle());
    EXPECT_TRUE(std::ranges::equal(world.disk.contents().subspan(3 * sector, sector), full_of(7)));
  });
}

TEST(SimulatedDisk, ReadOfABackendThatHasGoneTouchesNoMemory) {
  World::run([](World& world) {
    world.write(3, full_of(7));
    Content content = full_of(1);
    const iovec piece{content.data(), content.size()};
    world.backend->read(3 * sector, {&piece, 1}, [](int) { ADD_FAILURE(); });
    world.backend.reset();
    world.pass(1s);
    EXPECT_EQ(content, full_of(1));
  });
}

TEST(SimulatedDisk, IsBusyWhileAnothersOperationsRun) {
  World::run([](World& world) {
    int result = running;
    world.start_write(3, full_of(7), result);
    world.backend.reset();
    const auto early = world.disk.open(world.process->loop());
    ASSERT_FALSE(early.has_value());
    EXPECT_EQ(early.error().code(), EBUSY);
    world.pass(1s);
    EXPECT_TRUE(world.disk.open(world.process->loop()).has_value());
  });
}

TEST(SimulatedDisk, SharedBackendsUseOneDisk) {
  World::run([](World& world) {
    const auto other = world.backend->share(world.process->loop()).value();
    world.write(3, full_of(7));
    world.backend = std::move(*world.backend->share(world.process->loop()));
    EXPECT_EQ(world.read(3), full_of(7));
  });
}

}  // namespace
}  // namespace outboard::testing
