// Queues that a driver stops without a reset, and lets go on: GET_VQ_STATE, SET_VQ_READY, SUSPEND.

#include <optional>

#include <gtest/gtest.h>

#include <outboard/memory/fault_guard.hpp>
#include <tests/support/vduse_rig.hpp>

namespace outboard::vduse {
namespace {

using outboard::testing::FakeVduse;
using outboard::testing::HandDriver;
using outboard::testing::VduseRig;
using Outcome = FakeVduse::Outcome;

class Pauses : public ::testing::TestWithParam<bool> {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(memory::install_fault_guard()); }
  VduseRig::Setup setup() const { return {.packed = GetParam()}; }
  bool packed() const { return GetParam(); }
  /// A request that the device works on until the test completes kept[0], whatever it is told.
  static void begin_one(VduseRig& rig, unsigned queue = 0) {
    rig.device->gives_up_kept = false;
    rig.device->on_request = rig.device->keep();
    rig.driver(queue).chain().readable("running").writable(4).publish();
    rig.kick(queue);
  }
};
INSTANTIATE_TEST_SUITE_P(Rings, Pauses, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

TEST_P(Pauses, AKickThatComesWhileTheQueueIsBeingStoppedIsNotLost) {
  VduseRig rig(setup());
  rig.run();
  ASSERT_TRUE(rig.works());
  begin_one(rig);
  const auto message = rig.kernel->get_vq_state(0);
  rig.settle();
  ASSERT_EQ(message.outcome(), Outcome::waiting) << "one is being worked on";
  // The driver goes on, and does not notify again.
  rig.driver().chain().readable("more").writable(4).publish();
  rig.kick();
  rig.device->on_request = outboard::testing::ScriptedDevice::echo;
  rig.device->kept[0].complete();
  rig.settle();
  ASSERT_TRUE(message.ok());
  EXPECT_EQ(rig.driver().used_count(), 3U);
}

TEST_P(Pauses, AQueueWhoseStateCannotBeToldGoesOnWithTheNextKick) {
  VduseRig rig(setup());
  rig.run();
  rig.device->on_request = rig.device->keep();
  for (int i = 0; i < 3; ++i) rig.driver().chain().readable("kept").writable(4).publish();
  rig.kick();
  // The second has been answered, and the first has not: no one number says that.
  rig.device->kept[1].complete();
  rig.settle();
  const auto message = rig.kernel->get_vq_state(0);
  rig.settle();
  ASSERT_EQ(message.outcome(), Outcome::refused);
  rig.device->on_request = outboard::testing::ScriptedDevice::echo;
  rig.driver().chain().readable("more").writable(4).publish();
  rig.kick();
  EXPECT_EQ(rig.driver().used_count(), 4U);
}

// SET_VQ_READY: kernels from 7.3 on.

bool set_ready(VduseRig& rig, bool ready, unsigned queue = 0) {
  const auto message = rig.kernel->set_vq_ready(queue, ready);
  rig.settle();
  return message.ok();
}

TEST_P(Pauses, AQueueThatIsNotReadyAnyMoreIsAtRestWhenThatIsAcknowledged) {
  VduseRig rig(setup());
  rig.run();
  begin_one(rig);
  const auto message = rig.kernel->set_vq_ready(0, false);
  rig.settle();
  ASSERT_EQ(message.outcome(), Outcome::waiting);
  rig.device->kept[0].complete();
  rig.settle();
  EXPECT_TRUE(message.ok());
  EXPECT_EQ(rig.driver().used_count(), 1U);
  EXPECT_EQ(rig.kernel->interrupts(0), 1U) << "before the kernel stores that it is off, and swallows them";
}

TEST_P(Pauses, AQueueThatIsReadyAgainGoesOnWhereItStopped) {
  VduseRig rig(setup());
  rig.run();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(rig.works());
  ASSERT_TRUE(set_ready(rig, false));
  rig.driver().chain().readable("meanwhile").writable(4).publish();
  rig.kick();
  EXPECT_EQ(rig.driver().used_count(), 3U) << "it is off";
  ASSERT_TRUE(set_ready(rig, true));
  rig.loop.advance(std::chrono::milliseconds(10));
  EXPECT_EQ(rig.driver().used_count(), 4U) << "nobody notifies again";
  EXPECT_EQ(rig.kernel->swallowed(0), 0U);
  EXPECT_TRUE(rig.works());
}

TEST_P(Pauses, AQueueThatIsReadyElsewhereBeginsThere) {
  VduseRig rig(setup());
  rig.run();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(rig.works());
  ASSERT_TRUE(set_ready(rig, false));
  constexpr std::uint64_t elsewhere = 0x5000'0000;
  auto memory = rig.kernel->map({.start = elsewhere, .size = HandDriver::memory_size});
  rig.drivers[0] = std::make_unique<HandDriver>(
      HandDriver::Setup{.packed = packed(), .size = 8, .base = memory::Iova{elsewhere}, .memory = std::move(memory)});
  rig.kernel->place_queue(0, rig.driver(), false);
  ASSERT_TRUE(set_ready(rig, true));
  rig.loop.advance(std::chrono::milliseconds(10));
  EXPECT_TRUE(rig.works());
  EXPECT_EQ(rig.exported->core().queue_size(0), 8);
}

TEST_P(Pauses, ReadinessIsNeverRefused) {
  VduseRig rig(setup());
  for (const bool running : {false, true}) {
    if (running) rig.run();
    for (const std::uint32_t index : {0U, 1U, UINT32_MAX}) {
      for (const bool ready : {false, true, true, false, false}) EXPECT_TRUE(set_ready(rig, ready, index));
    }
  }
  EXPECT_FALSE(rig.kernel->broken());
}

TEST_P(Pauses, AResetForgetsThatAQueueWasOff) {
  VduseRig rig(setup());
  rig.run();
  ASSERT_TRUE(set_ready(rig, false));
  EXPECT_TRUE(rig.works_after_reset());
}

// SUSPEND: kernels from 7.3 on.

TEST_P(Pauses, ASuspendedDeviceIsAtRestAndSaysWhereUntilItIsReset) {
  VduseRig::Setup with = setup();
  with.queues = 2;
  VduseRig rig(with);
  rig.run();
  rig.device->gives_up_kept = false;
  rig.device->on_request = rig.device->keep();
  rig.driver(1).chain().readable("running").writable(4).publish();
  rig.kick(1);
  const auto message = rig.kernel->suspend();
  rig.settle();
  ASSERT_EQ(message.outcome(), Outcome::waiting);
  rig.device->kept[0].complete();
  rig.settle();
  ASSERT_TRUE(message.ok());
  EXPECT_EQ(rig.kernel->interrupts(1), 1U) << "none is taken afterwards";

  const auto state = rig.kernel->get_vq_state(1);
  const auto update = rig.kernel->update_iotlb();
  rig.settle();
  ASSERT_TRUE(state.ok());
  EXPECT_TRUE(update.ok());
  EXPECT_EQ(packed() ? state.queue_state().state.packed.last_avail_idx : state.queue_state().state.split.avail_index,
            packed() ? 2 : 1);
  rig.driver(1).chain().readable("later").writable(4).publish();
  rig.loop.advance(std::chrono::seconds(10));
  EXPECT_EQ(rig.driver(1).used_count(), 1U);

  rig.device->on_request = outboard::testing::ScriptedDevice::echo;
  EXPECT_TRUE(rig.works_after_reset());
  EXPECT_TRUE(rig.works(1));
}

TEST_P(Pauses, ASuspensionThatNobodyWaitsForAnyMoreIsUndone) {
  VduseRig rig(setup());
  rig.run();
  begin_one(rig);
  const auto message = rig.kernel->suspend();
  rig.settle();
  rig.kernel->withdraw(message);
  rig.device->on_request = outboard::testing::ScriptedDevice::echo;
  rig.device->kept[0].complete();
  rig.settle();
  EXPECT_TRUE(rig.works());
}

TEST_P(Pauses, ASuspensionThatIsUndoneResumesNoQueueThatIsOff) {
  VduseRig::Setup with = setup();
  with.queues = 2;
  VduseRig rig(with);
  rig.run();
  ASSERT_TRUE(set_ready(rig, false, 0));
  begin_one(rig, 1);
  const auto message = rig.kernel->suspend();
  rig.settle();
  rig.kernel->withdraw(message);
  rig.device->on_request = outboard::testing::ScriptedDevice::echo;
  rig.driver(0).chain().readable("meanwhile").writable(4).publish();
  rig.device->kept[0].complete();
  rig.settle();
  EXPECT_TRUE(rig.works(1));
  EXPECT_EQ(rig.driver(0).used_count(), 0U) << "its ring may be in use for something else";
  ASSERT_TRUE(set_ready(rig, true, 0));
  rig.loop.advance(std::chrono::milliseconds(10));
  EXPECT_EQ(rig.driver(0).used_count(), 1U);
}

TEST_P(Pauses, AnUndoneSuspensionLeavesIdleQueuesAloneUntilAKick) {
  for (const bool is_kicked : {false, true}) {
    VduseRig::Setup with = setup();
    with.queues = 2;
    VduseRig rig(with);
    rig.run();
    const auto state = rig.kernel->get_vq_state(0);
    rig.settle();
    ASSERT_TRUE(state.ok());
    begin_one(rig, 1);
    const auto message = rig.kernel->suspend();
    rig.settle();
    rig.driver(0).chain().readable("meanwhile").writable(4).publish();
    if (is_kicked) rig.kick(0);
    rig.kernel->withdraw(message);
    rig.device->on_request = outboard::testing::ScriptedDevice::echo;
    rig.device->kept[0].complete();
    rig.settle();
    EXPECT_TRUE(rig.works(1));
    EXPECT_EQ(rig.driver(0).used_count(), is_kicked ? 1U : 0U);
    rig.kick(0);
    EXPECT_EQ(rig.driver(0).used_count(), 1U);
  }
}

TEST_P(Pauses, AQueueThatIsOffAndLateIsWaitedForByASuspension) {
  VduseRig rig(setup());
  rig.run();
  begin_one(rig);
  const auto off = rig.kernel->set_vq_ready(0, false);
  rig.settle();
  rig.loop.advance(std::chrono::milliseconds(2500));
  ASSERT_TRUE(off.ok());
  const auto message = rig.kernel->suspend();
  rig.settle();
  EXPECT_EQ(message.outcome(), Outcome::waiting);
  rig.device->kept[0].complete();
  rig.settle();
  EXPECT_TRUE(message.ok());
  EXPECT_EQ(rig.driver().used_count(), 0U);
}

TEST_P(Pauses, ADeviceThatDoesNotComeToRestCannotBeSuspendedAndGoesOn) {
  VduseRig::Setup with = setup();
  with.queues = 2;
  VduseRig rig(with);
  rig.run();
  begin_one(rig);
  rig.device->on_request = outboard::testing::ScriptedDevice::echo;
  const auto message = rig.kernel->suspend();
  rig.settle();
  rig.driver(1).chain().readable("meanwhile").writable(4).publish();
  rig.loop.advance(std::chrono::seconds(6));
  EXPECT_EQ(message.outcome(), Outcome::refused);
  EXPECT_FALSE(rig.exported->core().broken());
  EXPECT_EQ(rig.driver(1).used_count(), 1U) << "nobody notifies again";
  rig.device->kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.driver(0).used_count(), 1U);
  EXPECT_TRUE(rig.works(0));
  EXPECT_TRUE(rig.works(1));
}

TEST_P(Pauses, AQueueWhoseStateIsNotKnownInTimeGoesOn) {
  VduseRig rig(setup());
  rig.run();
  begin_one(rig);
  const auto message = rig.kernel->get_vq_state(0);
  rig.settle();
  rig.loop.advance(std::chrono::seconds(6));
  EXPECT_EQ(message.outcome(), Outcome::refused);
  EXPECT_FALSE(rig.exported->core().broken());
  rig.device->on_request = outboard::testing::ScriptedDevice::echo;
  rig.device->kept[0].complete();
  rig.settle();
  EXPECT_TRUE(rig.works());
}

TEST_P(Pauses, AQueueThatIsOffDoesNotGoOnWhenItWasLate) {
  VduseRig rig(setup());
  rig.run();
  begin_one(rig);
  const auto message = rig.kernel->set_vq_ready(0, false);
  rig.settle();
  rig.loop.advance(std::chrono::seconds(3));
  EXPECT_TRUE(message.ok()) << "never refused";
  rig.driver().chain().readable("meanwhile").writable(4).publish();
  rig.device->kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.device->requests, 1U);
  EXPECT_EQ(rig.driver().used_count(), 0U) << "its ring is not touched after the answer";
}

