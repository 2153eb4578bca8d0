// The driver over a PCI function on a thread of its own; and the device with each of its queues on a thread of its own, so
// that refusals, buffers for events, changes of the limit, stops and resets meet.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <deque>
#include <future>
#include <optional>
#include <thread>

#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/devices/example/device.hpp>
#include <outboard/devices/example/driver.hpp>
#include <outboard/pci/local_handle.hpp>
#include <outboard/virtio_pci/function.hpp>
#include <outboard/virtio_pci/transport.hpp>
#include <tests/support/loop_thread.hpp>

namespace outboard::example {
namespace {

using std::chrono::milliseconds;
using testing::LoopThread;

struct Kind {
  const char* name;
  bool packed = false;
  bool poll = false;
  bool own_loops = false;  ///< each queue has one
};

class ExampleOverPci : public ::testing::TestWithParam<Kind> {
 protected:
  void start(const Device::Options& device_options = {}, Driver::Options options = {}) {
    auto opened = pci::LocalHandle::start(
        [this, device_options](Loop& loop, const Log& log) -> Result<std::unique_ptr<pci::Function>> {
          OUTBOARD_TRY(auto made, Device::create(device_options));
          device = made.get();
          device_loop = &loop;
          virtio_pci::Function::Options function_options;
          function_options.core.packed = GetParam().packed;
          if (GetParam().own_loops) {
            for (auto& each : loops) function_options.core.queue_loops.push_back(&each.emplace().loop());
          }
          OUTBOARD_TRY(auto created,
                       virtio_pci::Function::create(std::move(made), loop, log, std::move(function_options)));
          function = created.get();
          return created;
        },
        {});
    ASSERT_TRUE(opened) << opened.error().message();
    handle = std::move(*opened);
    auto transport = virtio_pci::Transport::open(*handle);
    ASSERT_TRUE(transport) << transport.error().message();
    options.poll = GetParam().poll;
    auto started = Driver::start(std::move(*transport), options);
    ASSERT_TRUE(started) << started.error().message();
    driver.emplace(std::move(*started));
    driver->on_event(
        [this](const Event& event) { accounted += std::uint64_t{event.missed} + (event.refused ? 1 : 0); });
  }

  /// Runs the driver until `done`.
  template <typename Done>
  void run_until(Done done) {
    while (!done()) {
      ASSERT_TRUE(driver->wait(GetParam().poll ? Duration(0) : milliseconds(10)));
      driver->poll();
    }
  }
  /// What was missed last is told by the next event that finds a buffer: so there are more refusals until all of them are
  /// accounted for, and never one too many. (A queue with a loop of its own may not have taken a new buffer yet.)
  void expect_accounted(std::uint64_t refused, std::uint32_t limit) {
    while (accounted != refused) {
      ASSERT_LT(accounted, refused);
      EXPECT_EQ(driver->increment(limit + 1).value(), (Answer{limit + 1, true}));
      ++refused;
      for (int i = 0; i < 10 && accounted != refused; ++i) {
        ASSERT_TRUE(driver->wait(milliseconds(1)));
        driver->poll();
      }
    }
  }
  /// Does something on the device's thread, and waits until it is done.
  void on_device(std::move_only_function<void()> task) {
    std::promise<void> done;
    device_loop->post([&] {
      task();
      done.set_value();
    });
    done.get_future().wait();
  }

  std::array<std::optional<LoopThread>, 2> loops;
  Device* device = nullptr;
  Loop* device_loop = nullptr;
  virtio_pci::Function* function = nullptr;
  std::unique_ptr<pci::LocalHandle> handle;
  std::optional<Driver> driver;
  std::uint64_t accounted = 0;  ///< refusals that events have told of, or said to be lost
};
INSTANTIATE_TEST_SUITE_P(, ExampleOverPci,
                         ::testing::Values(Kind{"split"}, Kind{"packed", true}, Kind{"split_polled", false, true},
                                           Kind{"packed_polled", true, true}, Kind{"split_loops", false, false, true},
                                           Kind{"packed_loops", true, false, true}),
                         [](const auto& kind) { return std::string(kind.param.name); });

/// A call that is sent again until the load has had enough.
struct Load {
  struct One : Call {
    Load* load = nullptr;
    bool in_flight = false;
  };

