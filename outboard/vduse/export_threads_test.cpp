// A device behind VDUSE whose queues run on threads of their own, waiting or polling, while messages come on another.

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <mutex>

#include <outboard/base/internal/run_on.hpp>
#include <outboard/memory/fault_guard.hpp>
#include <outboard/vduse/export.hpp>
#include <outboard/virtio/spec.hpp>
#include <tests/support/device_rig.hpp>
#include <tests/support/fake_vduse.hpp>
#include <tests/support/loop_thread.hpp>

namespace outboard::vduse {
namespace {

namespace bit = virtio::spec::status;
using outboard::testing::FakeVduse;
using outboard::testing::HandDriver;
using outboard::testing::LoopThread;
using outboard::testing::ScriptedDevice;

constexpr unsigned queue_count = 4;
constexpr std::uint8_t features_ok = bit::acknowledge | bit::driver | bit::features_ok;
constexpr std::uint8_t running = features_ok | bit::driver_ok;

/// Echoes, or keeps what comes, on any thread.
class ThreadedDevice final : public virtio::Device {
 public:
  std::atomic<bool> keeps{false};

  virtio::Identity identity() const override {
    return {.device_id = 2, .queue_sizes = std::vector<std::uint16_t>(queue_count, 16), .config_size = 16};
  }
  void handle(virtio::Request request) override {
    if (!keeps.load()) return ScriptedDevice::echo(std::move(request));
    const std::lock_guard lock(mutex_);
    kept_.push_back(std::move(request));
    arrived_.set_value();
  }
  /// Kept ones are with a back end that does not let go of them.
  void stop_queue(unsigned, virtio::StopMode, Completion done) override { done(); }

  std::future<void> arrival() { return arrived_.get_future(); }
  void finish_kept() {
    std::vector<virtio::Request> kept;
    {
      const std::lock_guard lock(mutex_);
      kept.swap(kept_);
    }
    for (auto& request : kept) request.complete();
  }

 private:
  std::mutex mutex_;
  std::vector<virtio::Request> kept_;
  std::promise<void> arrived_;
};

struct Kind {
  const char* name;
  bool packed;
  bool poll;
};

class OnThreads : public ::testing::TestWithParam<Kind> {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(memory::install_fault_guard()); }

  void SetUp() override {
    run_on(control.loop(), [&] {
      Export::Options options;
      options.core.packed = GetParam().packed;
      options.core.poll = GetParam().poll;
      options.core.stop_timeout = timeout;
      for (unsigned queue = 0; queue < queue_count; ++queue)
        options.core.queue_loops.push_back(&queue_threads[queue % queue_threads.size()].loop());
      auto owned = std::make_unique<ThreadedDevice>();
      device = owned.get();
      exported = Export::create(std::move(owned), control.loop(), std::move(options)).value();
      kernel = std::make_unique<FakeVduse>(exported->shape("threads"));
      ASSERT_TRUE(exported->start(kernel->open().value()));
    });
    ASSERT_TRUE(kernel->attach());
  }
  void TearDown() override {
    device->finish_kept();
    shut_down();
    run_on(control.loop(), [&] { exported.reset(); });
  }
  /// 0, or what went wrong.
  int shut_down() {
    std::promise<int> ended;
    run_on(control.loop(), [&] {
      exported->shut_down([&](const Status& stopped) { ended.set_value(stopped ? 0 : stopped.error().code()); });
    });
    return ended.get_future().get();
  }

  bool advance(std::uint8_t status) const {
    const auto message = kernel->set_status(status);
    return message.wait() && message.ok();
  }
  /// A driver that wants every interrupt.
  void start_driver() {
    for (const std::uint8_t status : {std::uint8_t{0}, bit::acknowledge, std::uint8_t{bit::acknowledge | bit::driver}})
      ASSERT_TRUE(advance(status));
    std::uint64_t offered = 0;
    run_on(control.loop(), [&] { offered = exported->core().offered().low(); });
    kernel->set_driver_features(offered & ~(UINT64_C(1) << static_cast<unsigned>(virtio::Feature::event_idx)));
    ASSERT_TRUE(advance(features_ok));
    drivers.clear();
    kernel->unmap_all();
    for (unsigned queue = 0; queue < queue_count; ++queue) {
      const std::uint64_t base = (queue + 1) * UINT64_C(0x10000000);
      auto memory = kernel->map({.start = base, .size = HandDriver::memory_size});
      drivers.push_back(std::make_unique<HandDriver>(HandDriver::Setup{
          .packed = GetParam().packed, .size = 16, .base = memory::Iova{base}, .memory = std::move(memory)}));
      kernel->place_queue(queue, *drivers.back());
    }
    ASSERT_TRUE(advance(running));
  }

