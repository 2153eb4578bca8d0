// A driver on one thread, the device's queue on another, and (for some) a back end on a third. Both sides sleep when
// there is nothing to do and are woken by notifications only: a barrier that is missing shows as a buffer that never
// comes back.

#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include <gtest/gtest.h>

#include <outboard/testing/plain_dma.hpp>
#include <outboard/virtio/driver_queue.hpp>
#include <tests/support/core_transport.hpp>
#include <tests/support/device_rig.hpp>
#include <tests/support/loop_thread.hpp>

namespace outboard::virtio {
namespace {

using testing::LoopThread;

/// A flag that one thread raises and another waits for.
class Bell {
 public:
  void ring() {
    const std::lock_guard lock(mutex_);
    rung_ = true;
    changed_.notify_one();
  }
  /// False after 60 seconds.
  bool wait() {
    std::unique_lock lock(mutex_);
    const bool rung = changed_.wait_for(lock, std::chrono::seconds(60), [this] { return rung_; });
    rung_ = false;
    return rung;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool rung_ = false;
};

/// Completes requests on a thread of its own, in bunches.
class Worker {
 public:
  ~Worker() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }
  void take(Request request) {
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(std::move(request));
    }
    changed_.notify_one();
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return ended_ || !requests_.empty(); });
      if (requests_.empty()) return;
      auto all = std::move(requests_);
      requests_.clear();
      lock.unlock();
      for (Request& request : all) request.complete();
      lock.lock();
    }
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Request> requests_;
  bool ended_ = false;
  std::thread thread_{[this] { run(); }};
};

struct Variant {
  const char* name;
  bool packed, event_idx, worker;
};

class TwoThreads : public ::testing::TestWithParam<Variant>, public TransportEvents {
 protected:
  static constexpr unsigned buffers = 4000;
  static constexpr std::uint16_t size = 16;

  void notify_queue(unsigned) override { interrupt_.ring(); }
  void notify_config() override {}

  void SetUp() override {
    data_ = *dma_.allocate(4096);
    device_.on_request = [this](Request request) {
      const auto number = request.read<le32>();
      if (!number) return request.violation(number.error());
      if (const auto done = request.write(le32{~std::uint32_t{*number}}); !done) return request.violation(done.error());
      if (GetParam().worker) return worker_.take(std::move(request));
      request.complete();
    };
    core_ = DeviceCore::create(device_, map_, control_, *this,
                               {.packed = GetParam().packed, .queue_loops = {&queue_thread_.loop()}})
                .value();
    transport_.emplace(*core_, control_, dma_);
    Features wanted{Feature::indirect_desc};
    if (GetParam().packed) wanted.set(Feature::ring_packed);
    if (GetParam().event_idx) wanted.set(Feature::event_idx);
    const auto agreed = negotiate(*transport_, wanted);
    ASSERT_TRUE(agreed);
    queue_ = DriverQueue::create(*transport_, 0, *agreed, {.size = size}).value();
    for (const auto& mapping : dma_.mappings()) ASSERT_TRUE(map_.map(mapping));
    ASSERT_TRUE(start_device(*transport_));
  }

  void TearDown() override {
    bool stopped = false;
    core_->stop(StopMode::drain, [&](const Status&) { stopped = true; });
    EXPECT_TRUE(control_.run_until([&] { return stopped; }));
  }

  void submit(std::uint32_t number) {
    std::byte* const at = data_.data() + 16 * std::size_t{number % size};
    const le32 value = number;
    std::memcpy(at, &value, sizeof value);
    const memory::Iova address = data_.iova() + 16 * std::uint64_t{number % size};
    const Element readable[] = {{address, 4}}, writable[] = {{address + 8, 4}};
    ASSERT_TRUE(queue_->add(readable, writable, at));
  }
  void check(void* cookie, std::uint32_t length) {
    le32 sent, got;
    std::memcpy(&sent, cookie, 4);
    std::memcpy(&got, static_cast<std::byte*>(cookie) + 8, 4);
    ASSERT_EQ(length, 4U);
    ASSERT_EQ(got, ~std::uint32_t{sent});
  }

  testing::ManualLoop control_;
  LoopThread queue_thread_;
  testing::PlainDma dma_;
  memory::AddressMap map_{control_};
  memory::DmaBuffer data_;
  testing::ScriptedDevice device_{Identity{.device_id = 63, .queue_sizes = {size}}};
  Worker worker_;
  Bell interrupt_;
  std::unique_ptr<DeviceCore> core_;
  std::optional<testing::CoreTransport> transport_;
  std::optional<DriverQueue> queue_;
};

TEST_P(TwoThreads, NoBufferIsLostAndNoWakeUp) {
  std::uint32_t sent = 0, received = 0;
  std::uint32_t outstanding = 0;
  while (received < buffers) {
    // As many as this turn of the count says, so that both sides fall asleep often. A slot of data is free again when
    // all are back.
    if (outstanding == 0) {
      const std::uint32_t bunch = 1 + sent % 7;
      for (std::uint32_t i = 0; i < bunch && sent < buffers; ++i, ++outstanding) submit(sent++);
      queue_->publish();
    }
    const auto used = queue_->next_used();
    ASSERT_TRUE(used);
    if (*used) {
      check((*used)->cookie, (*used)->length);
      ++received;
      --outstanding;
      continue;
    }
    if (queue_->enable_interrupts()) continue;
    ASSERT_TRUE(interrupt_.wait()) << received << " of " << sent << " came back";
  }
  EXPECT_FALSE(core_->broken());
}

INSTANTIATE_TEST_SUITE_P(
    Rings, TwoThreads,
    ::testing::Values(Variant{"Split", false, false, false}, Variant{"SplitEventIndex", false, true, false},
                      Variant{"SplitWorker", false, true, true}, Variant{"Packed", true, false, false},
                      Variant{"PackedEventIndex", true, true, false}, Variant{"PackedWorker", true, true, true}),
    [](const auto& variant) { return variant.param.name; });

/// Resets while buffers are on their way, again and again.
TEST_P(TwoThreads, AResetWaitsForTheQueuesThread) {
  for (unsigned round = 0; round < 20; ++round) {
    for (std::uint32_t i = 0; i < 8; ++i) submit(i);
    queue_->publish();
    core_->write_status(0);
    ASSERT_TRUE(control_.run_until([&] { return core_->status() == 0; }));
    const std::string before(reinterpret_cast<const char*>(data_.data()), 4096);
    queue_->take_in_flight();
    queue_.reset();
    bool cleared = false;
    map_.clear([&](const Status&) { cleared = true; });
    ASSERT_TRUE(control_.run_until([&] { return cleared; }));
    EXPECT_EQ(before, std::string(reinterpret_cast<const char*>(data_.data()), 4096));

    const auto agreed = negotiate(*transport_, GetParam().packed ? Features{Feature::ring_packed} : Features{});
    ASSERT_TRUE(agreed);
    queue_ = DriverQueue::create(*transport_, 0, *agreed, {.size = size}).value();
    for (const auto& mapping : dma_.mappings()) ASSERT_TRUE(map_.map(mapping));
    ASSERT_TRUE(start_device(*transport_));
  }
  EXPECT_FALSE(core_->broken());
}

}  // namespace
}  // namespace outboard::virtio
