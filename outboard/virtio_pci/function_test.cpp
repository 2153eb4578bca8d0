#include <outboard/virtio_pci/function.hpp>

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <optional>

#include <outboard/pci/express_registers.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/virtio/spec.hpp>
#include <tests/support/virtio_function_rig.hpp>

namespace outboard::virtio_pci {
namespace {

using Common = spec::CommonConfig;
using Rig = testing::VirtioFunctionRig;
using testing::ManualLoop;
using testing::ProbeDevice;
using virtio::Feature;
namespace status = virtio::spec::status;
constexpr std::uint8_t live = Rig::live;

int creation_error(Function::Options options, virtio::Identity identity) {
  ManualLoop loop;
  auto made = Function::create(std::make_unique<ProbeDevice>(std::move(identity)), loop, Log(), std::move(options));
  return made ? 0 : made.error().code();
}

// Identity and capabilities.

TEST(Identity, IsAModernVirtioFunction) {  // D-DISC-1...6
  Rig r({}, {.device_id = 2, .queue_sizes = {8}, .config_size = 96});
  EXPECT_EQ(r.config<std::uint16_t>(0x00), 0x1af4);
  EXPECT_EQ(r.config<std::uint16_t>(0x02), 0x1042);
  EXPECT_EQ(r.config<std::uint32_t>(0x08), 0x018000'01U);
  EXPECT_EQ(r.config<std::uint16_t>(0x2c), 0x1af4);
  EXPECT_GE(r.config<std::uint16_t>(0x2e), 0x40);
}

TEST(Identity, OnlyIds1To63CanBeExpressed) {
  EXPECT_EQ(creation_error({}, {.device_id = 0, .queue_sizes = {8}}), EINVAL);
  EXPECT_EQ(creation_error({}, {.device_id = 64, .queue_sizes = {8}}), EINVAL);
  EXPECT_EQ(creation_error({}, {.device_id = 63, .queue_sizes = {8}}), 0);
}

TEST(Identity, RefusesOptionsOutOfTheirRange) {
  const virtio::Identity good{.device_id = 63, .queue_sizes = {8}};
  EXPECT_EQ(creation_error({.vectors = 1}, good), EINVAL);
  EXPECT_EQ(creation_error({.vectors = 2049}, good), EINVAL);
  EXPECT_EQ(creation_error({.shared_doorbells = true}, good), EINVAL) << "without polling nobody would look";
  EXPECT_EQ(creation_error({.subsystem = 0x3f}, good), EINVAL);
  EXPECT_EQ(creation_error({}, {.device_id = 63, .queue_sizes = {8}, .config_size = 4097}), EINVAL);
}

TEST(Capabilities, LeadToEachStructure) {  // D-CC-1, 2; D-NTF-1...5; D-ISR-1; D-DCFG-0, 1; D-CAP-1
  Rig r;
  const auto common = r.structure(spec::Structure::common);
  EXPECT_EQ(common.cap_len, 16);
  EXPECT_EQ(common.bar, 0);
  EXPECT_EQ(common.offset, Function::common_at);
  EXPECT_EQ(common.length, 64U);

  const auto notify = r.structure(spec::Structure::notify);
  EXPECT_EQ(notify.cap_len, 20);
  EXPECT_EQ(notify.offset, Function::notify_at);
  EXPECT_EQ(notify.length, 8U) << "four bytes for each of two queues";
  EXPECT_EQ(r.config<std::uint32_t>(r.capability(9, spec::Structure::notify) + 16U), 4U);

  const auto isr = r.structure(spec::Structure::isr);
  EXPECT_EQ(isr.offset, Function::isr_at);
  EXPECT_EQ(isr.length, 1U);

  const auto device = r.structure(spec::Structure::device);
  EXPECT_EQ(device.offset, Function::device_at);
  EXPECT_EQ(device.length, 16U);

  const auto window = r.structure(spec::Structure::pci_cfg);  // D-PCFG-1
  EXPECT_EQ(window.cap_len, 20);
}

TEST(Capabilities, NoDeviceConfigurationNoCapability) {
  Rig r({}, {.device_id = 4, .queue_sizes = {8}});
  EXPECT_EQ(r.capability(9, spec::Structure::device), 0);
  EXPECT_NE(r.capability(9, spec::Structure::isr), 0);
}

TEST(Capabilities, MsixHasAVectorForEachQueueAndOne) {  // D-MSIX-1, 2
  Rig r;
  EXPECT_EQ(r.config<std::uint16_t>(r.capability(0x11) + 2U) & 0x7ff, 3 - 1);
  Rig many({}, {.device_id = 63, .queue_sizes = std::vector<std::uint16_t>(300, 2)});
  EXPECT_EQ(many.config<std::uint16_t>(many.capability(0x11) + 2U) & 0x7ff, 128 - 1);
  Rig most({.vectors = 2048});
  EXPECT_EQ(most.config<std::uint16_t>(most.capability(0x11) + 2U) & 0x7ff, 2048 - 1);
}

TEST(Capabilities, AreReadOnlyButForTheWindow) {
  Rig r;
  const auto at = r.capability(9, spec::Structure::common);
  r.set_config<std::uint32_t>(at + 8U, 0xffffffff);
  EXPECT_EQ(r.structure(spec::Structure::common).offset, Function::common_at);
}

// Kicks.

TEST(Unmap, ThatIsLateLeavesADeviceThatNeedsAReset) {
  Rig rig;
  rig.negotiate();
  rig.set_status(Rig::live);
  rig.function->unmap_is_late("as the test wants");
  EXPECT_EQ(rig.device_status(), Rig::live | virtio::spec::status::needs_reset);
  rig.negotiate();
  EXPECT_EQ(rig.device_status(), Rig::agreed);
}

TEST(Notify, AKickIsServedWhateverIsWritten) {
  Rig r;
  r.start();
  r.publish(0, 0, 41);
  r.set_bar<std::uint16_t>(Function::notify_at, 0xdead);
  r.loop.run_until_idle();
  EXPECT_EQ(r.answer(0, 0), 42U);
  EXPECT_EQ(r.used_index(0), 1);
  r.publish(0, 1, 1);
  r.set_bar<std::uint32_t>(Function::notify_at, 0x8765'4321);  // as with NOTIFICATION_DATA
  r.loop.run_until_idle();
  EXPECT_EQ(r.answer(0, 1), 2U);
  EXPECT_EQ(r.bar<std::uint32_t>(Function::notify_at), 0U) << "a doorbell reads as zero";
}

TEST(Notify, TheAddressSelectsTheQueue) {
  Rig r;
  r.start();
  r.publish(1, 0, 7);
  r.set_bar<std::uint16_t>(Function::notify_at, 1);
  r.loop.run_until_idle();
  EXPECT_EQ(r.used_index(1), 0);
  r.set_bar<std::uint16_t>(Function::notify_at + 4, 0);
  r.loop.run_until_idle();
  EXPECT_EQ(r.used_index(1), 1);
}

TEST(Notify, AnEventfdStandsForEachDoorbell) {
  Rig r;
  r.start();
  const auto eventfds = r.function->io_eventfds(0);
  ASSERT_EQ(eventfds.size(), 2U);
  EXPECT_EQ(eventfds[1].offset, Function::notify_at + 4);
  EXPECT_FALSE(eventfds[1].datamatch);
  EXPECT_TRUE(r.function->io_eventfds(1).empty());

  r.publish(1, 0, 9);
  eventfds[1].fd->signal();
  r.loop.run_until_idle();
  EXPECT_EQ(r.answer(1, 0), 10U);
}

TEST(Notify, TheNextClientGetsDoorbellsThatTheLastOneCannotSpoil) {
  Rig r;
  r.start();
  const UniqueFd kept = r.function->io_eventfds(0)[1].fd->fd().duplicate().value();
  const std::uint64_t saturated = UINT64_MAX - 1;
  ASSERT_EQ(::write(kept.get(), &saturated, sizeof saturated), static_cast<ssize_t>(sizeof saturated));
  bool released = false;
  r.function->release_client([&](const Status&) { released = true; });
  r.loop.run_until_idle();
  ASSERT_TRUE(released);

  r.memory.clear();
  r.available.clear();
  r.set_command(6);
  r.start();
  r.publish(1, 0, 9);
  r.function->io_eventfds(0)[1].fd->signal();
  r.loop.run_until_idle();
  EXPECT_EQ(r.answer(1, 0), 10U);
}

TEST(Notify, KicksWithoutReasonDoNothing) {  // VD-40, VD-41; D-AN-5
  Rig r;
  r.start();
  for (int i = 0; i < 1000; ++i) {
    for (std::uint32_t at = 0; at < 0x1000; at += 510) r.set_bar<std::uint16_t>(Function::notify_at + at, 0);
  }
  r.kick(0);
  EXPECT_EQ(r.device->handled, 0U);
  EXPECT_EQ(r.device_status(), live);
  r.publish(0, 0, 1);
  r.kick(0);
  EXPECT_EQ(r.answer(0, 0), 2U);
}

TEST(Notify, NothingIsConsumedBeforeDriverOkAndEverythingAfter) {  // VD-42; D-STAT-1
  Rig r;
  r.negotiate();
  r.set_up_queue(0);
  r.publish(0, 0, 1);
  r.kick(0);
  EXPECT_EQ(r.used_index(0), 0);
  EXPECT_EQ(r.device->handled, 0U);
  r.set_status(live);
  r.loop.run_until_idle();
  EXPECT_EQ(r.answer(0, 0), 2U) << "the ring is looked at without a kick";
}

TEST(Notify, SharedDoorbellsAreMemory) {
  Rig r({.core = {.poll = true}, .shared_doorbells = true});
  const auto info = r.function->region(0);
  ASSERT_EQ(info.areas.size(), 1U);
  EXPECT_EQ(info.areas[0].offset, Function::notify_at);
  EXPECT_TRUE(r.function->io_eventfds(0).empty());
}

TEST(Notify, WithoutBusMasteringNothingMoves) {  // VD-52
  Rig r;
  r.start();
  r.set_command(2);
  r.publish(0, 0, 1);
  r.kick(0);
  EXPECT_EQ(r.device->handled, 0U);
  EXPECT_EQ(r.used_index(0), 0);
  r.set_command(6);
  r.kick(0);
  EXPECT_EQ(r.answer(0, 0), 2U);
}

// Interrupts.

TEST(Msix, EveryEventMapsToEveryVector) {  // D-MSIX-4, 5, 6, 9; VD-46
  Rig r;
  for (const std::size_t field : {offsetof(Common, config_msix_vector), offsetof(Common, queue_msix_vector)}) {
    for (std::uint16_t queue = 0; queue < 2; ++queue) {
      r.select(queue);
      for (const std::uint16_t vector : {0, 1, 2}) {
        r.set_bar<std::uint16_t>(field, vector);
        EXPECT_EQ(r.bar<std::uint16_t>(field), vector);
      }
      for (const std::uint16_t vector : {3, 0x7ff, 0x8000, 0xffff}) {
        r.set_bar<std::uint16_t>(field, 1);
        r.set_bar<std::uint16_t>(field, vector);
        EXPECT_EQ(r.bar<std::uint16_t>(field), spec::no_vector) << vector;
      }
    }
  }
}

TEST(Msix, AUsedBufferSignalsTheQueuesVector) {
  Rig r;
  const auto vectors = r.enable_msix();
  r.start();
  for (std::uint16_t vector = 0; vector < 3; ++vector) {
    r.select(0);
    r.set_bar<std::uint16_t>(offsetof(Common, queue_msix_vector), vector);
    r.publish(0, 0, 1);
    r.kick(0);
    for (std::uint16_t other = 0; other < 3; ++other) EXPECT_EQ(vectors[other].drain(), other == vector ? 1U : 0U);
  }
  EXPECT_EQ(r.bar<std::uint8_t>(Function::isr_at), 0) << "bit 0 is for INTx";
}

TEST(Msix, NoVectorNoInterrupt) {  // D-UBN-1, D-CCN-1
  Rig r;
  const auto vectors = r.enable_msix();
  r.start();
  r.publish(0, 0, 1);
  r.kick(0);
  r.device->change_config(0, std::byte{9});
  r.loop.run_until_idle();
  EXPECT_EQ(r.used_index(0), 1);
  for (const auto& vector : vectors) EXPECT_EQ(vector.drain(), 0U);
}

TEST(Msix, ADeviceResetUnmapsEverything) {  // D-MSIX-7
  Rig r;
  r.enable_msix();
  r.start();
  r.set_bar<std::uint16_t>(offsetof(Common, config_msix_vector), 1);
  r.set_bar<std::uint16_t>(offsetof(Common, queue_msix_vector), 1);
  r.set_status(0);
  r.loop.run_until_idle();
  EXPECT_EQ(r.device_status(), 0);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, config_msix_vector)), spec::no_vector);
  for (const std::uint16_t queue : {0, 1}) {
    r.select(queue);
    EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_msix_vector)), spec::no_vector);
  }
}

