// A device whose server has died, taken over by the next one: with its journal, against a kernel that is played.

#include <unistd.h>

#include <gtest/gtest.h>

#include <outboard/journal/file.hpp>
#include <outboard/memory/fault_guard.hpp>
#include <tests/support/temp_dir.hpp>
#include <tests/support/vduse_rig.hpp>

namespace outboard::vduse {
namespace {

namespace bit = virtio::spec::status;
using outboard::testing::FakeVduse;
using outboard::testing::VduseRig;
using Call = FakeVduse::Call;

class Adopting : public ::testing::TestWithParam<bool> {
 protected:
  static void SetUpTestSuite() { ASSERT_TRUE(memory::install_fault_guard()); }

  Adopting() : rig({.packed = GetParam(), .started = false}) {
    journal = journal::File::create(path(), shape()).value();
    rig.exported->core().set_journal(*journal);
    rig.start();
    EXPECT_TRUE(rig.kernel->attach());
  }
  ~Adopting() override { rig.exported.reset(); }

  std::string path() { return dir.path("journal"); }
  journal::File::Shape shape() {
    const auto& core = rig.exported->core();
    return {.device_id = core.identity().device_id,
            .offered = core.offered(),
            .queue_sizes = core.identity().queue_sizes,
            .config_size = core.identity().config_size};
  }
  /// SIGKILL: nothing that the dead server still does reaches anybody.
  void die() {
    rig.kernel->kill_server();
    rig.make_export();
    journal.reset();
  }
  Status adopt() {
    journal = journal::File::open(path(), shape()).value();
    rig.exported->core().set_journal(*journal);
    Export::Predecessor predecessor{.driver_ok_timeout = timeout};
    predecessor.recover = [this] { return journal->recover(rig.exported->memory(), rig.exported->queue_memory()); };
    const Status adopted = rig.exported->adopt(rig.kernel->open().value(), predecessor);
    if (adopted) rig.settle();
    return adopted;
  }
  void keep_and_publish(int count) {
    rig.device->on_request = rig.device->keep();
    for (int i = 0; i < count; ++i) rig.driver().chain().readable("kept").writable(4).publish();
    rig.kick();
  }

