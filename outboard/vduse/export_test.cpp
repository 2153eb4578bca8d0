// A device behind VDUSE, against a kernel that is played: messages, status, queues, interrupts, configuration.

#include <outboard/vduse/export.hpp>

#include <gmock/gmock.h>
#include <optional>

#include <gtest/gtest.h>

#include <outboard/memory/fault_guard.hpp>
#include <tests/support/vduse_rig.hpp>

namespace outboard::vduse {
namespace {

namespace bit = virtio::spec::status;
using outboard::testing::FakeVduse;
using outboard::testing::VduseRig;
using ::testing::ElementsAre;
using virtio::Feature;
using Outcome = FakeVduse::Outcome;
using Call = FakeVduse::Call;

class EitherExport : public ::testing::TestWithParam<bool> {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(memory::install_fault_guard()); }
  VduseRig::Setup setup() const { return {.packed = GetParam()}; }
};
INSTANTIATE_TEST_SUITE_P(Rings, EitherExport, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

// What the device is created with.

TEST(ExportShape, LeavesOutWhatVduseCannotHaveAndSaysSoOfTheDevicesOwn) {
  constexpr Feature config_wce{11}, flush{9};
  VduseRig rig({.features = {config_wce, flush}});
  const DeviceShape shape = rig.exported->shape("disk");
  EXPECT_EQ(shape.features >> 11 & 1, 0U);
  EXPECT_EQ(shape.features >> 9 & 1, 1U);
  EXPECT_EQ(shape.features >> static_cast<unsigned>(Feature::ring_reset) & 1, 0U);
  EXPECT_EQ(shape.features >> static_cast<unsigned>(Feature::version_1) & 1, 1U);
  EXPECT_EQ(shape.features >> static_cast<unsigned>(Feature::access_platform) & 1, 1U);
  EXPECT_EQ(shape.groups, 0U);
  EXPECT_TRUE(rig.said("feature bits 11"));
}

TEST(ExportShape, WithApiVersion1HasGroupsAndAddressSpaces) {
  VduseRig rig({.queues = 3, .options = {.api_version = 1, .groups = {0, 1}, .address_spaces = 4}});
  const DeviceShape shape = rig.exported->shape("disk");
  EXPECT_EQ(shape.groups, 2U);
  EXPECT_EQ(shape.address_spaces, 4U);
  EXPECT_EQ(rig.kernel->group(1), 1U);
  EXPECT_EQ(rig.kernel->group(2), 0U);
}

// Status.

TEST_P(EitherExport, RunsAndAnswersRequests) {
  VduseRig rig(setup());
  rig.run();
  EXPECT_TRUE(rig.works());
  EXPECT_EQ(rig.kernel->interrupts(0), 1U);
  EXPECT_THAT(rig.statuses, ElementsAre(0, 1, 3, 0xb, 0xf));
}

TEST_P(EitherExport, VDUSE24_FeaturesThatWereNotOfferedAreRefused) {
  VduseRig rig(setup());
  EXPECT_FALSE(rig.negotiate(UINT64_MAX));
  EXPECT_EQ(rig.kernel->status(), 3);
  EXPECT_FALSE(rig.kernel->wedged());
  // The next driver is none the worse for it.
  rig.advance(0);
  rig.run();
  EXPECT_TRUE(rig.works());
}

TEST_P(EitherExport, VDUSE24_FeaturesWithoutVersion1OrAccessPlatformAreRefused) {
  VduseRig rig(setup());
  for (const Feature without : {Feature::version_1, Feature::access_platform})
    EXPECT_FALSE(rig.negotiate(rig.offered() & ~(UINT64_C(1) << static_cast<unsigned>(without))));
}

TEST_P(EitherExport, FeaturesThatTheDeviceRefusesAreRefused) {
  VduseRig rig(setup());
  rig.device->accepts_features = false;
  EXPECT_FALSE(rig.negotiate());
}

TEST_P(EitherExport, DriverOkIsNeverRefusedWhateverGoesWrong) {
  VduseRig rig(setup());
  ASSERT_TRUE(rig.negotiate());
  rig.place();
  rig.device->on_start = [](unsigned, const virtio::QueueState&) -> Status { return Error(ENOMEM, "no room"); };
  rig.kernel->fail(Call::set_kick, EMFILE);
  EXPECT_TRUE(rig.advance(VduseRig::s_running));
  EXPECT_FALSE(rig.kernel->wedged());
}

TEST_P(EitherExport, DriverOkIsNotRefusedWithFeaturesThatAre) {
  VduseRig rig(setup());
  rig.advance(0);
  rig.kernel->set_driver_features(rig.offered() & ~(UINT64_C(1) << 32));
  rig.place();
  EXPECT_TRUE(rig.advance(VduseRig::s_running)) << "a driver that sets it all at once does not look either";
  EXPECT_FALSE(rig.kernel->wedged());
  EXPECT_EQ(rig.exported->core().status() & bit::driver_ok, 0);
  EXPECT_TRUE(rig.said("VDUSE has no way to tell"));
}

TEST_P(EitherExport, DriverOkIsNotRefusedWhereNothingCanBeAskedOfTheKernel) {
  VduseRig rig(setup());
  ASSERT_TRUE(rig.negotiate());
  rig.place();
  rig.kernel->fail(Call::queue_info, EIO);
  EXPECT_TRUE(rig.advance(VduseRig::s_running));
  // It is asked again.
  rig.loop.advance(std::chrono::seconds(2));
  EXPECT_TRUE(rig.works());
}

TEST_P(EitherExport, AResetStopsTheDeviceAndForgetsTheDriversMemory) {
  VduseRig rig(setup());
  rig.run();
  ASSERT_TRUE(rig.works());
  EXPECT_GT(rig.exported->memory().current()->mapping_count(), 0U);
  rig.advance(0);
  EXPECT_EQ(rig.exported->memory().current()->mapping_count(), 0U);
  EXPECT_EQ(rig.exported->core().status(), 0);
  rig.driver().chain().readable("late").writable(4).publish();
  rig.kick();
  EXPECT_EQ(rig.device->requests, 1U);
}

TEST_P(EitherExport, RunsAgainAfterAReset) {
  VduseRig rig(setup());
  rig.run();
  ASSERT_TRUE(rig.works());
  EXPECT_TRUE(rig.works_after_reset());
}

TEST_P(EitherExport, VDUSE23_TheAcknowledgeAfterADetachIsNoStart) {
  VduseRig rig(setup());
  rig.run();
  EXPECT_TRUE(rig.advance(0));
  EXPECT_TRUE(rig.advance(bit::acknowledge));
  EXPECT_EQ(rig.device->requests, 0U);
  EXPECT_FALSE(rig.gone);
}

TEST_P(EitherExport, VDUSE47_ADriverThatWasUnloadedMayComeAgain) {
  VduseRig rig(setup());
  for (int round = 0; round < 3; ++round) {
    rig.run();
    ASSERT_TRUE(rig.works()) << round;
    EXPECT_TRUE(rig.advance(0));
    EXPECT_TRUE(rig.advance(bit::acknowledge));
    rig.kernel->unmap_all();
  }
}

TEST_P(EitherExport, VDUSE36_AStormOfNotificationsIsOneLookEach) {
  VduseRig rig(setup());
  rig.run();
  for (int i = 0; i < 1000; ++i) rig.kernel->kick(0);
  rig.settle();
  EXPECT_EQ(rig.device->requests, 0U);
  EXPECT_TRUE(rig.works());
}

TEST_P(EitherExport, VDUSE44_AResetWaitsForWhatIsRunning) {
  VduseRig rig(setup());
  rig.run();
  rig.device->on_request = rig.device->keep();
  rig.device->gives_up_kept = false;
  rig.driver().chain().readable("slow").writable(4).publish();
  rig.kick();
  const auto reset = rig.kernel->set_status(0);
  rig.settle();
  EXPECT_EQ(reset.outcome(), Outcome::waiting);
  rig.device->kept[0].complete();
  rig.settle();
  EXPECT_TRUE(reset.ok());
  EXPECT_EQ(rig.driver().used_count(), 0U) << "nothing is published by a reset";
}

TEST_P(EitherExport, VDUSE44_ALateResetIsRefusedAndNoDriverIsTakenBeforeItsEnd) {
  VduseRig rig(setup());
  rig.run();
  rig.device->on_request = rig.device->keep();
  rig.device->gives_up_kept = false;
  rig.driver().chain().readable("stuck").writable(4).publish();
  rig.kick();
  const auto reset = rig.kernel->set_status(0);
  rig.settle();
  rig.loop.advance(std::chrono::seconds(3));
  EXPECT_EQ(reset.outcome(), Outcome::refused) << "in time";
  EXPECT_FALSE(rig.negotiate()) << "what is running still has the old driver's memory";
  EXPECT_EQ(rig.driver().used_count(), 0U);
  rig.device->kept.clear();
  rig.settle();
  rig.device->on_request = outboard::testing::ScriptedDevice::echo;
  EXPECT_TRUE(rig.works_after_reset());
}

TEST_P(EitherExport, VDUSE22_StatusBitsThatMeanNothingAreAcknowledged) {
  VduseRig rig(setup());
  ASSERT_TRUE(rig.negotiate());
  EXPECT_TRUE(rig.advance(VduseRig::s_features | 0x20));
  EXPECT_TRUE(rig.advance(VduseRig::s_features | bit::failed));
}

TEST_P(EitherExport, ADriverThatSetsEverythingAtOnceIsServed) {
  VduseRig rig(setup());
  rig.advance(0);
  rig.kernel->set_driver_features(rig.offered());
  rig.place();
  EXPECT_TRUE(rig.advance(VduseRig::s_running));
  EXPECT_TRUE(rig.works());
}

TEST_P(EitherExport, VDUSE21_TheSameStatusTwiceIsAnsweredTwiceAndStartsOnce) {
  VduseRig rig(setup());
  unsigned starts = 0;
  rig.device->on_start = [&](unsigned, const virtio::QueueState&) {
    ++starts;
    return Status();
  };
  rig.run();
  EXPECT_TRUE(rig.advance(VduseRig::s_running));
  EXPECT_EQ(starts, 1U);
  EXPECT_TRUE(rig.works());
}

// Whoever waits is killed.

TEST_P(EitherExport, VDUSE18_DriverOkThatNobodyWaitsForAnyMoreIsUndone) {
  VduseRig rig(setup());
  ASSERT_TRUE(rig.negotiate());
  rig.place();
  const auto message = rig.kernel->set_status(VduseRig::s_running);
  // While the device gets ready.
  rig.device->on_start = [&rig, message](unsigned, const virtio::QueueState&) {
    rig.kernel->withdraw(message);
    return Status();
  };
  rig.settle();
  EXPECT_EQ(message.outcome(), Outcome::withdrawn);
  EXPECT_EQ(rig.exported->core().status(), 0);
  EXPECT_EQ(rig.exported->memory().current()->mapping_count(), 0U);
  rig.device->on_start = nullptr;
  EXPECT_TRUE(rig.works_after_reset());
}

TEST_P(EitherExport, VDUSE18_AfterDriverOkWasUndoneNothingStartsBeforeAReset) {
  VduseRig rig(setup());
  ASSERT_TRUE(rig.negotiate());
  rig.place();
  rig.driver().chain().readable("echo").writable(4).publish();
  const auto message = rig.kernel->set_status(VduseRig::s_running);
  rig.device->on_start = [&rig, message](unsigned, const virtio::QueueState&) {
    rig.kernel->withdraw(message);
    return Status();
  };
  rig.settle();
  ASSERT_EQ(message.outcome(), Outcome::withdrawn);
  rig.device->on_start = nullptr;
  EXPECT_TRUE(rig.advance(VduseRig::s_running));
  rig.settle();
  EXPECT_EQ(rig.device->requests, 0U) << "a queue with a thread of its own may have carried it out before";
  EXPECT_TRUE(rig.works_after_reset());
}

// The kernel's end.

TEST_P(EitherExport, VDUSE20_ADeviceThatTheKernelGivesUpIsStoppedAndItsOwnerTold) {
  VduseRig rig(setup());
  rig.run();
  ASSERT_TRUE(rig.works());
  rig.kernel->set_status(VduseRig::s_running);
  rig.kernel->time_out();
  rig.settle();
  ASSERT_TRUE(rig.gone);
  EXPECT_EQ(rig.gone->code(), EPERM);
  EXPECT_EQ(rig.exported->memory().current()->mapping_count(), 0U);
  EXPECT_FALSE(rig.kernel->is_open()) << "the node is closed, so that the device can be removed";
}

TEST_P(EitherExport, VDUSE20_ItsOwnerIsToldThoughABackEndDoesNotComeBack) {
  VduseRig rig(setup());
  rig.run();
  std::optional<virtio::Request> running;
  rig.device->on_request = [&](virtio::Request request) {
    ASSERT_TRUE(request.writable_pieces(4));
    running = std::move(request);
  };
  rig.driver().chain().readable("stuck").writable(4).publish();
  rig.kick();
  ASSERT_TRUE(running);
  rig.kernel->set_status(VduseRig::s_running);
  rig.kernel->time_out();
  rig.settle();
  EXPECT_FALSE(rig.gone);
  rig.loop.advance(std::chrono::seconds(3));
  ASSERT_TRUE(rig.gone);
  EXPECT_FALSE(rig.kernel->is_open()) << "so that the device can be removed";
  running->complete();
  rig.settle();
}

TEST_P(EitherExport, VDUSE17_ANodeThatCannotBeReadIsTheEnd) {
  VduseRig rig(setup());
  rig.kernel->fail(Call::read, EIO);
  rig.kernel->set_status(0);
  rig.settle();
  ASSERT_TRUE(rig.gone);
  EXPECT_EQ(rig.gone->code(), EIO);
}

TEST_P(EitherExport, VDUSE16_AMessageThatIsNotKnownIsRefusedAndTheDeviceGoesOn) {
  VduseRig rig(setup());
  rig.run();
  const auto message = rig.kernel->send(77);
  rig.settle();
  EXPECT_EQ(message.outcome(), Outcome::refused);
  EXPECT_TRUE(rig.works());
}

TEST_P(EitherExport, MessagesAreAnsweredOneAfterTheOther) {
  VduseRig rig(setup());
  rig.run();
  rig.device->on_request = rig.device->keep();
  rig.device->gives_up_kept = false;
  rig.driver().chain().readable("slow").writable(4).publish();
  rig.kick();
  const auto reset = rig.kernel->set_status(0);
  const auto next = rig.kernel->set_status(bit::acknowledge);
  rig.settle();
  EXPECT_FALSE(next.read());
  rig.device->kept[0].complete();
  rig.settle();
  EXPECT_TRUE(reset.ok());
  EXPECT_TRUE(next.ok());
}

// Interrupts.

TEST_P(EitherExport, VDUSE37_AnInterruptThatTheKernelDoesNotTakeYetIsTriedAgain) {
  VduseRig rig(setup());
  ASSERT_TRUE(rig.negotiate());
  rig.place();
  rig.driver().chain().readable("early").writable(5).publish();
  rig.kernel->store_driver_ok_after(50);
  ASSERT_TRUE(rig.advance(VduseRig::s_running));
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 1U) << "nobody has kicked";
  EXPECT_EQ(rig.kernel->interrupts(0), 0U);
  rig.loop.advance(std::chrono::seconds(1));
  EXPECT_EQ(rig.kernel->interrupts(0), 1U);
}

TEST_P(EitherExport, VDUSE37_AnInterruptNeverTakenIsReportedAndEndsWithTheReset) {
  VduseRig rig(setup());
  ASSERT_TRUE(rig.negotiate());
  rig.place();
  rig.driver().chain().readable("early").writable(5).publish();
  rig.kernel->store_driver_ok_after(UINT32_MAX);
  ASSERT_TRUE(rig.advance(VduseRig::s_running));
  rig.loop.advance(std::chrono::seconds(10));
  EXPECT_TRUE(rig.said("takes no interrupts"));
  rig.advance(0);
  const auto tries = rig.kernel->calls(Call::inject_interrupt);
  rig.loop.advance(std::chrono::seconds(10));
  EXPECT_LE(rig.kernel->calls(Call::inject_interrupt), tries + 1);
}

TEST_P(EitherExport, ManyAnswersAtOnceAreOneInterrupt) {
  VduseRig rig(setup());
  rig.run();
  for (int i = 0; i < 8; ++i) rig.driver().chain().readable("x").writable(1).publish();
  rig.kick();
  EXPECT_EQ(rig.driver().used_count(), 8U);
  EXPECT_EQ(rig.kernel->interrupts(0), 1U);
}

// Queues.

TEST_P(EitherExport, AKickThatCameBeforeItsEventfdIsNotMissed) {
  VduseRig rig(setup());
  ASSERT_TRUE(rig.negotiate());
  rig.place();
  rig.driver().chain().readable("x").writable(1).publish();
  ASSERT_TRUE(rig.advance(VduseRig::s_running));
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 1U);
}