  Load(Driver& with, unsigned count, std::uint32_t limit_, unsigned total) : driver(with), limit(limit_), left(total) {
    for (unsigned i = 0; i < count; ++i) {
      One& one = calls.emplace_back();
      one.load = this;
      one.done = [](Call& call) {
        auto& self = static_cast<One&>(call);
        self.in_flight = false;
        self.load->ended(self);
      };
    }
  }
  void start() {
    for (One& one : calls) send(one);
    driver.publish();
  }
  void send(One& one) {
    if (left == 0) return;
    --left;
    // Every other one is refused.
    one.value = left % 2 == 0 ? limit - left % 100 : limit + 1 + left;
    EXPECT_TRUE(driver.submit(one));
    one.in_flight = true;
  }
  void ended(One& one) {
    ++finished;
    if (one.error != 0) {
      ++failed;
      return;
    }
    const bool refuse = one.value > limit;
    refused += refuse ? 1 : 0;
    EXPECT_EQ(one.answer, (refuse ? Answer{one.value, true} : Answer{one.value + 1, false}));
    send(one);
  }
  bool idle() const {
    return std::ranges::none_of(calls, [](const One& one) { return one.in_flight; });
  }

  Driver& driver;
  std::uint32_t limit;
  unsigned left;
  unsigned finished = 0, failed = 0;
  std::uint64_t refused = 0;
  std::deque<One> calls;
};

TEST_P(ExampleOverPci, TheCallThatWaitsDoesWhatItSays) {
  start({.limit = 0xfffffffe});
  for (const std::uint32_t value : {0U, 41U, 0xfffffffeU})
    EXPECT_EQ(driver->increment(value).value(), (Answer{value + 1, false}));
  EXPECT_EQ(driver->increment(0xffffffff).value(), (Answer{0xffffffff, true}));
  EXPECT_EQ(driver->limit().value(), (Limit{0xfffffffe, 0}));
  expect_accounted(1, 0xfffffffe);
}

TEST_P(ExampleOverPci, ABlockingCallFromACallbackIsRefused) {
  start();
  struct Nested : Call {
    Driver* driver = nullptr;
    std::optional<int> code;
  } call;
  call.driver = &*driver;
  call.done = [](Call& done) {
    auto& self = static_cast<Nested&>(done);
    const auto answer = self.driver->increment(1);
    self.code = answer ? 0 : answer.error().code();
  };
  ASSERT_TRUE(driver->submit(call));
  driver->publish();
  run_until([&] { return call.code.has_value(); });
  EXPECT_EQ(*call.code, EDEADLK);
}

TEST_P(ExampleOverPci, R_EX_4_D_EX_10_EveryRefusalIsReportedOrCountedAsMissed) {
  constexpr std::uint32_t limit = 1000;
  start({.limit = limit}, {.depth = 32, .events = 2});
  Load load(*driver, 32, limit, 10000);
  load.start();
  run_until([&] { return load.idle(); });
  EXPECT_EQ(load.finished, 10000u);
  EXPECT_EQ(load.failed, 0u);
  expect_accounted(load.refused, limit);
}

TEST_P(ExampleOverPci, D_EX_8_R_EX_7_LimitAndEpochBelongTogetherWhileTheyChange) {
  // set_limit() is always given the epoch that it begins, beyond what four bytes hold: a torn pair shows.
  constexpr std::uint64_t first = 0xfffffff0, changes = 500;
  start({.limit = 0});
  const spec::State state{.version = 1, .limit = 0, .epoch = first, .missed = 0, .reserved = 0};
  on_device([&] { EXPECT_TRUE(device->restore_state(as_bytes_of(state))); });
  std::atomic<bool> ended{false};
  std::thread operators([&] {
    for (std::uint64_t i = 1; i <= changes; ++i)
      on_device([&] { EXPECT_TRUE(device->set_limit(static_cast<std::uint32_t>(i))); });
    ended = true;
  });
  std::uint64_t last = first;
  unsigned told = 0;
  driver->on_limit([&](const Limit&) { ++told; });
  while (true) {
    const bool over = ended;
    const auto limit = driver->limit();
    if (!limit) {
      ASSERT_EQ(limit.error().code(), EAGAIN) << limit.error().message();
      continue;
    }
    EXPECT_EQ(limit->epoch, first + limit->value);
    EXPECT_GE(limit->epoch, last);
    last = limit->epoch;
    // D-EX-9: it only grows here, so what was read is accepted from now on.
    EXPECT_EQ(driver->increment(limit->value).value(), (Answer{limit->value + 1, false}));
    if (over) break;
  }
  operators.join();
  EXPECT_EQ(last, first + changes);
  run_until([&] { return told != 0; });
}

TEST_P(ExampleOverPci, D_EX_12_RestartsUnderLoadEndEveryCallOnce) {
  constexpr std::uint32_t limit = 1000;
  start({.limit = limit}, {.depth = 32, .events = 3});
  for (unsigned round = 0; round < 30; ++round) {
    Load load(*driver, 32, limit, 2000);
    load.start();
    run_until([&] { return load.finished >= round * 10; });
    ASSERT_TRUE(driver->restart());
    EXPECT_TRUE(load.idle());
    EXPECT_EQ(load.finished, 2000 - load.left);
    EXPECT_EQ(driver->increment(41).value(), (Answer{42, false}));
  }
  // Nothing of before the reset is counted after it.
  ASSERT_TRUE(driver->restart());
  accounted = 0;
  EXPECT_EQ(driver->increment(limit + 1).value(), (Answer{limit + 1, true}));
  expect_accounted(1, limit);
}

TEST_P(ExampleOverPci, D_EX_6_ADeviceThatBreaksInTheMiddleOfItIsWellAfterARestart) {
  constexpr std::uint32_t limit = 0x7fffffff;
  start({.limit = limit, .break_on = 13}, {.depth = 32});
  for (unsigned round = 0; round < 10; ++round) {
    Load load(*driver, 31, limit, 1000000);
    load.start();
    run_until([&] { return load.finished >= round * 20; });
    const auto answer = driver->increment(13);
    ASSERT_FALSE(answer);
    EXPECT_EQ(answer.error().code(), EIO);
    EXPECT_TRUE(load.idle());
    EXPECT_TRUE(driver->broken());
    ASSERT_TRUE(driver->restart());
    EXPECT_EQ(driver->increment(41).value(), (Answer{42, false}));
  }
}

TEST_P(ExampleOverPci, D_EX_13_ACaptureUnderLoadAccountsForEveryRefusal) {
  constexpr std::uint32_t limit = 1000;
  for (unsigned round = 0; round < 5; ++round) {
    accounted = 0;
    driver.reset();
    handle.reset();
    for (auto& each : loops) each.reset();
    start({.limit = limit}, {.depth = 32, .events = 2, .timeout = Duration(0)});
    Load load(*driver, 32, limit, 1000000);
    load.start();
    run_until([&] { return load.finished >= round * 50; });
    std::promise<Result<virtio::DeviceState>> promise;
    device_loop->post([&] {
      function->core().capture([&](Result<virtio::DeviceState> state) { promise.set_value(std::move(state)); });
    });
    const auto state = promise.get_future().get();
    ASSERT_TRUE(state) << state.error().message();
    // What was used before it came to rest.
    load.left = 0;
    while (driver->poll() != 0) {
    }
    driver->poll();
    spec::State own;
    ASSERT_EQ(state->device.value().size(), sizeof own);
    std::memcpy(&own, state->device->data(), sizeof own);
    EXPECT_EQ(accounted + own.missed, load.refused);
    EXPECT_EQ(state->queues.at(0).in_flight.size(), 0u);
    EXPECT_LE(state->queues.at(1).in_flight.size(), 2u);
    ASSERT_TRUE(driver->restart());
    EXPECT_TRUE(load.idle());
    EXPECT_EQ(driver->increment(41).value(), (Answer{42, false}));
  }
}

}  // namespace
}  // namespace outboard::example