  outboard::testing::TempDir dir;
  VduseRig rig;
  std::unique_ptr<journal::File> journal;
  Duration timeout{0};
};
INSTANTIATE_TEST_SUITE_P(Rings, Adopting, ::testing::Bool(),
                         [](const auto& each) { return each.param ? "Packed" : "Split"; });

TEST_P(Adopting, AnswersWhatWasInFlightOnceAndGoesOn) {
  rig.run();
  ASSERT_TRUE(rig.works());
  keep_and_publish(3);
  const auto before = rig.kernel->interrupts(0);
  die();
  ASSERT_TRUE(adopt());
  EXPECT_EQ(rig.device->requests, 3U);
  EXPECT_EQ(rig.driver().used_count(), 4U);
  EXPECT_GT(rig.kernel->interrupts(0), before);
  EXPECT_TRUE(rig.works());
}

TEST_P(Adopting, LooksForWhatCameWhileNobodyServed) {
  rig.run();
  die();
  for (int i = 0; i < 2; ++i) rig.driver().chain().readable("late").writable(4).publish();
  rig.kernel->kick(0);
  ASSERT_TRUE(adopt());
  EXPECT_EQ(rig.driver().used_count(), 2U);
}

TEST_P(Adopting, TellsOfWhatWasPublishedAndNotToldOf) {
  rig.run();
  const auto before = rig.kernel->interrupts(0);
  die();
  ASSERT_TRUE(adopt());
  EXPECT_GT(rig.kernel->interrupts(0), before) << "one interrupt too many hurts nobody";
}

TEST_P(Adopting, CanBeDoneAgainAndAgain) {
  rig.run();
  for (int round = 0; round < 20; ++round) {
    keep_and_publish(2);
    die();
    ASSERT_TRUE(adopt()) << round;
    ASSERT_EQ(rig.driver().take_used().size(), 2U) << round;
  }
}

TEST_P(Adopting, VDUSE21_AResetThatTheDeadServerHadReadIsCarriedOut) {
  rig.run();
  keep_and_publish(1);
  rig.device->gives_up_kept = false;
  const auto reset = rig.kernel->set_status(0);
  rig.settle();
  ASSERT_TRUE(reset.read());
  ASSERT_FALSE(reset.answered());
  die();
  ASSERT_TRUE(adopt());
  EXPECT_TRUE(reset.ok());
  EXPECT_EQ(rig.device->requests, 0U) << "nothing is replayed for a driver that has gone";
  EXPECT_EQ(rig.exported->core().status(), 0);
  EXPECT_TRUE(rig.begins_anew());
}

TEST_P(Adopting, VDUSE21_ALoggedButUnansweredDriverOkIsAnswered) {
  ASSERT_TRUE(rig.negotiate());
  rig.place();
  // It dies between the note and the answer.
  rig.kernel->fail(Call::reply, EIO);
  const auto running = rig.kernel->set_status(VduseRig::s_running);
  rig.settle();
  ASSERT_FALSE(running.answered());
  die();
  ASSERT_TRUE(adopt());
  EXPECT_TRUE(running.ok());
  EXPECT_TRUE(rig.works());
}

TEST_P(Adopting, VDUSE18_DriverOkThatWasLoggedAndThenWithdrawnIsNotRun) {
  ASSERT_TRUE(rig.negotiate());
  rig.place();
  rig.kernel->fail(Call::reply, EIO);
  const auto running = rig.kernel->set_status(VduseRig::s_running);
  rig.settle();
  die();
  rig.kernel->withdraw(running);
  ASSERT_TRUE(adopt());
  EXPECT_EQ(rig.exported->core().status(), 0);
  EXPECT_TRUE(rig.works_after_reset());
}

TEST_P(Adopting, ASuspendedDeviceRunsNothingBeforeItIsReset) {
  rig.run();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(rig.works());
  const auto suspended = rig.kernel->suspend();
  rig.settle();
  ASSERT_TRUE(suspended.ok());
  die();
  ASSERT_TRUE(adopt());
  for (const std::uint8_t again : {VduseRig::s_features, VduseRig::s_running}) {
    EXPECT_TRUE(rig.advance(again));
    EXPECT_EQ(rig.device->requests, 0U) << "the dead server has carried them out";
    EXPECT_EQ(rig.driver().used_count(), 3U);
    const auto position = rig.kernel->get_vq_state(0);
    rig.settle();
    EXPECT_EQ(position.outcome(), FakeVduse::Outcome::refused);
  }
  EXPECT_TRUE(rig.works_after_reset());
  const auto position = rig.kernel->get_vq_state(0);
  rig.settle();
  EXPECT_TRUE(position.ok());
}

TEST_P(Adopting, FeaturesThatWereAgreedOnAreKeptForADriverThatGoesOn) {
  ASSERT_TRUE(rig.negotiate());
  die();
  ASSERT_TRUE(adopt());
  rig.place();
  ASSERT_TRUE(rig.advance(VduseRig::s_running));
  EXPECT_TRUE(rig.works());
}

TEST_P(Adopting, ADriverThatHadNotBegunAndIsGoneIsForgotten) {
  ASSERT_TRUE(rig.negotiate());
  die();
  // Whoever wrote the reset was killed, so that no message is left of it.
  rig.kernel->withdraw(rig.kernel->set_status(0));
  rig.kernel->set_driver_features(0);
  ASSERT_TRUE(adopt());
  EXPECT_EQ(rig.exported->core().status(), 0);
  rig.run();
  EXPECT_TRUE(rig.works());
}

TEST_P(Adopting, DriverOkThatWasAnsweredAndIsNotStoredYetIsWaitedFor) {
  ASSERT_TRUE(rig.negotiate());
  rig.place();
  rig.kernel->store_driver_ok_after(3);
  ASSERT_TRUE(rig.advance(VduseRig::s_running));
  die();
  timeout = std::chrono::seconds(10);
  ASSERT_TRUE(adopt());
  EXPECT_TRUE(rig.works());
}

TEST_P(Adopting, IsRefusedWithoutAJournalWhileTheDriverRuns) {
  rig.run();
  die();
  const Status adopted =
      rig.exported->adopt(rig.kernel->open().value(), {.unknown_because = Error(ENOENT, "no journal")});
  ASSERT_FALSE(adopted);
  EXPECT_EQ(adopted.error().code(), ENOENT);
  EXPECT_FALSE(rig.kernel->is_open());
}

TEST_P(Adopting, NeedsNoJournalWhereNoDriverRuns) {
  rig.advance(0);
  die();
  ASSERT_TRUE(rig.exported->adopt(rig.kernel->open().value(), {.unknown_because = Error(ENOENT, "no journal")}));
  rig.run();
  EXPECT_TRUE(rig.works());
}

TEST_P(Adopting, IsRefusedWhereTheDriverHasAcceptedSomethingElse) {
  rig.run();
  die();
  rig.kernel->set_driver_features(0);
  EXPECT_EQ(adopt().error().code(), ESTALE);
  EXPECT_FALSE(rig.kernel->is_open());
}

TEST_P(Adopting, IsRefusedWhereAQueueIsSomewhereElse) {
  rig.run();
  die();
  FakeVduse::Ring moved{.num = rig.driver().size(),
                        .descriptors = raw(rig.driver().address(0)) + 4096,
                        .driver = raw(rig.driver().address(1)),
                        .device = raw(rig.driver().address(2))};
  if (GetParam()) moved.state.packed = {1, 0, 1, 0};
  rig.kernel->place_queue(0, moved);
  EXPECT_EQ(adopt().error().code(), ESTALE);
}

TEST_P(Adopting, VDUSE20_ADeviceThatTheKernelGivesUpMeanwhileIsRefused) {
  rig.run();
  die();
  rig.kernel->fail(Call::inject_config_interrupt, EPERM);
  EXPECT_EQ(adopt().error().code(), EPERM);
  EXPECT_FALSE(rig.kernel->is_open());
}

TEST_P(Adopting, FinishesWhatADeviceThatBrokeHadInFlight) {
  rig.run();
  keep_and_publish(2);
  rig.device->host->violation("test", "as the test wants");
  rig.settle();
  die();
  ASSERT_TRUE(adopt());
  EXPECT_EQ(rig.driver().used_count(), 2U);
}

TEST_P(Adopting, WritesAConfigurationThatHasChangedMeanwhile) {
  rig.device->config = {std::byte{1}};
  rig.run();
  die();
  rig.device->config = {std::byte{2}};
  ASSERT_TRUE(adopt());
  EXPECT_EQ(rig.kernel->config()[0], std::byte{2});
  EXPECT_GE(rig.kernel->config_interrupts(), 1U);
}

}  // namespace
}  // namespace outboard::vduse
