// The virtio drivers, unchanged from what they are elsewhere: a disk (what is on it is overwritten) and the example device.

#include <algorithm>
#include <deque>
#include <optional>
#include <vector>

#include <outboard/base/reactor.hpp>
#include <outboard/devices/blk/driver.hpp>
#include <outboard/devices/example/driver.hpp>
#include <outboard/virtio_pci/transport.hpp>
#include <tests/drivers/back_end.hpp>

namespace outboard::drivers {
namespace {

constexpr std::size_t block = 4096, sectors_of_block = block / 512, blocks = 256, depth = 32;

std::byte pattern_at(std::uint32_t seed, std::size_t at, std::size_t i) {
  return static_cast<std::byte>(seed * 17 + at * 31 + i + i / 256);
}
void fill(MutableBytes bytes, std::uint32_t seed, std::size_t at) {
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = pattern_at(seed, at, i);
}
bool holds(Bytes bytes, std::uint32_t seed, std::size_t at) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] != pattern_at(seed, at, i)) return false;
  }
  return true;
}

class Blk : public DriverTest {
 protected:
  blk::Driver start(const blk::Driver::Options& options = {}) {
    auto driver = blk::Driver::start(handle(), options);
    EXPECT_TRUE(driver) << why(driver);
    return std::move(driver).value();
  }
};
INSTANTIATE_TEST_SUITE_P(, Blk, ::testing::ValuesIn(only(Kind::blk)), test_name);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Blk);

/// Operations on the first blocks of a disk, `depth` of them in flight.
class Load {
 public:
  Load(blk::Driver& driver, bool poll) : driver_(driver), poll_(poll) {
    for (unsigned i = 0; i < depth; ++i) slots_.push_back(std::make_unique<Slot>(driver, i % driver.queue_count()));
  }

  /// Writes the pattern to each block, or reads it and compares. Returns what went wrong, or "".
  std::string run(blk::Io::Kind kind, std::uint32_t seed) {
    start(kind, seed);
    return finish();
  }
  /// Submits the first `depth` and lets no time pass.
  void start(blk::Io::Kind kind, std::uint32_t seed) {
    kind_ = kind;
    seed_ = seed;
    next_ = in_flight_ = 0;
    wrong_.clear();
    for (const auto& slot : slots_) submit(*slot);
    for (unsigned i = 0; i < driver_.queue_count(); ++i) driver_.queue(i).publish();
  }
  std::string finish() {
    const TimePoint end = Clock::system().now() + std::chrono::seconds(60);
    while (in_flight_ != 0) {
      if (Clock::system().now() > end) return "it does not end";
      if (poll_) {
        for (unsigned i = 0; i < driver_.queue_count(); ++i) driver_.queue(i).poll();
      }
      if (const auto done = static_cast<Reactor&>(driver_.loop()).run_once(std::chrono::milliseconds(poll_ ? 0 : 100));
          !done)
        return done.error().message();
    }
    return wrong_;
  }

 private:
  struct Slot {
    Slot(blk::Driver& driver, unsigned its_queue) : queue(its_queue), buffer(driver.dma().allocate(block).value()) {}
    unsigned queue;  ///< the one that a completion shows to the device again is the one it came on
    memory::DmaBuffer buffer;
    virtio::Element element{};
    blk::Io io;
    Load* load = nullptr;
    std::size_t at = 0;
  };

