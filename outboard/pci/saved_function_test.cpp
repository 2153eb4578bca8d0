// What a function says of itself for another process, as sections.

#include <outboard/pci/emulated_function.hpp>

#include <gtest/gtest.h>

#include <outboard/testing/manual_loop.hpp>
#include <tests/support/plain_function.hpp>

namespace outboard::pci {
namespace {

using testing::PlainFunction;

constexpr std::uint16_t command_at = 4;

Status stopped(EmulatedFunction& function) {
  Status result = Error(EINPROGRESS, "it has not stopped");
  function.stop([&](const Status& status) { result = status; });
  return result;
}

Status loaded(EmulatedFunction& function, std::vector<std::byte> state) {
  Status result = Error(EINPROGRESS, "it has not been loaded");
  function.load(std::move(state), [&](const Status& status) { result = status; });
  return result;
}

/// The state of a running function, which runs on.
std::vector<std::byte> bytes_of(EmulatedFunction& function) {
  EXPECT_TRUE(stopped(function));
  auto bytes = function.save().value();
  EXPECT_TRUE(function.run());
  return bytes;
}

class SavedFunction : public ::testing::Test {
 protected:
  void write(unsigned region, std::uint64_t offset, std::uint32_t value) {
    const le32 field = value;
    EXPECT_TRUE(function_->write_region(region, offset, as_bytes_of(field)));
  }
  void SetUp() override { write(region::config, command_at, 6); }

