#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <tests/support/hostile_eventfd.hpp>
#include <tests/support/vfio_user_server_fixture.hpp>

// Rows of docs/spec-map.md (VU) that concern interrupts, and every valid combination of
// SET_IRQS.

namespace outboard::vfio_user {
namespace {

namespace flag = vfio_abi::irq_set_flag;
using testing::joined;
using testing::open_eventfds;
using testing::open_fds;
using testing::PlainFunction;

constexpr std::uint32_t none_trigger = flag::data_none | flag::action_trigger;
constexpr std::uint32_t none_mask = flag::data_none | flag::action_mask;
constexpr std::uint32_t none_unmask = flag::data_none | flag::action_unmask;
constexpr std::uint32_t bool_trigger = flag::data_bool | flag::action_trigger;
constexpr std::uint32_t bool_mask = flag::data_bool | flag::action_mask;
constexpr std::uint32_t bool_unmask = flag::data_bool | flag::action_unmask;
constexpr std::uint32_t bind = flag::data_eventfd | flag::action_trigger;
constexpr std::uint32_t bind_unmask = flag::data_eventfd | flag::action_unmask;
constexpr std::uint32_t bind_mask = flag::data_eventfd | flag::action_mask;
constexpr std::uint32_t intx = 0, msi = 1, msix = 2, error_irq = 3, request_irq = 4;

class ServerInterrupts : public testing::VfioUserServerTest {
 protected:
  void SetUp() override {
    peer_ = client();
    enable(peer_);
    for (int i = 0; i < 4; ++i) eventfds_.emplace_back(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  }
  int set(std::uint32_t flags, std::uint32_t index, std::uint32_t start, std::uint32_t count,
          const std::vector<int>& fds = {}, const std::vector<std::uint8_t>& bools = {}) {
    auto payload = joined(vfio_abi::IrqSet{.argsz = static_cast<std::uint32_t>(20 + bools.size()),
                                           .flags = flags,
                                           .index = index,
                                           .start = start,
                                           .count = count});
    const auto data = std::as_bytes(std::span(bools));
    payload.insert(payload.end(), data.begin(), data.end());
    return error_of(peer_, Command::device_set_irqs, payload, {.fds = fds});
  }
  int fd(std::size_t i) const { return eventfds_[i].get(); }
  std::uint64_t signals(std::size_t i) const {
    std::uint64_t count = 0;
    return ::read(fd(i), &count, sizeof count) == sizeof count ? count : 0;
  }
  void raise_msix(std::uint32_t vector) { write_register(peer_, PlainFunction::signal_msix_at, vector); }

  Peer peer_;
  std::vector<UniqueFd> eventfds_;
};

TEST_F(ServerInterrupts, BoundVectorsAreSignalled) {
  ASSERT_EQ(set(bind, msix, 1, 2, {fd(0), fd(1)}), 0);
  raise_msix(1);
  raise_msix(2);
  raise_msix(2);
  EXPECT_EQ(signals(0), 1u);
  EXPECT_EQ(signals(1), 2u);
}

TEST_F(ServerInterrupts, VU49_ASaturatedBlockingEventfdOfAClientBlocksNobody) {
  const testing::HostileEventFd hostile;
  const UniqueFd given = hostile.descriptor();
  for (const std::uint32_t index : {msix, error_irq, request_irq}) {
    ASSERT_EQ(set(bind, index, 0, 1, {given.get()}), 0);
    hostile.make_blocking();
    EXPECT_TRUE(hostile.does_not_block([&] { EXPECT_EQ(set(none_trigger, index, 0, 1), 0); }));
  }
  EXPECT_TRUE(hostile.does_not_block([&] { raise_msix(0); }));
  EXPECT_TRUE(alive(peer_));
}

TEST_F(ServerInterrupts, BindingAgainReplacesAndClosesWhatWasBound) {
  const std::size_t before = open_fds();
  ASSERT_EQ(set(bind, msix, 0, 1, {fd(0)}), 0);
  ASSERT_EQ(set(bind, msix, 0, 1, {fd(1)}), 0);
  EXPECT_EQ(open_fds(), before + 1);
  raise_msix(0);
  EXPECT_EQ(signals(0), 0u);
  EXPECT_EQ(signals(1), 1u);
}

TEST_F(ServerInterrupts, BindingWithoutDescriptorsUnbindsJustThoseVectors) {
  ASSERT_EQ(set(bind, msix, 0, 3, {fd(0), fd(1), fd(2)}), 0);
  ASSERT_EQ(set(bind, msix, 1, 1), 0);
  raise_msix(0);
  raise_msix(1);
  raise_msix(2);
  EXPECT_EQ(signals(0), 1u);
  EXPECT_EQ(signals(1), 0u);
  EXPECT_EQ(signals(2), 1u);
}

TEST_F(ServerInterrupts, BindingNothingToAnIdleIndexEnablesIt) {
  EXPECT_EQ(set(bind, msix, 0, 1), 0);
  EXPECT_TRUE(function().interrupts().msix_enabled());
  EXPECT_EQ(set(none_trigger, msix, 0, 0), 0);
  EXPECT_FALSE(function().interrupts().msix_enabled());
}

TEST_F(ServerInterrupts, DisablingClosesEverythingOfTheIndex) {
  const std::size_t before = open_eventfds();
  ASSERT_EQ(set(bind, msix, 0, 4, {fd(0), fd(1), fd(2), fd(3)}), 0);
  EXPECT_EQ(open_eventfds(), before + 4);
  ASSERT_EQ(set(none_trigger, msix, 0, 0), 0);
  EXPECT_EQ(open_eventfds(), before);
  ASSERT_EQ(set(bind, intx, 0, 1, {fd(0)}), 0);
  ASSERT_EQ(set(bind_unmask, intx, 0, 1, {fd(1)}), 0);
  EXPECT_EQ(open_eventfds(), before + 2);
  ASSERT_EQ(set(none_trigger, intx, 0, 0), 0);
  EXPECT_EQ(open_eventfds(), before);
}

TEST_F(ServerInterrupts, TriggerWithoutDataSignalsWhatIsBound) {
  ASSERT_EQ(set(bind, msix, 0, 3, {fd(0), fd(1), fd(2)}), 0);
  ASSERT_EQ(set(none_trigger, msix, 1, 2), 0);
  EXPECT_EQ(signals(0), 0u);
  EXPECT_EQ(signals(1), 1u);
  EXPECT_EQ(signals(2), 1u);
}

TEST_F(ServerInterrupts, TriggerWithBoolsSignalsWhereTheyAreSet) {
  ASSERT_EQ(set(bind, msix, 0, 4, {fd(0), fd(1), fd(2), fd(3)}), 0);
  ASSERT_EQ(set(bool_trigger, msix, 0, 4, {}, {1, 0, 7, 255}), 0);
  EXPECT_EQ(signals(0), 1u);
  EXPECT_EQ(signals(1), 0u);
  EXPECT_EQ(signals(2), 1u);
  EXPECT_EQ(signals(3), 1u);
}

TEST_F(ServerInterrupts, IntxIsMaskedOnDeliveryAndFiresAgainWhenUnmasked) {
  ASSERT_EQ(set(bind, intx, 0, 1, {fd(0)}), 0);
  write_register(peer_, PlainFunction::intx_at, 1);
  EXPECT_EQ(signals(0), 1u);
  ASSERT_EQ(set(none_unmask, intx, 0, 1), 0);
  EXPECT_EQ(signals(0), 1u);
  write_register(peer_, PlainFunction::intx_at, 0);
  ASSERT_EQ(set(none_unmask, intx, 0, 1), 0);
  EXPECT_EQ(signals(0), 0u);
}

TEST_F(ServerInterrupts, IntxMaskedByMessageWaitsForTheUnmask) {
  ASSERT_EQ(set(bind, intx, 0, 1, {fd(0)}), 0);
  ASSERT_EQ(set(none_mask, intx, 0, 1), 0);
  write_register(peer_, PlainFunction::intx_at, 1);
  EXPECT_EQ(signals(0), 0u);
  ASSERT_EQ(set(bool_unmask, intx, 0, 1, {}, {0}), 0);
  EXPECT_EQ(signals(0), 0u);
  ASSERT_EQ(set(bool_unmask, intx, 0, 1, {}, {1}), 0);
  EXPECT_EQ(signals(0), 1u);
  write_register(peer_, PlainFunction::intx_at, 0);
  ASSERT_EQ(set(none_unmask, intx, 0, 1), 0);
  ASSERT_EQ(set(bool_mask, intx, 0, 1, {}, {1}), 0);
  write_register(peer_, PlainFunction::intx_at, 1);
  EXPECT_EQ(signals(0), 0u);
}

TEST_F(ServerInterrupts, EachSignalOfTheUnmaskEventfdIsAnUnmask) {
  ASSERT_EQ(set(bind, intx, 0, 1, {fd(0)}), 0);
  ASSERT_EQ(set(bind_unmask, intx, 0, 1, {fd(1)}), 0);
  write_register(peer_, PlainFunction::intx_at, 1);
  EXPECT_EQ(signals(0), 1u);

  const std::uint64_t one = 1;
  ASSERT_EQ(::write(fd(1), &one, sizeof one), 8);
  pump();

  EXPECT_EQ(signals(0), 1u);
  EXPECT_EQ(signals(1), 0u);  // consumed
  ASSERT_EQ(set(bind_unmask, intx, 0, 1), 0);
  ASSERT_EQ(::write(fd(1), &one, sizeof one), 8);
  pump();
  EXPECT_EQ(signals(0), 0u);
}

TEST_F(ServerInterrupts, TheSequenceOfQemuWithKvmIsTaken) {
  EXPECT_EQ(set(bind, intx, 0, 1, {fd(0)}), 0);
  EXPECT_EQ(set(none_mask, intx, 0, 1), 0);
  EXPECT_EQ(set(bind_unmask, intx, 0, 1, {fd(1)}), 0);
  EXPECT_EQ(set(none_unmask, intx, 0, 1), 0);
  // Then the guest turns MSI-X on.
  EXPECT_EQ(set(none_trigger, intx, 0, 0), 0);
  EXPECT_EQ(set(bind, msix, 0, 1), 0);
  EXPECT_EQ(set(bind, msix, 0, 1, {fd(2)}), 0);
  EXPECT_EQ(set(bind, msix, 1, 1, {fd(3)}), 0);
  raise_msix(1);
  EXPECT_EQ(signals(3), 1u);
}

TEST_F(ServerInterrupts, MsiIsBoundAllAtOnce) {
  ASSERT_EQ(set(bind, msi, 0, 4, {fd(0), fd(1), fd(2), fd(3)}), 0);
  write_register(peer_, PlainFunction::signal_msi_at, 3);
  EXPECT_EQ(signals(3), 1u);
}

TEST_F(ServerInterrupts, OnlyOneOfIntxMsiAndMsixIsOn) {
  ASSERT_EQ(set(bind, msix, 0, 1, {fd(0)}), 0);
  EXPECT_EQ(set(bind, intx, 0, 1, {fd(1)}), EINVAL);
  EXPECT_EQ(set(bind, msi, 0, 1, {fd(1)}), EINVAL);
}

TEST_F(ServerInterrupts, VU44_AnIndexBeyondTheCountIsRefused) {
  EXPECT_EQ(set(none_trigger, 5, 0, 0), EINVAL);
  EXPECT_EQ(set(none_trigger, UINT32_MAX, 0, 0), EINVAL);
}

TEST_F(ServerInterrupts, VU45_FlagsMustNameOneKindOfDataAndOneAction) {
  const std::size_t before = open_fds();
  for (const std::uint32_t flags : {0u, 1u, 4u, 32u, 0x23u, 0x25u, 0x31u, 0x3cu, 0x64u, 0x124u, 0x80000024u}) {
    EXPECT_EQ(set(flags, msix, 0, 1, {fd(0)}), EINVAL) << flags;
  }
  EXPECT_EQ(open_fds(), before);
}

TEST_F(ServerInterrupts, VU46_VectorsBeyondTheCountAreRefused) {
  for (const std::uint32_t flags : {none_trigger, bind}) {
    EXPECT_EQ(set(flags, msix, 0, 5), EINVAL);
    EXPECT_EQ(set(flags, msix, 4, 1), EINVAL);
    EXPECT_EQ(set(flags, msix, 3, 2), EINVAL);
    EXPECT_EQ(set(flags, msix, 2, UINT32_MAX), EINVAL);
    EXPECT_EQ(set(flags, msix, UINT32_MAX, 1), EINVAL);
    EXPECT_EQ(set(flags, msix, UINT32_MAX, UINT32_MAX), EINVAL);
  }
  EXPECT_EQ(set(none_trigger, msix, 1, 0), EINVAL);
  EXPECT_EQ(set(bind, msix, 0, 0), EINVAL);
  EXPECT_EQ(set(bool_trigger, msix, 0, 0), EINVAL);
  EXPECT_EQ(set(none_mask, intx, 0, 0), EINVAL);
  EXPECT_EQ(set(none_unmask, intx, 0, 0), EINVAL);
}

TEST_F(ServerInterrupts, VU47_AWrongNumberOfDescriptorsIsClosedAndNothingIsBound) {
  const std::size_t before = open_fds();
  EXPECT_EQ(set(bind, msix, 0, 2, {fd(0)}), EINVAL);
  EXPECT_EQ(set(bind, msix, 0, 2, {fd(0), fd(1), fd(2)}), EINVAL);
  EXPECT_EQ(set(none_trigger, msix, 0, 1, {fd(0)}), EINVAL);
  EXPECT_EQ(set(none_trigger, msix, 0, 0, {fd(0)}), EINVAL);
  EXPECT_EQ(set(bool_trigger, msix, 0, 1, {fd(0)}, {1}), EINVAL);
  EXPECT_EQ(open_fds(), before);
  EXPECT_FALSE(function().interrupts().msix_enabled());
}

TEST_F(ServerInterrupts, VU48_BoolsMustBeOneForEachVector) {
  EXPECT_EQ(set(bool_trigger, msix, 0, 2, {}, {1}), EINVAL);
  EXPECT_EQ(set(bool_trigger, msix, 0, 2, {}, {1, 1, 1}), EINVAL);
  EXPECT_EQ(set(bool_trigger, msix, 0, 1), EINVAL);
  EXPECT_EQ(set(bool_trigger, msix, 0, UINT32_MAX, {}, {1}), EINVAL);
}

TEST_F(ServerInterrupts, VU49_WhatIsNoEventfdIsRefused) {
  std::array<int, 2> pipe{};
  ASSERT_EQ(::pipe2(pipe.data(), O_CLOEXEC), 0);
  const UniqueFd file = dir_.make_file("f", 4096);
  const std::size_t before = open_fds();
  for (const int one : {pipe[1], file.get(), peer_.socket().get()}) {
    EXPECT_EQ(set(bind, msix, 0, 1, {one}), EINVAL);
    EXPECT_EQ(set(bind, msix, 0, 2, {fd(0), one}), EINVAL);
    EXPECT_EQ(set(bind_unmask, intx, 0, 1, {one}), EINVAL);
  }
  EXPECT_EQ(open_fds(), before);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

TEST_F(ServerInterrupts, VU49_ASaturatedEventfdBlocksNobody) {
  const UniqueFd blocking(::eventfd(0, EFD_CLOEXEC));
  const std::uint64_t full = UINT64_MAX - 1;
  ASSERT_EQ(::write(blocking.get(), &full, sizeof full), 8);
  ASSERT_EQ(set(bind, msix, 0, 1, {blocking.get()}), 0);
  raise_msix(0);
  EXPECT_TRUE(alive(peer_));
}

TEST_F(ServerInterrupts, VU50_DisablingWhatIsIdleSucceeds) {
  for (const std::uint32_t index : {intx, msi, msix, error_irq, request_irq}) {
    EXPECT_EQ(set(none_trigger, index, 0, 0), 0) << index;
  }
}

TEST_F(ServerInterrupts, VU51_MaskingWhatCannotBeMaskedIsRefused) {
  for (const std::uint32_t index : {msi, msix}) {
    EXPECT_EQ(set(none_mask, index, 0, 1), ENOTTY);
    EXPECT_EQ(set(none_unmask, index, 0, 1), ENOTTY);
    EXPECT_EQ(set(bool_mask, index, 0, 1, {}, {1}), ENOTTY);
    EXPECT_EQ(set(bind_unmask, index, 0, 1, {fd(0)}), ENOTTY);
  }
  EXPECT_EQ(set(bind_mask, intx, 0, 1, {fd(0)}), ENOTTY);
}

TEST_F(ServerInterrupts, AMessageTooShortIsRefused) {
  EXPECT_EQ(error_of(peer_, Command::device_set_irqs, testing::pattern(19)), EINVAL);
  EXPECT_EQ(
      error_of(peer_, Command::device_set_irqs,
               joined(vfio_abi::IrqSet{.argsz = 19, .flags = none_trigger, .index = msix, .start = 0, .count = 0})),
      EINVAL);
}

TEST_F(ServerInterrupts, VU63_EventfdsOfAClientThatVanishedAreClosed) {
  ASSERT_EQ(set(bind, msix, 0, 4, {fd(0), fd(1), fd(2), fd(3)}), 0);
  const std::size_t before = open_eventfds();
  peer_.close();
  pump();
  EXPECT_EQ(open_eventfds(), before - 4);
}

}  // namespace
}  // namespace outboard::vfio_user
