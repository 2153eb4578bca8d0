// The same as end_to_end_test.cpp with the device on a thread of its own: lost wake-ups show here as a test that does not
// end.

#include <poll.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <thread>

#include <gtest/gtest.h>

#include <outboard/base/reactor.hpp>
#include <outboard/pci/local_handle.hpp>
#include <outboard/virtio_pci/function.hpp>
#include <outboard/virtio_pci/transport.hpp>
#include <tests/support/increment.hpp>

namespace outboard::virtio_pci {
namespace {

using testing::Increment;
using testing::IncrementCaller;
using virtio::DriverQueue;
using virtio::Feature;
using virtio::Features;

struct Variant {
  bool packed;
  bool event_idx;
};

class Threaded : public ::testing::TestWithParam<Variant> {
 protected:
  void open(bool poll, unsigned queues) {
    const Function::Options options{.core = {.packed = GetParam().packed, .poll = poll}, .shared_doorbells = poll};
    auto factory = Function::factory(
        [queues](Loop&, Log) -> Result<std::unique_ptr<virtio::Device>> { return std::make_unique<Increment>(queues); },
        options);
    connect(std::move(factory));
  }
  void connect(pci::FunctionFactory factory) {
    transport.reset();
    handle = pci::LocalHandle::start(std::move(factory), {}).value();
    transport = Transport::open(*handle).value();
    Features features;
    if (GetParam().packed) features.set(Feature::ring_packed);
    if (GetParam().event_idx) features.set(Feature::event_idx);
    agreed = virtio::negotiate(*transport, features).value();
  }

  /// Takes what is used, waiting for an interrupt when nothing is. Each interrupt is handled, also one that comes after
  /// its buffer has been taken: a line that is not unmasked again does not fire for the next buffer.
  template <typename Handle>
  static DriverQueue::Used next(DriverQueue& queue, const EventFd& interrupt, Handle handle_interrupt) {
    while (true) {
      if (const auto used = queue.next_used().value()) return *used;
      if (queue.enable_interrupts()) continue;
      pollfd waiting{interrupt.get(), POLLIN, 0};
      if (::poll(&waiting, 1, 30'000) != 1) throw std::runtime_error("a wake-up was lost");
      interrupt.drain();
      handle_interrupt();
    }
  }
  static DriverQueue::Used next(DriverQueue& queue, const EventFd& interrupt) {
    return next(queue, interrupt, [] {});
  }

  std::unique_ptr<pci::LocalHandle> handle;
  std::unique_ptr<Transport> transport;
  Features agreed;
};

INSTANTIATE_TEST_SUITE_P(, Threaded,
                         ::testing::Values(Variant{false, false}, Variant{false, true}, Variant{true, false},
                                           Variant{true, true}),
                         [](const auto& each) {
                           return std::string(each.param.packed ? "Packed" : "Split") +
                                  (each.param.event_idx ? "EventIdx" : "");
                         });

TEST_P(Threaded, NoWakeUpIsLostAtAnyDepth) {
  open(false, 1);
  ASSERT_GE(transport->enable_vectors(2).value(), 2U);
  DriverQueue queue = DriverQueue::create(*transport, 0, agreed, {.size = 64, .vector = 1}).value();
  ASSERT_TRUE(virtio::start_device(*transport));
  IncrementCaller caller(queue, transport->dma());
  for (const std::uint32_t depth : {1U, 3U, 16U}) {
    std::uint32_t sent = 0, received = 0;
    std::array<std::uint32_t, IncrementCaller::slots> numbers{};
    const auto send = [&](std::uint32_t slot) {
      numbers[slot] = sent++;
      ASSERT_TRUE(caller.add(slot, numbers[slot]));
    };
    for (std::uint32_t slot = 0; slot < depth; ++slot) send(slot);
    queue.publish();
    while (received < 3000) {
      const auto used = next(queue, transport->vector(1));
      const std::uint32_t slot = caller.slot_of(used);
      ASSERT_EQ(caller.answer(slot), numbers[slot] + 1);
      ++received;
      send(slot);
      queue.publish();
    }
    for (std::uint32_t left = 0; left < depth; ++left) next(queue, transport->vector(1));
  }
  EXPECT_TRUE(transport->reset());
}

TEST_P(Threaded, PolledBothSidesWithDoorbellsInMemory) {
  open(true, 2);
  DriverQueue queue = DriverQueue::create(*transport, 1, agreed, {.size = 16}).value();
  ASSERT_TRUE(virtio::start_device(*transport));
  IncrementCaller caller(queue, transport->dma());
  for (std::uint32_t number = 0; number < 100; ++number) {
    ASSERT_TRUE(caller.add(0, number));
    queue.publish();
    // Polling, but kind to a machine that has one processor for both.
    while (!queue.next_used().value()) std::this_thread::yield();
    ASSERT_EQ(caller.answer(0), number + 1);
  }
  EXPECT_TRUE(transport->reset());
}

TEST_P(Threaded, AQueueMayHaveALoopOfItsOwn) {
  const auto queue_loop = Reactor::create().value();
  std::thread runner([&] { EXPECT_TRUE(queue_loop->run()); });
  for (const bool intx : {false, true}) {
    auto factory = Function::factory(
        [](Loop&, Log) -> Result<std::unique_ptr<virtio::Device>> { return std::make_unique<Increment>(2); },
        {.core = {.packed = GetParam().packed, .queue_loops = {nullptr, queue_loop.get()}}});
    connect(std::move(factory));
    // One line for everything is raised on the control loop, whichever loop has used a buffer.
    std::optional<pci::InterruptSet> line;
    if (intx) line = handle->enable_interrupts(pci::InterruptKind::intx, 1).value();
    const EventFd& interrupt = intx ? line->vector(0) : (transport->enable_vectors(2).value(), transport->vector(1));
    DriverQueue queue = DriverQueue::create(*transport, 1, agreed, {.size = 16, .vector = 1}).value();
    ASSERT_TRUE(virtio::start_device(*transport));
    IncrementCaller caller(queue, transport->dma());
    const auto handle_interrupt = [&] {
      if (!intx) return;
      EXPECT_TRUE(transport->acknowledge_interrupt());
      EXPECT_TRUE(line->unmask());
    };
    for (std::uint32_t number = 0; number < 300; ++number) {
      ASSERT_TRUE(caller.add(0, number));
      queue.publish();
      next(queue, interrupt, handle_interrupt);
      ASSERT_EQ(caller.answer(0), number + 1);
    }
    EXPECT_TRUE(transport->reset());
    line.reset();
  }
  transport.reset();
  handle.reset();
  queue_loop->stop();
  runner.join();
}

}  // namespace
}  // namespace outboard::virtio_pci