  testing::ManualLoop loop_;
  std::unique_ptr<PlainFunction> function_ = PlainFunction::create(loop_).value();
};

TEST_F(SavedFunction, HasItsConfigurationItsInterruptsAndItsAreas) {
  write(0, PlainFunction::msix_table_at + 8, 0x1234);
  write(0, PlainFunction::intx_at, 1);
  write(0, PlainFunction::area_at + 4, 0xabcd);
  const auto bytes = bytes_of(*function_);

  auto state = StateReader::open(bytes, state_tag("STAT"), 1).value();
  auto whole = state.section(state_tag("FUNC"), 1).value();
  auto config = whole.section(state_tag("CONF"), 1).value();
  const Bytes registers = config.get_bytes(4096).value();
  EXPECT_EQ(registers.size(), 4096U);
  EXPECT_EQ(registers[command_at], std::byte{6});
  EXPECT_TRUE(config.end());

  auto interrupts = whole.section(state_tag("INTR"), 1).value();
  EXPECT_TRUE(interrupts.get_flag().value()) << "the line is up";
  EXPECT_TRUE(interrupts.get_flag().value()) << "the table has been written";
  const Bytes table = interrupts.get_bytes(4096).value();
  EXPECT_EQ(table.size(), 4U * 16);
  EXPECT_EQ(table[8], std::byte{0x34});
  EXPECT_EQ(interrupts.get_bytes(4096).value().size(), 8U);
  EXPECT_EQ(interrupts.get<std::uint32_t>().value(), 0U);
  EXPECT_EQ(interrupts.get<std::uint8_t>().value(), 255U) << "no kind is enabled";
  EXPECT_TRUE(interrupts.end());

  EXPECT_EQ(whole.get<std::uint32_t>().value(), 1U);
  auto area = whole.section(state_tag("AREA"), 1).value();
  EXPECT_EQ(area.get<std::uint8_t>().value(), 0U);
  EXPECT_EQ(area.get<std::uint64_t>().value(), PlainFunction::area_at);
  const Bytes memory = area.get_bytes(PlainFunction::area_size).value();
  EXPECT_EQ(memory[4], std::byte{0xcd});
  EXPECT_TRUE(area.end());
  EXPECT_TRUE(whole.end());
}

TEST_F(SavedFunction, OfOneStateIsAlwaysTheSame) {
  const auto before = bytes_of(*function_);
  EXPECT_EQ(bytes_of(*function_), before);
  write(0, PlainFunction::intx_at, 1);
  EXPECT_NE(bytes_of(*function_), before);
  write(0, PlainFunction::intx_at, 0);
  EXPECT_EQ(bytes_of(*function_), before);
}

// Stopped.

TEST_F(SavedFunction, IsSavedAndLoadedOnlyWhileItIsStopped) {
  EXPECT_EQ(function_->save().error().code(), EINVAL);
  EXPECT_EQ(loaded(*function_, {}).error().code(), EINVAL);
  EXPECT_EQ(function_->run().error().code(), EINVAL) << "it runs";
  ASSERT_TRUE(stopped(*function_));
  EXPECT_EQ(stopped(*function_).error().code(), EINVAL);
  EXPECT_TRUE(function_->save());
}

TEST_F(SavedFunction, SendsNoInterruptUntilItRuns) {
  const EventFd vector = EventFd::create().value();
  std::vector<EventFd> theirs;
  theirs.push_back(vector.duplicate().value());
  ASSERT_TRUE(function_->bind_interrupts(InterruptKind::msix, 1, std::move(theirs)));
  ASSERT_TRUE(stopped(*function_));
  function_->interrupts().signal_msix(1);
  EXPECT_EQ(vector.drain(), 0U);
  EXPECT_FALSE(function_->bus_master());
  write(region::config, command_at, 6);
  EXPECT_FALSE(function_->bus_master()) << "written again";
  EXPECT_EQ(vector.drain(), 0U);
  ASSERT_TRUE(function_->run());
  EXPECT_TRUE(function_->bus_master());
  EXPECT_EQ(vector.drain(), 1U);
}

TEST_F(SavedFunction, RaisesItsLineWhenItRuns) {
  EventFd line = EventFd::create().value();
  std::vector<EventFd> theirs;
  theirs.push_back(line.duplicate().value());
  ASSERT_TRUE(function_->bind_interrupts(InterruptKind::intx, 0, std::move(theirs)));
  ASSERT_TRUE(stopped(*function_));
  function_->interrupts().set_intx(true);
  EXPECT_EQ(line.drain(), 0U);
  ASSERT_TRUE(function_->run());
  EXPECT_EQ(line.drain(), 1U);
}

TEST_F(SavedFunction, RunsAfterAReset) {
  ASSERT_TRUE(stopped(*function_));
  bool was_reset = false;
  function_->reset([&](const Status& status) { was_reset = status.has_value(); });
  EXPECT_TRUE(was_reset);
  write(region::config, command_at, 6);
  EXPECT_TRUE(function_->bus_master());
  EXPECT_TRUE(stopped(*function_));
}

TEST_F(SavedFunction, IsNotStoppedDuringAReset) {
  const auto slow = PlainFunction::create(loop_, Log(), {.slow_reset = true}).value();
  slow->reset([](const Status&) {});
  EXPECT_EQ(stopped(*slow).error().code(), EBUSY);
  slow->finish_reset();
  EXPECT_TRUE(stopped(*slow));
}

TEST_F(SavedFunction, RunsForTheNextClient) {
  ASSERT_TRUE(stopped(*function_));
  bool released = false;
  function_->release_client([&](const Status&) { released = true; });
  loop_.run_until_idle();
  ASSERT_TRUE(released);
  write(region::config, command_at, 6);
  EXPECT_TRUE(function_->bus_master());
}

// Loaded.

class LoadedFunction : public SavedFunction {
 protected:
  void SetUp() override {
    SavedFunction::SetUp();
    write(0, PlainFunction::msix_table_at + 8, 0x1234);
    write(0, PlainFunction::intx_at, 1);
    write(0, PlainFunction::area_at + 4, 0xabcd);
    state_ = bytes_of(*function_);
    EXPECT_TRUE(stopped(*other_));
    before_ = other_->save().value();
    ASSERT_NE(before_, state_);
  }