  /// Where the device polls nobody notifies it.
  void publish(unsigned queue) {
    drivers[queue]->chain().readable("echo").writable(4).publish();
    if (!GetParam().poll) kernel->kick(queue);
  }
  /// Waits for the interrupts that go with it.
  ::testing::AssertionResult wait_for_used(unsigned queue, unsigned count) {
    while (true) {
      const auto seen = kernel->interrupts(queue);
      if (drivers[queue]->used_count() >= count) break;
      if (!kernel->wait_for_interrupts(queue, seen + 1))
        return ::testing::AssertionFailure() << "queue " << queue << ": " << drivers[queue]->used_count() << " of "
                                             << count << " buffers used, and no interrupt comes";
    }
    if (drivers[queue]->take_used().size() == count) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "more than were asked for";
  }
  ::testing::AssertionResult works() {
    for (unsigned queue = 0; queue < queue_count; ++queue) publish(queue);
    for (unsigned queue = 0; queue < queue_count; ++queue) {
      if (auto used = wait_for_used(queue, 1); !used) return used;
    }
    return ::testing::AssertionSuccess();
  }

  Duration timeout = std::chrono::minutes(1);  ///< for a queue that comes to rest
  LoopThread control;
  std::array<LoopThread, 2> queue_threads;
  ThreadedDevice* device = nullptr;
  std::unique_ptr<Export> exported;
  std::unique_ptr<FakeVduse> kernel;
  std::vector<std::unique_ptr<HandDriver>> drivers;
};

INSTANTIATE_TEST_SUITE_P(Kinds, OnThreads,
                         ::testing::Values(Kind{"Split", false, false}, Kind{"Packed", true, false},
                                           Kind{"SplitPolling", false, true}, Kind{"PackedPolling", true, true}),
                         [](const auto& each) { return each.param.name; });

TEST_P(OnThreads, AllQueuesAreServedAndEveryAnswerIsToldOf) {
  start_driver();
  for (unsigned round = 0; round < 200; ++round) {
    for (unsigned queue = 0; queue < queue_count; ++queue) {
      for (unsigned i = 0; i < 4; ++i) publish(queue);
    }
    for (unsigned queue = 0; queue < queue_count; ++queue) ASSERT_TRUE(wait_for_used(queue, 4)) << round;
  }
}

TEST_P(OnThreads, MessagesAreAnsweredMeanwhile) {
  start_driver();
  for (unsigned round = 0; round < 100; ++round) {
    for (unsigned queue = 0; queue < queue_count; ++queue) publish(queue);
    const auto update = kernel->update_iotlb();
    ASSERT_TRUE(update.wait() && update.ok());
    for (unsigned queue = 0; queue < queue_count; ++queue) ASSERT_TRUE(wait_for_used(queue, 1)) << round;
  }
}

TEST_P(OnThreads, AResetInTheMiddleOfItAndADriverAfterIt) {
  for (unsigned round = 0; round < 20; ++round) {
    start_driver();
    for (unsigned queue = 0; queue < queue_count; ++queue) {
      for (unsigned i = 0; i < 8; ++i) publish(queue);
    }
  }
  start_driver();
  EXPECT_TRUE(works());
}

TEST_P(OnThreads, AQueueTellsWhereItStoppedAndTheOthersGoOn) {
  start_driver();
  for (unsigned round = 0; round < 5; ++round) ASSERT_TRUE(works());
  const auto state = kernel->get_vq_state(1);
  ASSERT_TRUE(state.wait() && state.ok());
  EXPECT_EQ(
      GetParam().packed ? state.queue_state().state.packed.last_avail_idx : state.queue_state().state.split.avail_index,
      GetParam().packed ? 10 : 5);
  for (const unsigned queue : {0U, 2U, 3U}) {
    publish(queue);
    EXPECT_TRUE(wait_for_used(queue, 1));
  }
}

TEST_P(OnThreads, AQueueIsSwitchedOffAndOn) {
  start_driver();
  for (unsigned round = 0; round < 20; ++round) {
    publish(2);
    for (const bool ready : {false, true}) {
      const auto message = kernel->set_vq_ready(2, ready);
      ASSERT_TRUE(message.wait() && message.ok());
    }
    kernel->kick(2);
    ASSERT_TRUE(wait_for_used(2, 1)) << round;
  }
}

/// One that gives up at once.
class OnThreadsInHaste : public OnThreads {
 protected:
  OnThreadsInHaste() { timeout = std::chrono::milliseconds(1); }
};
INSTANTIATE_TEST_SUITE_P(Kinds, OnThreadsInHaste,
                         ::testing::Values(Kind{"Split", false, false}, Kind{"PackedPolling", true, true}),
                         [](const auto& each) { return each.param.name; });

TEST_P(OnThreadsInHaste, AnAnswerThatComesWhenEverybodyHasStoppedWaitingHurtsNobody) {
  start_driver();
  ASSERT_TRUE(works());
  device->keeps = true;
  auto arrived = device->arrival();
  publish(0);
  arrived.wait();
  EXPECT_EQ(shut_down(), ETIMEDOUT);
  const auto before = kernel->interrupts(0);
  device->finish_kept();
  for (auto& thread : queue_threads) run_on(thread.loop(), [] {});  // which carries it
  EXPECT_EQ(kernel->interrupts(0), before) << "the node is closed";
}

}  // namespace
}  // namespace outboard::vduse