TEST_P(EitherExport, VDUSE26_AQueueThatBecomesReadyAfterDriverOkIsStarted) {
  VduseRig::Setup with = setup();
  with.queues = 2;
  VduseRig rig(with);
  ASSERT_TRUE(rig.negotiate());
  rig.place(0);
  rig.place(1, false);
  ASSERT_TRUE(rig.advance(VduseRig::s_running));
  rig.driver(1).chain().readable("x").writable(1).publish();
  rig.kernel->kick(1);  // lost
  rig.kernel->set_ready(1, true);
  rig.loop.advance(std::chrono::seconds(2));
  EXPECT_EQ(rig.driver(1).used_count(), 1U);
  EXPECT_TRUE(rig.works(0));
  EXPECT_TRUE(rig.works(1));
}

TEST_P(EitherExport, SetVqReadyStartsAQueueAtOnceAndIsNeverRefused) {
  VduseRig rig(setup());
  ASSERT_TRUE(rig.negotiate());
  rig.place(0, false);
  ASSERT_TRUE(rig.advance(VduseRig::s_running));
  rig.kernel->set_ready(0, true);
  for (const std::uint32_t index : {0U, 1U, UINT32_MAX}) {
    const spec::VqReadyRequest ready{index, 1};
    const auto message =
        rig.kernel->send(static_cast<std::uint32_t>(spec::RequestType::set_vq_ready), as_bytes_of(ready));
    rig.settle();
    EXPECT_TRUE(message.ok()) << index;
  }
  EXPECT_TRUE(rig.works());
}