  std::vector<std::byte> state_, before_;
  std::unique_ptr<PlainFunction> other_ = PlainFunction::create(loop_).value();
};

TEST_F(LoadedFunction, IsAsTheOneThatWasSaved) {
  ASSERT_TRUE(loaded(*other_, state_));
  EXPECT_EQ(other_->save().value(), state_);
  EXPECT_FALSE(other_->bus_master()) << "it is stopped";
  ASSERT_TRUE(other_->run());
  EXPECT_TRUE(other_->bus_master());
  EXPECT_TRUE(other_->interrupts().intx_level());
  EXPECT_EQ(bytes_of(*other_), state_);
}

TEST_F(SavedFunction, DeliversWhatWasPendingWhereItIsLoaded) {
  const EventFd bound = EventFd::create().value();
  const auto bind = [&](PlainFunction& function, unsigned vector) {
    std::vector<EventFd> theirs;
    theirs.push_back(bound.duplicate().value());
    ASSERT_TRUE(function.bind_interrupts(InterruptKind::msix, vector, std::move(theirs)));
  };
  bind(*function_, 2);
  function_->interrupts().signal_msix(3);
  ASSERT_TRUE(stopped(*function_));
  const auto other = PlainFunction::create(loop_).value();
  ASSERT_TRUE(stopped(*other));
  ASSERT_TRUE(loaded(*other, function_->save().value()));
  EXPECT_EQ(other->save().value(), function_->save().value());
  ASSERT_TRUE(other->run());
  EXPECT_TRUE(other->interrupts().msix_enabled()) << "the client is the same";
  EXPECT_EQ(bound.drain(), 0U);
  bind(*other, 3);
  EXPECT_EQ(bound.drain(), 1U);
}

TEST_F(LoadedFunction, RefusesAStateThatIsCutAtAnyByte) {
  // A mapped area is most of the state: its middle is skipped.
  for (std::size_t size = 0; size < state_.size(); size += size > 6000 && size + 6000 < state_.size() ? 997 : 1) {
    ASSERT_FALSE(loaded(*other_, {state_.begin(), state_.begin() + static_cast<std::ptrdiff_t>(size)})) << size;
  }
  EXPECT_EQ(other_->save().value(), before_);
  ASSERT_TRUE(loaded(*other_, state_));
}

TEST_F(LoadedFunction, TakesOrRefusesWholeAStateThatIsChangedAtAnyByte) {
  for (std::size_t at = 0; at < state_.size(); at += at > 6000 && at + 6000 < state_.size() ? 997 : 1) {
    auto changed = state_;
    changed[at] ^= std::byte{0x41};
    const auto kept = other_->save().value();
    const bool taken = loaded(*other_, changed).has_value();
    ASSERT_EQ(other_->save().value(), taken ? changed : kept) << at;
  }
}

TEST_F(LoadedFunction, RefusesTheStateOfAnotherFunction) {
  for (const PlainFunction::Options& options :
       {PlainFunction::Options{.identity = {.vendor = 0x1234, .device = 1}}, PlainFunction::Options{.msix_vectors = 5},
        PlainFunction::Options{.msi_vectors = 8}, PlainFunction::Options{.intx = false},
        PlainFunction::Options{.area = false}}) {
    const auto stranger = PlainFunction::create(loop_, Log(), options).value();
    ASSERT_TRUE(stopped(*stranger));
    const auto kept = stranger->save().value();
    EXPECT_EQ(loaded(*stranger, state_).error().code(), EINVAL);
    EXPECT_EQ(stranger->save().value(), kept);
  }
}

TEST_F(LoadedFunction, RefusesANewerVersion) {
  constexpr std::size_t version_of_func = sizeof(StateSection) + offsetof(StateSection, version);
  for (const std::size_t at : {offsetof(StateSection, version), version_of_func}) {
    auto newer = state_;
    newer[at] = std::byte{2};
    EXPECT_EQ(loaded(*other_, newer).error().code(), ENOTSUP);
  }
  EXPECT_EQ(other_->save().value(), before_);
}

}  // namespace
}  // namespace outboard::pci
