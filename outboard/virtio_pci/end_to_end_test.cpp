// A device behind a function, driven through a handle by the transport and a driver's queue: all of it in one process and,
// here, on one thread that the test pumps.

#include <gtest/gtest.h>

#include <array>

#include <outboard/pci/local_handle.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/virtio/spec.hpp>
#include <outboard/virtio_pci/function.hpp>
#include <outboard/virtio_pci/transport.hpp>
#include <tests/support/increment.hpp>
#include <tests/support/probe_device.hpp>

namespace outboard::virtio_pci {
namespace {

using testing::Increment;
using testing::IncrementCaller;
using virtio::DriverQueue;
using virtio::Feature;
using virtio::Features;

struct Variant {
  bool packed, event_idx, in_order, indirect;
};

Features wanted(const Variant& variant) {
  Features features;
  if (variant.packed) features.set(Feature::ring_packed);
  if (variant.event_idx) features.set(Feature::event_idx);
  if (variant.in_order) features.set(Feature::in_order);
  if (variant.indirect) features.set(Feature::indirect_desc);
  return features.with(Feature::ring_reset);
}

/// A pumped function and its transport.
class Pumped {
 public:
  explicit Pumped(std::unique_ptr<virtio::Device> device, Function::Options options = {}) {
    auto made = Function::create(std::move(device), loop, Log(), std::move(options)).value();
    function = made.get();
    handle = pci::LocalHandle::over(std::move(made), [this] { loop.run_until_idle(); }, "local").value();
    transport = Transport::open(*handle, {.wait = [this](Duration) { loop.run_until_idle(); }}).value();
  }

  testing::ManualLoop loop;
  Function* function = nullptr;
  std::unique_ptr<pci::LocalHandle> handle;
  std::unique_ptr<Transport> transport;
};

class EndToEnd : public ::testing::TestWithParam<Variant> {
 protected:
  EndToEnd()
      : pumped(std::make_unique<Increment>(2),
               {.core = {.packed = GetParam().packed, .in_order = GetParam().in_order}}) {}

  DriverQueue start(std::optional<unsigned> vector = {}) {
    const auto agreed = virtio::negotiate(*pumped.transport, wanted(GetParam()));
    EXPECT_TRUE(agreed);
    EXPECT_EQ(agreed->has(Feature::in_order), GetParam().in_order);
    auto queue =
        DriverQueue::create(*pumped.transport, 1, *agreed, {.size = 16, .vector = vector, .direct_elements = 1});
    EXPECT_TRUE(queue);
    EXPECT_TRUE(virtio::start_device(*pumped.transport));
    return std::move(*queue);
  }