TEST_P(EitherExport, VDUSE27_AnImpossibleSizeLeavesTheQueueOutAndTheRestRuns) {
  for (const std::uint32_t num : {0U, 17U, 32768U, 65536U + 16}) {
    VduseRig::Setup with = setup();
    with.queues = 2;
    VduseRig rig(with);
    ASSERT_TRUE(rig.negotiate());
    rig.place(0);
    rig.place(1);
    FakeVduse::Ring wrong{.num = num,
                          .descriptors = raw(rig.driver(1).address(0)),
                          .driver = raw(rig.driver(1).address(1)),
                          .device = raw(rig.driver(1).address(2))};
    if (GetParam()) wrong.state.packed = {1, 0, 1, 0};
    rig.kernel->place_queue(1, wrong);
    EXPECT_TRUE(rig.advance(VduseRig::s_running));
    EXPECT_TRUE(rig.works(0)) << num;
    EXPECT_FALSE(rig.exported->core().queue_enabled(1));
    EXPECT_TRUE(rig.said("queue 1 is not run"));
  }
}

TEST_P(EitherExport, VDUSE28_ARingThatIsNotAlignedWrapsOrOverlapsItselfIsNotRun) {
  const auto wrong = [](FakeVduse::Ring& ring, unsigned how) {
    if (how == 0) ring.descriptors += 1;
    if (how == 1) ring.driver = UINT64_MAX - 3;
    if (how == 2) ring.device = ring.descriptors;
  };
  for (unsigned how = 0; how < 3; ++how) {
    VduseRig rig(setup());
    ASSERT_TRUE(rig.negotiate());
    rig.place();
    FakeVduse::Ring ring{.num = rig.driver().size(),
                         .descriptors = raw(rig.driver().address(0)),
                         .driver = raw(rig.driver().address(1)),
                         .device = raw(rig.driver().address(2))};
    if (GetParam()) ring.state.packed = {1, 0, 1, 0};
    wrong(ring, how);
    rig.kernel->place_queue(0, ring);
    EXPECT_TRUE(rig.advance(VduseRig::s_running));
    rig.loop.advance(std::chrono::seconds(1));
    EXPECT_FALSE(rig.exported->core().queue_enabled(0)) << how;
    EXPECT_TRUE(rig.advance(0));
  }
}