  void submit(Slot& slot) {
    if (next_ == blocks) return;
    slot.at = next_++;
    slot.load = this;
    slot.element = {slot.buffer.iova(), block};
    if (kind_ == blk::Io::Kind::write) {
      fill(slot.buffer.bytes().first(block), seed_, slot.at);
    } else {
      std::ranges::fill(slot.buffer.bytes(), std::byte{0});
    }
    slot.io = {.kind = kind_,
               .sector = blk::Sector{slot.at * sectors_of_block},
               .data = std::span(&slot.element, 1),
               .done = [](blk::Io& io) { ended(*static_cast<Slot*>(io.context)); },
               .context = &slot};
    ++in_flight_;
    if (const auto taken = driver_.queue(slot.queue).submit(slot.io); !taken) {
      --in_flight_;
      wrong_ = taken.error().message();
    }
  }
  static void ended(Slot& slot) {
    Load& load = *slot.load;
    --load.in_flight_;
    if (slot.io.error != 0) {
      load.wrong_ = "block " + std::to_string(slot.at) + ": error " + std::to_string(slot.io.error);
    } else if (load.kind_ == blk::Io::Kind::read && !holds(slot.buffer.bytes().first(block), load.seed_, slot.at)) {
      load.wrong_ = "block " + std::to_string(slot.at) + " has other bytes";
    }
    if (slot.io.error == 0) load.submit(slot);
  }

  blk::Driver& driver_;
  bool poll_;
  std::vector<std::unique_ptr<Slot>> slots_;
  blk::Io::Kind kind_ = blk::Io::Kind::read;
  std::uint32_t seed_ = 0;
  std::size_t next_ = 0, in_flight_ = 0;
  std::string wrong_;
};

using IoKind = blk::Io::Kind;

TEST_P(Blk, SaysWhatItIs) {
  auto driver = start();
  EXPECT_GE(driver.capacity(), blocks * block) << "the disk is too small for these tests";
  EXPECT_GE(driver.queue_count(), 1u);
  EXPECT_EQ(driver.recoveries(), 0u);
  const auto id = driver.id();
  EXPECT_TRUE(id || id.error().code() == ENOTSUP) << why(id);
}

TEST_P(Blk, KeepsWhatIsWrittenOneByOne) {
  auto driver = start();
  auto buffer = driver.dma().allocate(block).value();
  fill(buffer.bytes(), 1, 0);
  ASSERT_TRUE(driver.write(blk::Sector{8}, buffer));
  ASSERT_TRUE(driver.flush());
  std::ranges::fill(buffer.bytes(), std::byte{0});
  ASSERT_TRUE(driver.read(blk::Sector{8}, buffer));
  EXPECT_TRUE(holds(buffer.bytes(), 1, 0));
}

TEST_P(Blk, KeepsWhatIsWrittenAtDepthByInterrupts) {
  auto driver = start({.queues = 2});
  Load load(driver, false);
  for (std::uint32_t seed = 1; seed <= 2; ++seed) {
    EXPECT_EQ(load.run(IoKind::write, seed), "");
    EXPECT_EQ(load.run(IoKind::read, seed), "");
  }
  EXPECT_EQ(driver.recoveries(), 0u);
}

TEST_P(Blk, KeepsWhatIsWrittenAtDepthByPolling) {
  auto driver = start({.queues = 2, .poll = true});
  Load load(driver, true);
  EXPECT_EQ(load.run(IoKind::write, 3), "");
  EXPECT_EQ(load.run(IoKind::read, 3), "");
  EXPECT_EQ(driver.recoveries(), 0u);
}

TEST_P(Blk, KeepsWhatIsWrittenOnEitherRing) {
  for (const bool packed : {false, true}) {
    auto driver = start({.packed = packed});
    Load load(driver, false);
    EXPECT_EQ(load.run(IoKind::write, 4 + packed), "");
    EXPECT_EQ(load.run(IoKind::read, 4 + packed), "");
  }
}

TEST_P(Blk, BeyondItsEndIsAnError) {
  auto driver = start();
  auto buffer = driver.dma().allocate(block).value();
  EXPECT_NE(code_of(driver.read(blk::Sector{driver.capacity() / 512}, buffer)), 0);
  EXPECT_TRUE(driver.read(blk::Sector{0}, buffer)) << "and works on";
}