TEST(Isr, AConfigurationChangeSetsItsBitUnderMsixToo) {  // D-ISR-2, 5; D-STAT-3
  Rig r;
  const auto vectors = r.enable_msix();
  r.start();
  r.set_bar<std::uint16_t>(offsetof(Common, config_msix_vector), 2);
  r.device->change_config(3, std::byte{0x77});
  r.loop.run_until_idle();
  EXPECT_EQ(vectors[2].drain(), 1U);
  EXPECT_EQ(r.bar<std::uint8_t>(Function::isr_at), spec::isr::config);
  EXPECT_EQ(r.bar<std::uint8_t>(Function::isr_at), 0) << "reading clears";
}

TEST(Isr, IntxIsALevelThatReadingTakesDown) {  // D-ISR-3, 4, 5
  Rig r;
  const EventFd line = r.enable_intx();
  r.start();
  r.publish(0, 0, 1);
  r.kick(0);
  EXPECT_EQ(line.drain(), 1U);
  EXPECT_NE(r.config<std::uint16_t>(6) & 8, 0) << "PCI Status.InterruptStatus";
  EXPECT_EQ(r.bar<std::uint8_t>(Function::isr_at), spec::isr::queue);
  EXPECT_EQ(r.config<std::uint16_t>(6) & 8, 0);
  ASSERT_TRUE(r.function->unmask_interrupts(pci::InterruptKind::intx, 0, 1));
  EXPECT_EQ(line.drain(), 0U);

  r.publish(0, 1, 1);
  r.kick(0);
  r.device->change_config(0, std::byte{1});
  r.loop.run_until_idle();
  EXPECT_EQ(line.drain(), 1U);
  EXPECT_EQ(r.bar<std::uint8_t>(Function::isr_at), spec::isr::queue | spec::isr::config);
}