TEST_P(EitherExport, VDUSE25_ARingInNoMemoryIsStartedWhenTheMemoryComes) {
  VduseRig rig(setup());
  ASSERT_TRUE(rig.negotiate());
  rig.kernel->place_queue(0, rig.driver());
  EXPECT_TRUE(rig.advance(VduseRig::s_running));
  rig.settle();
  EXPECT_TRUE(rig.said("in memory that the driver has not mapped"));
  rig.map_ring();
  const auto update = rig.kernel->update_iotlb();
  rig.settle();
  EXPECT_TRUE(update.ok());
  EXPECT_TRUE(rig.works());
}

TEST_P(EitherExport, VDUSE29_ABrokenQueueFinishesItsBuffersAndTakesNoMore) {
  VduseRig rig(setup());
  rig.run();
  rig.device->on_request = rig.device->keep();
  rig.driver().chain().readable("mine").writable(4).publish();
  rig.kick();
  rig.device->host->violation("test", "as the test wants");
  rig.settle();
  EXPECT_TRUE(rig.said("VDUSE has no way to tell its driver"));
  rig.driver().chain().readable("later").writable(4).publish();
  rig.kick();
  EXPECT_EQ(rig.device->requests, 1U);
  rig.device->kept[0].complete();
  rig.settle();
  EXPECT_EQ(rig.driver().used_count(), 1U);
  EXPECT_EQ(rig.kernel->interrupts(0), 1U);
  // And a reset mends it.
  rig.device->on_request = outboard::testing::ScriptedDevice::echo;
  EXPECT_TRUE(rig.works_after_reset());
}

