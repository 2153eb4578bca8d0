// A device is killed before each of its stores to its ring and to its log, and another one takes over: with the memory and
// the log as they were at that moment. The driver, who knows of nothing, has to get each of its requests answered, once.

#include <gtest/gtest.h>

#include <tests/crash/crash_world.hpp>

#include <tests/support/temp_dir.hpp>

namespace outboard::virtio::crash {
namespace {

class Killed : public ::testing::TestWithParam<Config> {
 protected:
  /// A successor for what `world` is now; whatever it finds wrong is a failure of the test.
  void survive(World& world, const std::string& where, unsigned depth, unsigned kills_after) {
    if (HasFatalFailure()) return;
    try {
      std::mt19937_64 rng(depth * 1000003U + points_);
      World successor(GetParam(), dir_.path("log" + std::to_string(depth)), world.driver(), world.image());
      unsigned at = 0;
      const auto again = [&] {
        ++at;
        if (kills_after == 0 || (at + points_) % stride_ != 0) return;
        survive(successor, where + ", and again at " + std::to_string(at), depth + 1, kills_after - 1);
      };
      {
        const Tracing tracing(again);
        successor.take_over();
        successor.finish(rng);
      }
      // And it can go on: more than once around the ring.
      for (unsigned turn = 0; turn < 6; ++turn) {
        successor.driver().offer(GetParam().size);
        successor.finish(rng);
      }
      ++survived_;
    } catch (const std::exception& error) {
      FAIL() << where << ": " << error.what();
    }
  }

  /// Kills at each store that `work` makes.
  template <typename Work>
  void kill_during(World& world, const std::string& what, unsigned kills_after, Work&& work) {
    const Tracing tracing([&] {
      ++points_;
      survive(world, what + ", killed at " + std::to_string(points_), 1, kills_after);
    });
    work();
  }

  /// Some of everything: buffers that overtake each other, batches, a ring that goes round.
  void play(World& world, unsigned rounds, unsigned kills_after) {
    std::mt19937_64 rng(7);
    for (unsigned round = 0; round < rounds && !HasFatalFailure(); ++round) {
      world.driver().offer(1 + static_cast<unsigned>(rng() % 3));
      kill_during(world, "taking", kills_after, [&] { world.process(); });
      const std::size_t left = round % 3;
      if (world.kept() > left) {
        kill_during(world, "answering", kills_after, [&] { world.answer(world.kept() - left, rng); });
      }
      world.driver().take();
    }
    kill_during(world, "finishing", kills_after, [&] { world.finish(rng); });
  }

  std::string new_log() { return dir_.path("log0"); }