TEST(Isr, ADeviceResetTakesTheLineDown) {
  Rig r;
  const EventFd line = r.enable_intx();
  r.start();
  r.publish(0, 0, 1);
  r.kick(0);
  ASSERT_EQ(line.drain(), 1U);
  r.set_status(0);
  r.loop.run_until_idle();
  ASSERT_EQ(r.device_status(), 0);
  EXPECT_EQ(r.config<std::uint16_t>(6) & 8, 0) << "PCI Status.InterruptStatus";
  ASSERT_TRUE(r.function->unmask_interrupts(pci::InterruptKind::intx, 0, 1));
  EXPECT_EQ(line.drain(), 0U);
  EXPECT_EQ(r.bar<std::uint8_t>(Function::isr_at), 0);
}

TEST(Isr, ABrokenDeviceSaysSo) {
  Rig r;
  const EventFd line = r.enable_intx();
  r.start();
  r.publish(0, 0, 1);
  Rig::store(r.memory[0]->data() + 0x1000 + 4, le16(99));  // a head that there is not
  r.kick(0);
  EXPECT_EQ(r.device_status(), live | status::needs_reset);
  EXPECT_EQ(line.drain(), 1U);
  EXPECT_EQ(r.bar<std::uint8_t>(Function::isr_at), spec::isr::config);
}