TEST_P(EitherExport, VDUSE43_TheStateOfAQueueIsToldWhereItHasStopped) {
  VduseRig rig(setup());
  rig.run();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(rig.works());
  const auto message = rig.kernel->get_vq_state(0);
  rig.settle();
  ASSERT_TRUE(message.ok());
  const auto state = message.queue_state();
  EXPECT_EQ(state.index, 0U);
  if (GetParam()) {
    EXPECT_EQ(state.state.packed.last_avail_counter, 1);
    EXPECT_EQ(state.state.packed.last_used_idx, state.state.packed.last_avail_idx);
    EXPECT_EQ(state.state.packed.last_avail_idx, 6);
  } else {
    EXPECT_EQ(state.state.split.avail_index, 3);
  }
  EXPECT_TRUE(rig.works()) << "a driver that goes on all the same is served";
}

TEST_P(EitherExport, VDUSE43_AStateWithBuffersThatWereKeptGoesBackToBeforeThem) {
  VduseRig rig(setup());
  rig.run();
  ASSERT_TRUE(rig.works());
  rig.device->on_request = rig.device->keep();
  for (int i = 0; i < 2; ++i) rig.driver().chain().readable("kept").writable(4).publish();
  rig.kick();
  const auto message = rig.kernel->get_vq_state(0);
  rig.settle();
  ASSERT_TRUE(message.ok());
  const auto state = message.queue_state().state;
  EXPECT_EQ(GetParam() ? state.packed.last_avail_idx : state.split.avail_index, GetParam() ? 2 : 1);
}