TEST_P(Pauses, AQueueThatIsOffWaitsForSlowStorageAndGoesOnWhenReady) {
  for (const bool is_ready_first : {false, true}) {
    VduseRig rig(setup());
    rig.run();
    begin_one(rig);
    const auto message = rig.kernel->set_vq_ready(0, false);
    rig.settle();
    rig.loop.advance(std::chrono::seconds(60));
    ASSERT_TRUE(message.ok());
    EXPECT_FALSE(rig.exported->core().broken());
    rig.device->on_request = outboard::testing::ScriptedDevice::echo;
    rig.driver().chain().readable("next").writable(4).publish();
    if (is_ready_first) {
      ASSERT_TRUE(set_ready(rig, true));
    }
    rig.loop.advance(std::chrono::seconds(2));
    EXPECT_EQ(rig.device->requests, 1U) << "the first has not ended";
    rig.device->kept[0].complete();
    rig.settle();
    if (!is_ready_first) {
      ASSERT_TRUE(set_ready(rig, true));
    }
    rig.loop.advance(std::chrono::seconds(2));
    EXPECT_EQ(rig.driver().used_count(), 2U) << "what had no answer is done again";
    EXPECT_TRUE(rig.works());
  }
}

TEST_P(Pauses, AQueueThatIsOffAndLateSaysWhereItIsOnceItHasStopped) {
  VduseRig rig(setup());
  rig.run();
  begin_one(rig);
  const auto off = rig.kernel->set_vq_ready(0, false);
  rig.settle();
  rig.loop.advance(std::chrono::milliseconds(2500));
  ASSERT_TRUE(off.ok());
  const auto message = rig.kernel->get_vq_state(0);
  rig.settle();
  EXPECT_EQ(message.outcome(), Outcome::waiting);
  rig.device->kept[0].complete();
  rig.settle();
  ASSERT_TRUE(message.ok());
  EXPECT_EQ(
      packed() ? message.queue_state().state.packed.last_avail_idx : message.queue_state().state.split.avail_index, 0)
      << "before the request that had no answer";
}