// Resets.

TEST(Reset, StatusReadsZeroOnlyWhenNothingTouchesMemoryAnyMore) {  // VD-51; D-RST-1, 2; D-CC-7, 8
  Rig r;
  const auto vectors = r.enable_msix();
  r.device->keep = true;
  r.device->hold_on_stop = true;
  r.start();
  r.publish(0, 0, 1);
  r.kick(0);
  ASSERT_EQ(r.device->kept.size(), 1U);
  const unsigned resets = r.device->resets;

  r.set_status(0);
  r.loop.run_until_idle();
  EXPECT_EQ(r.device_status(), live);
  r.set_status(status::acknowledge);
  EXPECT_EQ(r.device_status(), live) << "nothing else is taken meanwhile";

  r.device->release();
  r.loop.run_until_idle();
  EXPECT_EQ(r.device_status(), 0);
  EXPECT_EQ(r.used_index(0), 0);
  EXPECT_EQ(r.device->resets, resets + 1);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_enable)), 0);
  for (const auto& vector : vectors) EXPECT_EQ(vector.drain(), 0U);
}

TEST(Reset, TheSameFeaturesAreAcceptedAgain) {  // D-FEAT-4
  Rig r;
  for (int i = 0; i < 3; ++i) {
    r.start({Feature::event_idx, Feature::indirect_desc});
    EXPECT_EQ(r.device_status(), live);
    r.available.clear();
  }
}