  testing::TempDir dir_;
  unsigned points_ = 0;
  unsigned survived_ = 0;
  unsigned stride_ = 1;
};

INSTANTIATE_TEST_SUITE_P(Rings, Killed,
                         ::testing::Values(Config{.size = 8}, Config{.indirect = true, .size = 4},
                                           Config{.size = 8, .first = 0xfff8}, Config{.in_order = true, .size = 16},
                                           Config{.indirect = true, .in_order = true, .size = 8},
                                           Config{.packed = true, .size = 8}, Config{.packed = true, .size = 7},
                                           Config{.packed = true, .indirect = true, .size = 4},
                                           Config{.packed = true, .in_order = true, .size = 8},
                                           Config{.packed = true, .indirect = true, .in_order = true, .size = 5}),
                         [](const auto& param) { return param.param.name(); });

TEST_P(Killed, AtAnyStoreEachRequestIsAnsweredOnce) {
  World world(GetParam(), new_log());
  world.start();
  play(world, 30, 0);
  EXPECT_GT(points_, 200U);
  EXPECT_EQ(survived_, points_);
}

TEST_P(Killed, AtAnyStoreAndAgainAtAnyStoreOfTheRecovery) {
  World world(GetParam(), new_log());
  world.start();
  play(world, 3, 1);
  EXPECT_GT(survived_, 10 * points_);
}

TEST_P(Killed, AtAnyStoreAndTwiceAgain) {
  stride_ = 7;
  World world(GetParam(), new_log());
  world.start();
  play(world, 3, 2);
  EXPECT_GT(survived_, points_);
}

TEST_P(Killed, AtAnyStoreWhileTheDriverInitialisesOrResetsTheDevice) {
  World world(GetParam(), new_log());
  kill_during(world, "initialising", 1, [&] { world.start(); });
  EXPECT_GT(points_, 10U);
  world.driver().offer(2);
  world.process();
  // What was in flight belongs to the driver again; it does not look at it while it waits for the reset.
  kill_during(world, "resetting", 0, [&] {
    world.rig().core->write_status(0);
    world.rig().settle();
  });
}

TEST_P(Killed, AtAnyStoreWhileAQueueRestsAndGoesOn) {
  World world(GetParam(), new_log());
  world.start();
  std::mt19937_64 rng(3);
  world.driver().offer(3);
  world.process();
  world.answer(1, rng);
  kill_during(world, "resting", 1, [&] { world.pause(); });
  world.finish(rng);
}

TEST_P(Killed, AtAnyStoreOfAnAreaItIsTheOldOneOrTheNewOne) {
  World world(GetParam(), new_log());
  std::vector<std::byte> old;
  for (const unsigned size : {5U, 30U, 0U, 17U, 1024U, 1U}) {
    const std::vector<std::byte> bytes(size, static_cast<std::byte>(size));
    const Tracing tracing([&] {
      ++points_;
      const std::string copy = dir_.path("area");
      write_file(copy, world.image().journal);
      const auto opened = journal::File::open(copy, world.shape());
      ASSERT_TRUE(opened);
      const auto found = (*opened)->transport();
      ASSERT_TRUE(found) << found.error().message();
      EXPECT_EQ(*found, old);
      EXPECT_TRUE((*opened)->set_transport(bytes));
      EXPECT_EQ((*opened)->transport().value(), bytes);
    });
    ASSERT_TRUE(world.journal().set_transport(bytes));
    EXPECT_EQ(world.journal().transport().value(), bytes);
    old = bytes;
  }
  EXPECT_GT(points_, 100U);
}

/// One life after the other, each ended at a store that nobody has chosen.
TEST_P(Killed, AtRandomInManyLives) {
  constexpr std::uint64_t first_seed = 20260101;
  for (std::uint64_t seed = first_seed; seed < first_seed + 12 && !HasFatalFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 rng(seed);
    auto world = std::make_unique<World>(GetParam(), dir_.path("lives" + std::to_string(seed)));
    unsigned life = 0;
    try {
      world->start();
      for (unsigned step = 0; step < 800; ++step) {
        std::optional<Image> killed;
        std::uint64_t left = rng() % 30;
        {
          const Tracing tracing([&] {
            if (left-- == 0) killed = world->image();
          });
          switch (rng() % 6) {
            case 0:
            case 1:
              world->driver().offer(static_cast<unsigned>(rng() % 5));
              world->process();
              break;
            case 2:
            case 3:
              world->answer(rng() % 4, rng);
              break;
            case 4:
              world->driver().take();
              break;
            default:
              if (rng() % 4 == 0) world->pause();
              break;
          }
        }
        if (!killed) continue;
        // What the dead one did after that moment has not happened.
        const CrashDriver driver = world->driver();
        world.reset();
        world = std::make_unique<World>(
            GetParam(), dir_.path("lives" + std::to_string(seed) + "." + std::to_string(++life % 2)), driver, *killed);
        world->take_over();
      }
      world->finish(rng);
    } catch (const std::exception& error) {
      FAIL() << "life " << life << ": " << error.what();
    }
    EXPECT_GT(life, 20U);
    EXPECT_GT(world->driver().answered(), 50U);
  }
}

}  // namespace
}  // namespace outboard::virtio::crash