TEST_P(EitherExport, VDUSE43_AQueueThatIsNotThereHasNoState) {
  VduseRig rig(setup());
  rig.run();
  for (const std::uint32_t index : {1U, UINT32_MAX}) {
    const auto message = rig.kernel->get_vq_state(index);
    rig.settle();
    EXPECT_EQ(message.outcome(), Outcome::refused);
  }
}

TEST(ExportOfASplitRing, BeginsWhereTheDriverSays) {
  ASSERT_TRUE(memory::install_fault_guard());
  VduseRig rig({});
  ASSERT_TRUE(rig.negotiate());
  rig.place();
  FakeVduse::Ring ring{.num = rig.driver().size(),
                       .descriptors = raw(rig.driver().address(0)),
                       .driver = raw(rig.driver().address(1)),
                       .device = raw(rig.driver().address(2))};
  ring.state.split.avail_index = 5;
  rig.kernel->place_queue(0, ring);
  ASSERT_TRUE(rig.advance(VduseRig::s_running));
  rig.settle();
  EXPECT_EQ(rig.exported->core().queue_size(0), rig.driver().size());
  EXPECT_TRUE(rig.exported->core().queue_enabled(0));
}

// Configuration.

TEST_P(EitherExport, TheConfigurationIsWhatTheDeviceHasAndOnlyChangesAreWritten) {
  VduseRig rig(setup());
  rig.run();
  const auto before = rig.kernel->calls(Call::set_config);
  rig.device->config = {std::byte{1}, std::byte{2}};
  rig.device->host->config_changed(0, 2);
  EXPECT_EQ(rig.kernel->calls(Call::set_config), before + 1);
  EXPECT_EQ(rig.kernel->config()[1], std::byte{2});
  EXPECT_EQ(rig.kernel->config_interrupts(), 1U);
  EXPECT_EQ(rig.config[0], std::byte{1}) << "and the journal is told";
}

