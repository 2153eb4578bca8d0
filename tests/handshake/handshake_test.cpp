// The hand-shake of a driver that goes to sleep and a device that goes to sleep, in every order that a memory model allows:
// the true rings of both sides run on a simulated machine, which has them step by step and looks for a wake-up that is lost.
// Each full fence is then taken away, and a wake-up must be lost: rows S7, S12, S16, P5, P12 and P16 of
// docs/memory-ordering.md. What a missing release or acquire would do to the rest shows too: a ring that breaks.

#include <algorithm>
#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/testing/fake_transport.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <outboard/virtio/driver_queue.hpp>
#include <outboard/virtio/internal/device_queue.hpp>
#include <outboard/virtio/ring.hpp>
#include <tests/handshake/machine.hpp>

namespace outboard::handshake {
namespace {

using testing::ManualLoop;
using virtio::DeviceQueue;
using virtio::DriverQueue;

struct Format {
  bool packed = false;
  bool event_idx = false;
};

/// Completes what it gets at once, or keeps it.
class Worker final : public virtio::Device {
 public:
  virtio::Identity identity() const override { return {.device_id = 63, .queue_sizes = {4}}; }
  void handle(virtio::Request request) override {
    ++taken;
    if (keeps) {
      kept.push_back(std::move(request));
    } else {
      request.complete();
    }
  }

  bool keeps = false;
  unsigned taken = 0;
  std::deque<virtio::Request> kept;
};

/// A driver and a device on one ring, after one buffer has gone through it: both know what the other was told last.
class World final : public virtio::QueueOwner {
 public:
  explicit World(const Format& format) {
    virtio::Features features{virtio::Feature::version_1};
    if (format.packed) features.set(virtio::Feature::ring_packed);
    if (format.event_idx) features.set(virtio::Feature::event_idx);
    driver.emplace(DriverQueue::create(transport, 0, features, {.size = 4, .indirect = false}).value());
    buffer = transport.space.allocate(64).value();
    driver->disable_interrupts();
    for (const auto& mapping : transport.space.mappings()) EXPECT_TRUE(map.map(mapping));
    const virtio::QueueSetup& setup = transport.queue(0).setup;
    queue = std::make_shared<DeviceQueue>(
        DeviceQueue::Environment{.device = &device, .owner = this, .memory = &map, .loop = &loop, .control = &loop});
    queue->start({.size = setup.size,
                  .descriptors = setup.descriptors,
                  .driver = setup.driver,
                  .device = setup.device,
                  .enabled = true},
                 {.packed = format.packed, .event_idx = format.event_idx, .chain_limit = 4});
    loop.run_until_idle();
    add();
    look();
    take();
    interrupts = 0;
  }
  ~World() override { queue->abandon(); }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // The driver.
  void add() {
    const virtio::Element element{buffer.iova(), 64};
    if (!driver->add({}, std::span(&element, 1), this)) broken = true;
    ++added;
    if (driver->publish()) ++kicks;
  }
  void take() {
    while (true) {
      const auto used = driver->next_used();
      if (!used) {
        broken = true;
        return;
      }
      if (!*used) return;
      ++used_count;
    }
  }
  /// Takes what there is, and asks to be told of more before it sleeps.
  void take_and_sleep() {
    do {
      take();
    } while (!broken && driver->enable_interrupts());
  }

  // The device.
  void look() { queue->process(); }
  void complete_one() {
    device.kept.front().complete();
    device.kept.pop_front();
    loop.run_until_idle();
  }
  void queue_used(unsigned) override { ++interrupts; }
  void queue_broken(unsigned, std::string_view, std::string_view) override { broken = true; }