TEST_P(Pauses, AQueueThatIsOffAndLateIsWaitedForByAShutDown) {
  VduseRig rig(setup());
  rig.run();
  begin_one(rig);
  const auto off = rig.kernel->set_vq_ready(0, false);
  rig.settle();
  rig.loop.advance(std::chrono::milliseconds(2500));
  ASSERT_TRUE(off.ok());
  std::optional<int> ended;
  rig.exported->shut_down([&](const Status& stopped) { ended = stopped ? 0 : stopped.error().code(); });
  rig.settle();
  EXPECT_FALSE(ended);
  rig.device->kept[0].complete();
  rig.settle();
  EXPECT_EQ(ended, 0);
}

/// How a suspension comes to nothing; `none`: there is none.
enum class Undone : std::uint8_t { none, withdrawn, refused };

/// Begins one, while the storage is late.
void suspend_in_vain(VduseRig& rig, Undone how) {
  const auto message = rig.kernel->suspend();
  rig.settle();
  EXPECT_EQ(message.outcome(), Outcome::waiting);
  rig.loop.advance(std::chrono::milliseconds(500));
  if (how == Undone::withdrawn) return rig.kernel->withdraw(message);
  rig.loop.advance(std::chrono::milliseconds(2500));
  EXPECT_EQ(message.outcome(), Outcome::refused);
}