  Pumped pumped;
};

INSTANTIATE_TEST_SUITE_P(, EndToEnd,
                         ::testing::Values(Variant{false, false, false, false}, Variant{false, true, false, true},
                                           Variant{false, true, true, false}, Variant{true, false, false, false},
                                           Variant{true, true, false, true}, Variant{true, true, true, false}),
                         [](const auto& each) {
                           const Variant& v = each.param;
                           return std::string(v.packed ? "Packed" : "Split") + (v.event_idx ? "EventIdx" : "") +
                                  (v.in_order ? "InOrder" : "") + (v.indirect ? "Indirect" : "");
                         });

TEST_P(EndToEnd, PolledRequestsAreAnswered) {
  DriverQueue queue = start();
  IncrementCaller caller(queue, pumped.transport->dma());
  for (std::uint32_t number = 0; number < 100; ++number) {
    ASSERT_TRUE(caller.add(0, number));
    queue.publish();
    pumped.loop.run_until_idle();
    const auto used = queue.next_used();
    ASSERT_TRUE(used && *used) << number;
    EXPECT_EQ((*used)->length, 4U);
    EXPECT_EQ(caller.answer(0), number + 1);
  }
  EXPECT_TRUE(pumped.transport->reset());
}

TEST_P(EndToEnd, ABatchIsAnsweredAndAnnouncedOnce) {
  EXPECT_EQ(pumped.transport->enable_vectors(2).value(), 2U);
  DriverQueue queue = start(1U);
  ASSERT_EQ(queue.vector(), 1U);
  IncrementCaller caller(queue, pumped.transport->dma());
  const EventFd& interrupt = pumped.transport->vector(1);
  for (std::uint32_t turn = 0; turn < 50; ++turn) {
    ASSERT_FALSE(queue.enable_interrupts());
    for (std::uint32_t slot = 0; slot < 8; ++slot) ASSERT_TRUE(caller.add(slot, 10 * turn + slot));
    queue.publish();
    pumped.loop.run_until_idle();
    EXPECT_EQ(interrupt.drain(), 1U) << turn;
    queue.disable_interrupts();
    unsigned count = 0;
    while (const auto used = queue.next_used().value()) {
      const std::uint32_t slot = caller.slot_of(*used);
      EXPECT_EQ(caller.answer(slot), 10 * turn + slot + 1);
      ++count;
    }
    EXPECT_EQ(count, 8U);
  }
  EXPECT_TRUE(pumped.transport->reset());
}

TEST_P(EndToEnd, IntxServesWhereThereIsNoMsix) {
  // As a driver under pci=nomsi does: one line for everything, acknowledged by reading the ISR.
  auto intx = pumped.handle->enable_interrupts(pci::InterruptKind::intx, 1);
  ASSERT_TRUE(intx);
  DriverQueue queue = start();
  IncrementCaller caller(queue, pumped.transport->dma());
  for (std::uint32_t turn = 0; turn < 5; ++turn) {
    queue.enable_interrupts();
    ASSERT_TRUE(caller.add(0, turn));
    queue.publish();
    pumped.loop.run_until_idle();
    EXPECT_EQ(intx->vector(0).drain(), 1U);
    EXPECT_EQ(pumped.transport->acknowledge_interrupt().value(), spec::isr::queue);
    EXPECT_TRUE(intx->unmask());
    EXPECT_TRUE(queue.next_used().value());
  }
  EXPECT_TRUE(pumped.transport->reset());
}

TEST_P(EndToEnd, AQueueCanBeResetAndMadeAnew) {
  DriverQueue queue = start();
  for (int turn = 0; turn < 3; ++turn) {
    IncrementCaller caller(queue, pumped.transport->dma());
    ASSERT_TRUE(caller.add(0, 1));
    queue.publish();
    pumped.loop.run_until_idle();
    EXPECT_EQ(caller.answer(0), 2U);
    ASSERT_TRUE(pumped.transport->reset_queue(1));
    EXPECT_EQ(queue.take_in_flight().size(), 1U);
    queue = DriverQueue::create(*pumped.transport, 1, wanted(GetParam()).with(Feature::version_1), {.size = 8}).value();
  }
  EXPECT_TRUE(pumped.transport->reset());
}

TEST(Transport, KnowsTheDevice) {
  Pumped pumped(std::make_unique<testing::ProbeDevice>());
  EXPECT_EQ(pumped.transport->device_id(), 63U);
  EXPECT_EQ(pumped.transport->queue_count().value(), 2);
  EXPECT_EQ(pumped.transport->queue_max_size(1).value(), 4);
  EXPECT_EQ(pumped.transport->queue_max_size(2).value(), 0);
  EXPECT_EQ(pumped.transport->config_size(), 16U);
}

TEST(Transport, ReadsAndWritesDeviceConfiguration) {
  auto probe = std::make_unique<testing::ProbeDevice>();
  testing::ProbeDevice& device = *probe;
  Pumped pumped(std::move(probe));
  le64 wide;
  ASSERT_TRUE(pumped.transport->read_config(8, as_writable_bytes_of(wide)));
  EXPECT_EQ(wide, 0x100f'0e0d'0c0b'0a09U);
  std::array<std::byte, 7> odd{};
  ASSERT_TRUE(pumped.transport->read_config(3, odd));
  for (unsigned i = 0; i < 7; ++i) EXPECT_EQ(odd[i], std::byte(4 + i));
  EXPECT_EQ(pumped.transport->read_config(12, as_writable_bytes_of(wide)).error().code(), EINVAL);
  EXPECT_EQ(pumped.transport->read_config(UINT32_MAX, odd).error().code(), EINVAL);

  ASSERT_TRUE(virtio::negotiate(*pumped.transport, {}));
  const le16 two = 1;
  EXPECT_TRUE(pumped.transport->write_config(2, as_bytes_of(two)));
  EXPECT_EQ(device.config_writes, (std::vector<std::pair<std::uint32_t, std::size_t>>{{2, 2}}));
}

TEST(Transport, AConfigurationChangeInterruptsOnItsVector) {
  auto probe = std::make_unique<testing::ProbeDevice>();
  testing::ProbeDevice& device = *probe;
  Pumped pumped(std::move(probe));
  ASSERT_EQ(pumped.transport->enable_vectors(8).value(), 3U) << "no more than the function has";
  ASSERT_TRUE(virtio::negotiate(*pumped.transport, {}));
  ASSERT_TRUE(pumped.transport->set_config_vector(2));
  EXPECT_EQ(pumped.transport->set_config_vector(3).error().code(), EINVAL);
  ASSERT_TRUE(virtio::start_device(*pumped.transport));
  device.change_config(0, std::byte{7});
  EXPECT_EQ(pumped.transport->vector(2).drain(), 1U);
}

TEST(Transport, AResetWaitsForTheDevice) {
  auto probe = std::make_unique<testing::ProbeDevice>();
  testing::ProbeDevice& device = *probe;
  device.keep = device.hold_on_stop = true;
  Pumped pumped(std::move(probe));
  ASSERT_TRUE(virtio::negotiate(*pumped.transport, {}));
  auto queue = DriverQueue::create(*pumped.transport, 0, Features{Feature::version_1}, {}).value();
  ASSERT_TRUE(virtio::start_device(*pumped.transport));
  IncrementCaller caller(queue, pumped.transport->dma());
  ASSERT_TRUE(caller.add(0, 1));
  queue.publish();
  pumped.loop.run_until_idle();
  ASSERT_EQ(device.kept.size(), 1U);

  pumped.loop.post([&] { pumped.loop.post([&] { device.release(); }); });
  EXPECT_TRUE(pumped.transport->reset());
  EXPECT_EQ(pumped.transport->status().value(), 0);
}

}  // namespace
}  // namespace outboard::virtio_pci