TEST(Reset, AFunctionResetIsADeviceResetToo) {
  Rig r;
  r.start();
  r.set_bar<std::uint16_t>(offsetof(Common, config_msix_vector), 1);
  bool done = false;
  r.function->reset([&](const Status& result) { done = result.has_value(); });
  r.loop.run_until_idle();
  EXPECT_TRUE(done);
  r.set_command(6);
  EXPECT_EQ(r.device_status(), 0);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, config_msix_vector)), spec::no_vector);
  r.available.clear();
  r.start();
  r.publish(0, 0, 1);
  r.kick(0);
  EXPECT_EQ(r.answer(0, 0), 2U) << "and the device works again";
}

/// A function with a request at a back end that hangs.
class LateReset : public ::testing::Test {
 protected:
  void SetUp() override {
    r.device->keep = true;
    r.device->hold_on_stop = true;
    r.start();
    r.publish(0, 0, 1);
    r.kick(0);
    ASSERT_EQ(r.device->kept.size(), 1U);
  }
  void hang() { r.loop.advance(std::chrono::seconds(10)); }
  bool pending() {
    const auto at = r.capability(0x10) + pci::DeviceStatus::in_capability;
    return (r.config<std::uint16_t>(at) & pci::DeviceStatus::transactions_pending.mask) != 0;
  }
  /// In reset, whatever a driver tries.
  void expect_in_reset() {
    EXPECT_TRUE(pending());
    r.set_command(6);
    EXPECT_EQ(r.device_status(), 0xff);
    r.set_status(0);
    r.set_status(Rig::live);
    r.loop.run_until_idle();
    EXPECT_EQ(r.device_status(), 0xff) << "no driver takes it for reset";
    EXPECT_EQ(r.used_index(0), 0);
  }
  void expect_reset_when_it_ends() {
    r.device->release();
    r.loop.run_until_idle();
    EXPECT_FALSE(pending());
    EXPECT_EQ(r.device_status(), 0);
    EXPECT_EQ(r.used_index(0), 0) << "the answer is dropped";
    EXPECT_EQ(r.bar<std::uint8_t>(Function::isr_at), 0);
    r.device->keep = r.device->hold_on_stop = false;
    r.available.clear();
    r.start();
    r.publish(0, 0, 1);
    r.kick(0);
    EXPECT_EQ(r.answer(0, 0), 2U) << "and the device works again";
  }