TEST_P(Pauses, AQueueReadyAgainAndLateOutlivesAnUndoneSuspension) {
  for (const Undone how : {Undone::none, Undone::withdrawn, Undone::refused}) {
    SCOPED_TRACE(static_cast<int>(how));
    VduseRig::Setup with = setup();
    with.queues = 2;
    VduseRig rig(with);
    rig.run();
    begin_one(rig, 0);
    const auto off = rig.kernel->set_vq_ready(0, false);
    rig.settle();
    rig.loop.advance(std::chrono::milliseconds(2500));
    ASSERT_TRUE(off.ok());
    ASSERT_TRUE(set_ready(rig, true, 0));
    if (how != Undone::none) suspend_in_vain(rig, how);
    rig.device->on_request = outboard::testing::ScriptedDevice::echo;
    ASSERT_EQ(rig.device->kept.size(), 1U);
    rig.device->kept[0].complete();
    rig.settle();
    rig.loop.advance(std::chrono::seconds(10));
    rig.settle();
    EXPECT_EQ(rig.driver(0).used_count(), 1U);
    EXPECT_TRUE(rig.works(1)) << "the other one";
  }
}

TEST_P(Pauses, WithoutADriverThereIsNothingToSuspend) {
  VduseRig rig(setup());
  const auto message = rig.kernel->suspend();
  rig.settle();
  EXPECT_EQ(message.outcome(), Outcome::refused);
}

}  // namespace
}  // namespace outboard::vduse