TEST_P(Blk, ADriverThatEndsInTheMiddleOfItsWorkLeavesADiskForTheNext) {
  {
    auto driver = start();
    Load load(driver, false);
    ASSERT_EQ(load.run(IoKind::write, 6), "");
    load.start(IoKind::write, 6);  // the same again, so that what is on the disk does not depend on how far it gets
    auto ended = std::move(driver);  // resets the device, with all of it in flight
  }
  auto driver = start();
  Load load(driver, false);
  EXPECT_EQ(load.run(IoKind::read, 6), "");
}

TEST_P(Blk, AResetUnderADriverInTheMiddleOfItsWorkIsRecoveredFrom) {
  auto driver = start({.timeout = std::chrono::seconds(5)});
  Load load(driver, false);
  ASSERT_EQ(load.run(IoKind::write, 7), "");
  load.start(IoKind::write, 7);
  if (!handle().resettable()) {
    EXPECT_EQ(code_of(handle().reset()), ENOTSUP);
    EXPECT_EQ(load.finish(), "");
    return;
  }
  const auto reset = handle().reset();
  EXPECT_TRUE(reset) << why(reset);
  EXPECT_EQ(load.finish(), "");
  EXPECT_EQ(load.run(IoKind::read, 7), "");
}

TEST_P(Blk, ADiskThatIsOpenedAgainHasWhatWasWritten) {
  if (opened().is_local()) return;  // a disk in this process is made by opening it
  {
    auto driver = start();
    Load load(driver, false);
    ASSERT_EQ(load.run(IoKind::write, 8), "");
    ASSERT_TRUE(driver.flush());
  }
  opened().reopen();
  ASSERT_TRUE(opened().open());
  auto driver = start();
  Load load(driver, false);
  EXPECT_EQ(load.run(IoKind::read, 8), "");
}

class Example : public DriverTest {
 protected:
  example::Driver start(const example::Driver::Options& options = {}) {
    auto driver = example::Driver::start(handle(), options);
    EXPECT_TRUE(driver) << why(driver);
    return std::move(driver).value();
  }
};
INSTANTIATE_TEST_SUITE_P(, Example, ::testing::ValuesIn(only(Kind::example)), test_name);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Example);

TEST_P(Example, AddsOneByInterruptsAndByPolling) {
  for (const bool poll : {false, true}) {
    auto driver = start({.poll = poll});
    for (std::uint32_t value = 0; value < 200; ++value) {
      const auto answer = driver.increment(value);
      ASSERT_TRUE(answer) << why(answer);
      EXPECT_EQ(answer->result, value + 1);
    }
  }
}

TEST_P(Example, RefusesWhatIsAboveItsLimitAndTellsOfIt) {
  auto driver = start();
  if (!driver.has_limit()) return;  // its server was not given one
  const auto limit = driver.limit();
  ASSERT_TRUE(limit) << why(limit);
  std::optional<std::uint32_t> told;
  driver.on_event([&](const example::Event& event) { told = event.refused; });
  const auto answer = driver.increment(limit->value + 1);
  ASSERT_TRUE(answer) << why(answer);
  EXPECT_TRUE(answer->refused);
  const TimePoint end = Clock::system().now() + std::chrono::seconds(10);
  while (!told && Clock::system().now() < end) ASSERT_TRUE(driver.wait(std::chrono::seconds(1)));
  EXPECT_EQ(told, limit->value + 1);
}

TEST_P(Example, AResetInTheMiddleOfItsWorkEndsItAndTheNextDriverStarts) {
  {
    auto driver = start();
    std::deque<example::Call> calls(16);
    for (auto& call : calls) {
      call = {.value = 1, .done = [](example::Call&) {}};
      ASSERT_TRUE(driver.submit(call));
    }
    driver.publish();
    ASSERT_TRUE(driver.restart());
    for (const auto& call : calls) EXPECT_TRUE(call.error == ECANCELED || call.answer.result == 2);
    EXPECT_EQ(driver.increment(1).value().result, 2u);
  }
  if (handle().resettable()) {
    ASSERT_TRUE(handle().reset());
  }
  auto driver = start();
  EXPECT_EQ(driver.increment(41).value().result, 42u);
}

}  // namespace
}  // namespace outboard::drivers