TEST_P(EitherExport, AFailedChangeLeavesTheJournalWithoutAConfiguration) {
  VduseRig rig(setup());
  rig.run();
  ASSERT_FALSE(rig.config.empty());
  rig.kernel->fail(Call::set_config, EIO);
  rig.device->config = {std::byte{1}};
  rig.device->host->config_changed(0, 1);
  EXPECT_TRUE(rig.config.empty()) << "whoever comes next writes all of it";
}

TEST_P(EitherExport, TheConfigurationInterruptIsNotLostDuringDriverOk) {
  VduseRig rig(setup());
  ASSERT_TRUE(rig.negotiate());
  rig.place();
  rig.kernel->store_driver_ok_after(20);
  ASSERT_TRUE(rig.advance(VduseRig::s_running));
  rig.device->config = {std::byte{1}};
  rig.device->host->config_changed(0, 1);
  rig.loop.advance(std::chrono::seconds(1));
  EXPECT_EQ(rig.kernel->config_interrupts(), 1U);
}

TEST_P(EitherExport, AChangeBeforeDriverOkIsWrittenAndNotTold) {
  VduseRig rig(setup());
  ASSERT_TRUE(rig.negotiate());
  rig.device->config = {std::byte{9}};
  rig.device->host->config_changed(0, 1);
  rig.place();
  ASSERT_TRUE(rig.advance(VduseRig::s_running));
  rig.settle();
  EXPECT_EQ(rig.kernel->config_interrupts(), 0U);
}

}  // namespace
}  // namespace outboard::vduse