  ManualLoop loop;
  memory::AddressMap map{loop};
  testing::FakeTransport transport;
  memory::DmaBuffer buffer;
  Worker device;
  std::shared_ptr<DeviceQueue> queue;
  std::optional<DriverQueue> driver;
  unsigned added = 0, used_count = 0;
  unsigned kicks = 0, interrupts = 0;  ///< since the last look, since the last take
  bool broken = false;
};

/// Something that both sides do at the same time; whoever was woken then goes on alone.
struct Scenario {
  const char* name;
  void (*prepare)(World& world);
  void (*driver)(World& world);
  void (*device)(World& world);
  bool driver_sleeps;
};

/// The device takes the first buffer and sleeps, while a second one is made available.
const Scenario kick{.name = "Kick",
                    .prepare = [](World& w) { w.add(); },
                    .driver = [](World& w) { w.add(); },
                    .device = [](World& w) { w.look(); },
                    .driver_sleeps = false};

/// The driver sleeps, while a buffer is used in a pass.
const Scenario interrupt{.name = "Interrupt",
                         .prepare = [](World& w) { w.add(); },
                         .driver = [](World& w) { w.take_and_sleep(); },
                         .device = [](World& w) { w.look(); },
                         .driver_sleeps = true};

/// The driver sleeps, while a buffer is used that the device has kept since an earlier pass.
const Scenario late_interrupt{.name = "LateInterrupt",
                              .prepare =
                                  [](World& w) {
                                    w.device.keeps = true;
                                    w.add();
                                    w.look();
                                  },
                              .driver = [](World& w) { w.take_and_sleep(); },
                              .device = [](World& w) { w.complete_one(); },
                              .driver_sleeps = true};

/// Both sleep, each while the other has something for it.
const Scenario both{.name = "Both",
                    .prepare = [](World& w) { w.add(); },
                    .driver =
                        [](World& w) {
                          w.add();
                          w.take_and_sleep();
                        },
                    .device = [](World& w) { w.look(); },
                    .driver_sleeps = true};

/// The fields of the hand-shake, told by where they are in their parts of the ring.
Machine::IsSignal signals_of(const World& world, bool packed) {
  const auto setup = world.transport.queues[0].setup;
  const auto at = [&](memory::Iova iova) { return world.transport.space.host(iova, 2); };
  const std::byte *const descriptors = at(setup.descriptors), *const driver = at(setup.driver),
                         *const device = at(setup.device);
  const std::size_t size = setup.size;
  return [=](const void* where, std::size_t bytes) {
    if (bytes != 2) return false;
    const auto* byte = static_cast<const std::byte*>(where);
    const auto within = [byte](const std::byte* part, std::size_t length) {
      return byte >= part && byte < part + length;
    };
    if (packed) {
      const bool flags = within(descriptors, size * 16) &&
                         (byte - descriptors) % 16 == offsetof(virtio::spec::PackedDescriptor, flags);
      return flags || within(driver, virtio::spec::event::size) || within(device, virtio::spec::event::size);
    }
    return within(driver, virtio::spec::avail::ring) || byte == driver + virtio::spec::avail::used_event(size) ||
           within(device, virtio::spec::used::ring) || byte == device + virtio::spec::used::avail_event(size);
  };
}

struct Outcome {
  unsigned ways = 0;  ///< in which it was run
  std::string fault;  ///< the first; empty: none
  std::set<std::string> fences;
};

/// Runs the scenario in all ways, or until one goes wrong.
Outcome explore(const Scenario& scenario, const Format& format, MemoryModel model, std::string_view without = {}) {
  Outcome outcome;
  Choices choices;
  do {
    World world(format);
    scenario.prepare(world);
    world.kicks = world.interrupts = 0;
    Machine machine(model, choices, signals_of(world, format.packed));
    machine.remove_fence(without);
    machine.run([&] { scenario.driver(world); }, [&] { scenario.device(world); });
    ++outcome.ways;
    outcome.fences.insert(machine.fences().begin(), machine.fences().end());
    // Who was woken goes on until both sleep.
    while (!world.broken && world.kicks + world.interrupts != 0) {
      if (std::exchange(world.kicks, 0) != 0) world.look();
      if (std::exchange(world.interrupts, 0) != 0 && scenario.driver_sleeps) world.take_and_sleep();
    }
    if (world.broken) outcome.fault = "a ring is broken";
    if (world.device.taken != world.added) outcome.fault = "the device sleeps, and a buffer is available";
    if (scenario.driver_sleeps && world.used_count != world.added)
      outcome.fault = "the driver sleeps, and a buffer is used";
  } while (outcome.fault.empty() && choices.next());
  return outcome;
}

using Parameters = std::tuple<bool, bool, MemoryModel>;

std::string name_of(const ::testing::TestParamInfo<Parameters>& each) {
  const auto [packed, event_idx, model] = each.param;
  return std::string(packed ? "Packed" : "Split") + (event_idx ? "EventIndex" : "Flags") +
         (model == MemoryModel::tso ? "Tso" : "Weak");
}

class Handshake : public ::testing::TestWithParam<Parameters> {
 protected:
  Outcome explore(const Scenario& scenario, std::string_view without = {}) const {
    const auto outcome = handshake::explore(scenario, {.packed = packed, .event_idx = event_idx}, model, without);
    RecordProperty(scenario.name, static_cast<int>(outcome.ways));
    return outcome;
  }
  void expect_all_well(const Scenario& scenario) const {
    const Outcome outcome = explore(scenario);
    EXPECT_EQ(outcome.fault, "") << scenario.name << ", way " << outcome.ways;
    EXPECT_GT(outcome.ways, 10u) << "nothing was tried";
    for (const std::string& fence : outcome.fences) {
      const bool known =
          std::ranges::any_of(fences(), [&](const auto& each) { return fence.find(each) != fence.npos; });
      EXPECT_TRUE(known) << "no test takes this fence away: " << fence;
    }
  }
  /// The fence is come to, and without it a wake-up is lost.
  void expect_needed(const Scenario& scenario, const std::string& fence) const {
    const Outcome outcome = explore(scenario, fence);
    EXPECT_NE(outcome.fault, "") << scenario.name << " works without the fence of " << fence << " in all "
                                 << outcome.ways << " ways";
    const bool come_to =
        std::ranges::any_of(outcome.fences, [&](const auto& each) { return each.find(fence) != each.npos; });
    EXPECT_TRUE(come_to) << fence;
  }
  std::string driver_ring() const { return packed ? "PackedDriverRing::" : "SplitDriverRing::"; }
  /// All that the library has on the way of a buffer.
  std::vector<std::string> fences() const {
    return {"DeviceQueue::settle", "DeviceQueue::notify", driver_ring() + "publish", driver_ring() + "arm"};
  }