  Rig r;
};

TEST_F(LateReset, IsNotCalledDoneBeforeItsEnd) {
  std::optional<Status> done;
  r.function->reset([&](Status result) { done = std::move(result); });
  hang();
  EXPECT_FALSE(done);
  expect_in_reset();
  expect_reset_when_it_ends();
  ASSERT_TRUE(done);
  EXPECT_TRUE(*done);
}

TEST_F(LateReset, ByAFunctionLevelResetShowsThatTransactionsArePending) {
  const auto control = r.capability(0x10) + pci::DeviceControl::in_capability;
  EXPECT_FALSE(pending());
  r.set_config<std::uint16_t>(control, 0x8000);
  hang();
  EXPECT_EQ(r.config<std::uint16_t>(control) & 0x8000, 0);
  expect_in_reset();
  expect_reset_when_it_ends();
}

TEST_F(LateReset, ByWakingItFromD3hotShowsThatTransactionsArePending) {
  const auto power = r.capability(0x01) + pci::PowerManagementControl::in_capability;
  r.set_config<std::uint16_t>(power, 3);
  r.set_config<std::uint16_t>(power, 0);
  hang();
  expect_in_reset();
  expect_reset_when_it_ends();
}

TEST_F(LateReset, ByStatusReadsWhatIsNotZero) {
  r.set_status(0);
  hang();
  EXPECT_EQ(r.device_status(), live | status::needs_reset);
  r.set_status(status::acknowledge);
  EXPECT_EQ(r.device_status(), live | status::needs_reset);
  expect_reset_when_it_ends();
}

TEST(QueueReset, ReadsOneUntilTheQueueHasDrained) {  // VD-50; D-VQR-1, 2; D-CC-9...13; D-VQE-1
  Rig r;
  const auto vectors = r.enable_msix();
  r.device->keep = true;
  r.device->hold_on_stop = true;
  r.start({Feature::ring_reset});
  r.select(0);
  r.set_bar<std::uint16_t>(offsetof(Common, queue_msix_vector), 1);
  r.publish(0, 0, 1);
  r.kick(0);

  r.set_bar<std::uint16_t>(offsetof(Common, queue_reset), 1);
  r.loop.run_until_idle();
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_reset)), 1);
  r.set_bar<std::uint16_t>(offsetof(Common, queue_reset), 0);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_reset)), 1);

  r.device->release();
  r.loop.run_until_idle();
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_reset)), 0);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_enable)), 0);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_msix_vector)), spec::no_vector);
  EXPECT_EQ(r.used_index(0), 0);
  EXPECT_EQ(vectors[1].drain(), 0U);

  r.device->keep = false;
  r.available.clear();
  r.set_up_queue(0);
  r.publish(0, 0, 5);
  r.kick(0);
  EXPECT_EQ(r.answer(0, 0), 6U);
  EXPECT_EQ(r.device_status(), live);
}

TEST(QueueReset, IsIgnoredWhereItWasNotNegotiatedOrTheQueueIsOff) {
  Rig r;
  r.start();
  r.set_bar<std::uint16_t>(offsetof(Common, queue_reset), 1);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_enable)), 1);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_reset)), 0);
  r.negotiate({Feature::ring_reset});
  r.set_bar<std::uint16_t>(offsetof(Common, queue_reset), 1);
  EXPECT_EQ(r.bar<std::uint16_t>(offsetof(Common, queue_reset)), 0);
}

}  // namespace
}  // namespace outboard::virtio_pci
