// A virtio function whose state is saved, loaded into another one, and goes on there.

#include <gtest/gtest.h>

#include <tests/support/virtio_function_rig.hpp>

namespace outboard::virtio_pci {
namespace {

using testing::VirtioFunctionRig;

Status stopped(VirtioFunctionRig& rig) {
  Status result = Error(EINPROGRESS, "it has not stopped");
  rig.function->stop([&](const Status& status) { result = status; });
  rig.loop.run_until_idle();
  return result;
}

Status loaded(VirtioFunctionRig& rig, std::vector<std::byte> state) {
  Status result = Error(EINPROGRESS, "it has not been loaded");
  rig.function->load(std::move(state), [&](const Status& status) { result = status; });
  rig.loop.run_until_idle();
  return result;
}

Status runs(VirtioFunctionRig& rig) {
  Status result = rig.function->run();
  rig.loop.run_until_idle();
  return result;
}

/// Gives a function the memory of another one, at the same addresses.
void share_memory(VirtioFunctionRig& from, VirtioFunctionRig& to) {
  for (std::uint16_t queue = 0; queue < 2; ++queue) {
    to.memory[queue] = from.memory[queue];
    const memory::Iova at{(queue + 1) * UINT64_C(0x10'0000)};
    EXPECT_TRUE(to.function->map({.range = {at, 0x4000}, .memory = to.memory[queue]}));
  }
}

TEST(SavedVirtioFunction, HasTheFunctionTheSelectorsTheVectorsTheIsrAndTheDevice) {
  VirtioFunctionRig r;
  r.start();
  r.set_bar<std::uint32_t>(offsetof(spec::CommonConfig, device_feature_select), 1);
  r.set_bar<std::uint16_t>(offsetof(spec::CommonConfig, config_msix_vector), 2);
  r.select(1);
  r.set_bar<std::uint16_t>(offsetof(spec::CommonConfig, queue_msix_vector), 0);
  r.publish(0, 0, 41);
  r.kick(0);

  ASSERT_TRUE(stopped(r));
  const auto bytes = r.function->save().value();
  auto state = StateReader::open(bytes, state_tag("STAT"), 1).value();
  auto whole = state.section(state_tag("VFUN"), 1).value();
  EXPECT_TRUE(state.end());
  EXPECT_TRUE(whole.section(state_tag("FUNC"), 1));
  auto common = whole.section(state_tag("VPCI"), 1).value();
  EXPECT_EQ(common.get<std::uint32_t>().value(), 1U) << "device_feature_select";
  EXPECT_EQ(common.get<std::uint32_t>().value(), 3U) << "driver_feature_select";
  EXPECT_EQ(common.get<std::uint16_t>().value(), 1U) << "queue_select";
  EXPECT_EQ(common.get<std::uint16_t>().value(), 2U) << "config_msix_vector";
  EXPECT_EQ(common.get<std::uint16_t>().value(), 2U) << "queues";
  EXPECT_EQ(common.get<std::uint16_t>().value(), spec::no_vector);
  EXPECT_EQ(common.get<std::uint16_t>().value(), 0U);
  EXPECT_TRUE(common.end());
  EXPECT_EQ(whole.get<std::uint8_t>().value(), 1U) << "a used buffer, and nobody has read it";
  EXPECT_FALSE(whole.get_flag().value());
  EXPECT_TRUE(whole.section(state_tag("VDEV"), 1));
  EXPECT_TRUE(whole.end());
}

/// One function with requests in flight, stopped, and another one that is to go on.
class MovedFunction : public ::testing::Test {
 protected:
  void SetUp() override {
    from_.start();
    from_.device->keep = true;
    from_.publish(0, 0, 41);
    from_.publish(0, 1, 51);
    from_.kick(0);
    ASSERT_EQ(from_.device->kept.size(), 2U);
    ASSERT_TRUE(stopped(from_));
    state_ = from_.function->save().value();
    ASSERT_TRUE(stopped(to_));
  }
  void expect_both_answered(VirtioFunctionRig& rig) {
    EXPECT_EQ(rig.used_index(0), 2U);
    EXPECT_EQ(rig.answer(0, 0), 42U);
    EXPECT_EQ(rig.answer(0, 1), 52U);
    EXPECT_EQ(rig.device_status(), VirtioFunctionRig::live);
  }

  VirtioFunctionRig from_, to_;
  std::vector<std::byte> state_;
};

TEST_F(MovedFunction, AnswersElsewhereWhatWasInFlight) {
  share_memory(from_, to_);
  ASSERT_TRUE(loaded(to_, state_));
  EXPECT_EQ(to_.device->handled, 0U) << "it is stopped";
  EXPECT_EQ(to_.function->save().value(), state_);
  ASSERT_TRUE(runs(to_));
  EXPECT_EQ(to_.device->handled, 2U);
  expect_both_answered(to_);
  to_.available[0] = 2;
  to_.publish(0, 2, 61);
  to_.kick(0);
  EXPECT_EQ(to_.answer(0, 2), 62U);
}

TEST_F(MovedFunction, AnswersItselfWhereItGoesOnAfterAll) {
  from_.device->keep = false;
  ASSERT_TRUE(runs(from_));
  expect_both_answered(from_);
  EXPECT_EQ(from_.device->handled, 4U) << "twice, the first time without an answer";
}

TEST_F(MovedFunction, TakesNoNewRequestsWhileItIsStopped) {
  from_.publish(0, 2, 61);
  from_.kick(0);
  EXPECT_EQ(from_.device->handled, 2U);
  EXPECT_EQ(from_.used_index(0), 0U);
  from_.device->keep = false;
  ASSERT_TRUE(runs(from_));
  EXPECT_EQ(from_.used_index(0), 3U);
}

TEST_F(MovedFunction, CanBeMovedOnBeforeItHasRun) {
  ASSERT_TRUE(loaded(to_, state_));
  VirtioFunctionRig third;
  ASSERT_TRUE(stopped(third));
  ASSERT_TRUE(loaded(third, to_.function->save().value()));
  share_memory(from_, third);
  ASSERT_TRUE(runs(third));
  expect_both_answered(third);
}

TEST_F(MovedFunction, CanBeStoppedAgainAfterItHasRun) {
  share_memory(from_, to_);
  to_.device->keep = true;
  ASSERT_TRUE(loaded(to_, state_));
  ASSERT_TRUE(runs(to_));
  ASSERT_TRUE(stopped(to_));
  from_.device->keep = false;
  ASSERT_TRUE(loaded(from_, to_.function->save().value()));
  ASSERT_TRUE(runs(from_));
  expect_both_answered(from_);
}

TEST_F(MovedFunction, DoesNotRunWithoutItsMemory) {
  ASSERT_TRUE(loaded(to_, state_));
  EXPECT_EQ(runs(to_).error().code(), EIO);
  EXPECT_EQ(to_.function->save().value(), state_) << "it is still stopped";
  share_memory(from_, to_);
  ASSERT_TRUE(runs(to_));
  expect_both_answered(to_);
}

TEST_F(MovedFunction, ServesTheNextClientAlsoWhereItHasNotRun) {
  ASSERT_TRUE(loaded(to_, state_));
  to_.function->release_client([](const Status&) {});
  to_.loop.run_until_idle();
  to_.set_command(6);
  to_.start();
  to_.publish(0, 0, 41);
  to_.kick(0);
  EXPECT_EQ(to_.answer(0, 0), 42U);
}

TEST_F(MovedFunction, CanBeResetInsteadOfRunning) {
  ASSERT_TRUE(loaded(to_, state_));
  bool was_reset = false;
  to_.function->reset([&](const Status& status) { was_reset = status.has_value(); });
  to_.loop.run_until_idle();
  ASSERT_TRUE(was_reset);
  to_.set_command(6);
  to_.start();
  to_.publish(0, 0, 41);
  to_.kick(0);
  EXPECT_EQ(to_.answer(0, 0), 42U);
}

TEST_F(MovedFunction, TellsItsDriverAgainByItsLine) {
  share_memory(from_, to_);
  const EventFd line = to_.enable_intx();
  ASSERT_TRUE(loaded(to_, state_));
  EXPECT_EQ(line.drain(), 0U);
  ASSERT_TRUE(runs(to_));
  EXPECT_EQ(line.drain(), 1U);
  EXPECT_EQ(to_.bar<std::uint8_t>(Function::isr_at), spec::isr::queue | spec::isr::config);
}

TEST_F(MovedFunction, RefusesAStateThatIsCutAtAnyByte) {
  const auto before = to_.function->save().value();
  for (std::size_t size = 0; size < state_.size(); ++size)
    ASSERT_FALSE(loaded(to_, {state_.begin(), state_.begin() + static_cast<std::ptrdiff_t>(size)})) << size;
  EXPECT_EQ(to_.function->save().value(), before);
}

TEST_F(MovedFunction, TakesOrRefusesWholeAStateThatIsChangedAtAnyByte) {
  share_memory(from_, to_);
  for (std::size_t at = 0; at < state_.size(); ++at) {
    for (const std::byte bits : {std::byte{0x01}, std::byte{0x82}}) {
      auto changed = state_;
      changed[at] ^= bits;
      const auto before = to_.function->save().value();
      const bool taken = loaded(to_, changed).has_value();
      ASSERT_EQ(to_.function->save().value(), taken ? changed : before) << at;
    }
  }
  ASSERT_TRUE(loaded(to_, state_));
  ASSERT_TRUE(runs(to_));
  expect_both_answered(to_);
}

/// The device says so only when everything before it has been changed.
TEST_F(MovedFunction, IsAsBeforeWhereTheDeviceRefusesItsState) {
  VirtioFunctionRig other;
  other.start();
  other.publish(0, 0, 41);
  other.kick(0);
  other.device->own_state = {std::byte{7}};
  const EventFd line = other.enable_intx();
  ASSERT_EQ(line.drain(), 1U);
  ASSERT_TRUE(stopped(other));
  const auto before = other.function->save().value();
  EXPECT_EQ(loaded(other, state_).error().code(), EINVAL);
  EXPECT_EQ(other.function->save().value(), before);
  ASSERT_TRUE(runs(other));
  EXPECT_EQ(other.bar<std::uint8_t>(Function::isr_at) & spec::isr::queue, spec::isr::queue);
  other.publish(0, 1, 51);
  other.kick(0);
  EXPECT_EQ(other.answer(0, 1), 52U);
}

TEST_F(MovedFunction, RefusesTheStateOfAnotherDevice) {
  for (const virtio::Identity& identity :
       {virtio::Identity{.device_id = 62, .queue_sizes = {8, 4}, .config_size = 16},
        virtio::Identity{.device_id = 63, .queue_sizes = {8}, .config_size = 16},
        virtio::Identity{.device_id = 63, .queue_sizes = {4, 4}, .config_size = 16}}) {
    VirtioFunctionRig other({}, identity);
    ASSERT_TRUE(stopped(other));
    const auto before = other.function->save().value();
    EXPECT_EQ(loaded(other, state_).error().code(), EINVAL);
    EXPECT_EQ(other.function->save().value(), before);
  }
}

TEST_F(MovedFunction, StopsLateWhereARequestIsLate) {
  from_.device->keep = true;
  ASSERT_TRUE(runs(from_));
  from_.device->hold_on_stop = true;
  Status result = Error(EINPROGRESS, "it has not stopped");
  from_.function->stop([&](const Status& status) { result = status; });
  from_.loop.advance(std::chrono::seconds(3));
  EXPECT_EQ(result.error().code(), ETIMEDOUT);
  EXPECT_EQ(from_.function->save().error().code(), EINVAL) << "it runs on";
  from_.device->hold_on_stop = from_.device->keep = false;
  from_.device->release();
  from_.loop.run_until_idle();
  expect_both_answered(from_);
  EXPECT_TRUE(stopped(from_));
}

// What it has written.

/// The pages of the rig's queue 0, one bit each, since the last report.
std::uint64_t written_pages(VirtioFunctionRig& rig) {
  le64 bitmap = 0;
  EXPECT_TRUE(rig.function->report_dirty({memory::Iova{0x10'0000}, 0x4000}, 4096, as_writable_bytes_of(bitmap)));
  return bitmap;
}

TEST(DirtyVirtioFunction, ReportsTheRingAndTheAnswers) {
  VirtioFunctionRig r;
  r.start();
  EXPECT_EQ(r.function->start_dirty_log(4096, {}).value(), 4096U);
  EXPECT_EQ(written_pages(r), 0U);
  r.publish(0, 0, 41);
  r.kick(0);
  EXPECT_EQ(written_pages(r), 1U << 2 | 1U << 3) << "the used ring, and the buffer";
  EXPECT_EQ(written_pages(r), 0U);
  r.publish(0, 1, 51);
  r.kick(0);
  ASSERT_TRUE(stopped(r));
  EXPECT_EQ(written_pages(r), 1U << 2 | 1U << 3) << "the last report, of the stopped device";
}

TEST(DirtyVirtioFunction, IsNotedOnlyBetweenStartAndStop) {
  VirtioFunctionRig r;
  r.start();
  le64 bitmap = 0;
  const auto report = [&] {
    return r.function->report_dirty({memory::Iova{0x10'0000}, 0x4000}, 4096, as_writable_bytes_of(bitmap)).has_value();
  };
  EXPECT_FALSE(report());
  EXPECT_EQ(r.function->start_dirty_log(1000, {}).error().code(), EINVAL);
  EXPECT_EQ(r.function->start_dirty_log(0, {}).error().code(), EINVAL);
  EXPECT_EQ(r.function->start_dirty_log(UINT64_C(2) << 20, {}).value(), 4096U);
  EXPECT_EQ(r.function->start_dirty_log(4096, {}).error().code(), EEXIST);
  r.publish(0, 0, 41);
  r.kick(0);
  r.function->stop_dirty_log();
  EXPECT_FALSE(report());
  ASSERT_TRUE(r.function->start_dirty_log(4096, {}));
  EXPECT_EQ(written_pages(r), 0U) << "of before";
  r.function->release_client([](const Status&) {});
  EXPECT_FALSE(report()) << "of another client";
}

}  // namespace
}  // namespace outboard::virtio_pci