  bool packed = std::get<0>(GetParam());
  bool event_idx = std::get<1>(GetParam());
  MemoryModel model = std::get<2>(GetParam());
};
INSTANTIATE_TEST_SUITE_P(, Handshake,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool(),
                                            ::testing::Values(MemoryModel::tso, MemoryModel::weak)),
                         name_of);

TEST_P(Handshake, LosesNoKick) { expect_all_well(kick); }
TEST_P(Handshake, LosesNoInterruptOfAPass) { expect_all_well(interrupt); }
TEST_P(Handshake, LosesNoInterruptOutsideOfAPass) { expect_all_well(late_interrupt); }

/// Too many ways for the weak model.
class HandshakeOfBoth : public Handshake {};
INSTANTIATE_TEST_SUITE_P(, HandshakeOfBoth,
                         ::testing::Combine(::testing::Bool(), ::testing::Bool(), ::testing::Values(MemoryModel::tso)),
                         name_of);

TEST_P(HandshakeOfBoth, LosesNothing) { expect_all_well(both); }

// S7, P5: one fence for both directions.
TEST_P(Handshake, NeedsTheFenceOfSettleForKicks) { expect_needed(kick, "DeviceQueue::settle"); }
TEST_P(Handshake, NeedsTheFenceOfSettleForInterrupts) { expect_needed(interrupt, "DeviceQueue::settle"); }
TEST_P(Handshake, NeedsTheFenceOfNotify) { expect_needed(late_interrupt, "DeviceQueue::notify"); }
// S12, P12.
TEST_P(Handshake, NeedsTheFenceOfTheDriversPublish) { expect_needed(kick, driver_ring() + "publish"); }
// S16, P16.
TEST_P(Handshake, NeedsTheFenceOfTheDriversArm) {
  expect_needed(interrupt, driver_ring() + "arm");
  expect_needed(late_interrupt, driver_ring() + "arm");
}

}  // namespace
}  // namespace outboard::handshake
