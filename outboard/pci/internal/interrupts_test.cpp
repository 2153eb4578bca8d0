#include <outboard/pci/internal/interrupts.hpp>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <outboard/base/endian.hpp>
#include <outboard/base/reactor.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <tests/support/hostile_eventfd.hpp>

namespace outboard::pci {
namespace {

using enum InterruptKind;

/// An eventfd, and what was signalled through it since it was last looked at.
class Line {
 public:
  /// As a peer gives it.
  EventFd give() const { return EventFd::adopt(fd_.fd().duplicate().value()).value(); }
  std::uint64_t signals() const { return fd_.drain(); }
  const EventFd& fd() const { return fd_; }

 private:
  EventFd fd_ = std::move(*EventFd::create());
};

template <typename... Fds>
std::vector<EventFd> list(Fds... fds) {
  std::vector<EventFd> result;
  (result.push_back(std::move(fds)), ...);
  return result;
}

class InterruptsTest : public ::testing::Test {
 protected:
  static constexpr unsigned vectors = 70;  // more than one word of pending bits

  InterruptsTest() {
    interrupts.set_counts(1, 4, vectors);
    interrupts.set_bus_master(true);
  }

  void bind(InterruptKind kind, std::uint32_t start, EventFd fd) {
    ASSERT_TRUE(interrupts.bind(kind, start, list(std::move(fd))));
  }
  bool pending(unsigned vector) const {
    std::byte byte;
    interrupts.read_pba(vector / 8, {&byte, 1});
    return (std::to_integer<unsigned>(byte) >> vector % 8 & 1) != 0;
  }
  void write_vector_control(unsigned vector, std::uint32_t value) {
    interrupts.write_table(vector * 16 + 12, as_bytes_of(le32(value)));
  }
  std::uint32_t table_word(std::uint64_t offset) const {
    le32 value;
    interrupts.read_table(offset, as_writable_bytes_of(value));
    return value;
  }

  testing::ManualLoop loop;
  Interrupts interrupts{loop};
  Line a, b, c;
};

using IntxTest = InterruptsTest;
using MsixTest = InterruptsTest;
using MsiTest = InterruptsTest;

TEST_F(InterruptsTest, InfoTellsCountsAndIntxAlonesMasking) {
  EXPECT_EQ(interrupts.info(intx).count, 1u);
  EXPECT_TRUE(interrupts.info(intx).maskable);
  EXPECT_TRUE(interrupts.info(intx).automasked);
  EXPECT_EQ(interrupts.info(msi).count, 4u);
  EXPECT_EQ(interrupts.info(msix).count, vectors);
  EXPECT_FALSE(interrupts.info(msix).maskable);
  EXPECT_TRUE(interrupts.info(msix).resizable);
  for (const auto kind : {error, request}) {
    EXPECT_EQ(interrupts.info(kind).count, 1u);
    EXPECT_FALSE(interrupts.info(kind).maskable);
    EXPECT_FALSE(interrupts.info(kind).automasked);
  }
}

TEST_F(InterruptsTest, OnlyOneKindCanBeBound) {
  bind(intx, 0, a.give());
  EXPECT_EQ(interrupts.bind(msix, 0, list(b.give())).error().code(), EINVAL);
  EXPECT_EQ(interrupts.bind(msi, 0, {}).error().code(), EINVAL);
  EXPECT_TRUE(interrupts.disable(intx));
  EXPECT_TRUE(interrupts.bind(msix, 0, list(b.give())));
  EXPECT_EQ(interrupts.bind(intx, 0, list(a.give())).error().code(), EINVAL);
}

TEST_F(InterruptsTest, ErrorAndRequestAreBoundBesideAnyOtherKind) {
  bind(msix, 0, a.give());
  bind(error, 0, b.give());
  bind(request, 0, c.give());
  EXPECT_TRUE(interrupts.trigger(error, 0, 1));
  EXPECT_EQ(b.signals(), 1u);
  EXPECT_EQ(c.signals(), 0u);
  EXPECT_TRUE(interrupts.trigger(request, 0, 1));
  EXPECT_EQ(c.signals(), 1u);
  EXPECT_TRUE(interrupts.disable(msix));
  EXPECT_TRUE(interrupts.bind(intx, 0, list(a.give()))) << "neither counts as the kind in use";
  EXPECT_TRUE(interrupts.trigger(error, 0, 1));
  EXPECT_EQ(b.signals(), 1u);
}

TEST_F(InterruptsTest, ErrorAndRequestEndWithTheirBinding) {
  bind(error, 0, b.give());
  bind(request, 0, c.give());
  bind(error, 0, EventFd());
  EXPECT_TRUE(interrupts.disable(request));
  for (const auto kind : {error, request})
    EXPECT_TRUE(interrupts.trigger(kind, 0, 1)) << "nobody listens, which is no error";
  bind(error, 0, b.give());
  bind(request, 0, c.give());
  EXPECT_EQ(b.signals() + c.signals(), 0u) << "what nobody heard is not kept";
  interrupts.reset();
  EXPECT_TRUE(interrupts.trigger(error, 0, 1));
  EXPECT_EQ(b.signals(), 1u) << "bindings stay through a reset";
  interrupts.release_client();
  for (const auto kind : {error, request}) EXPECT_TRUE(interrupts.trigger(kind, 0, 1));
  EXPECT_EQ(b.signals() + c.signals(), 0u);
}

TEST_F(InterruptsTest, ARefusedBindChangesNothing) {
  bind(msix, 0, a.give());
  EXPECT_FALSE(interrupts.bind(msix, vectors - 1, list(b.give(), b.give())));
  interrupts.signal_msix(0);
  EXPECT_EQ(a.signals(), 1u);
}

TEST_F(InterruptsTest, RangesBeyondTheCountAreRefused) {
  for (const auto kind : {intx, msi, msix, error, request}) {
    EXPECT_EQ(interrupts.bind(kind, interrupts.info(kind).count, list(a.give())).error().code(), EINVAL);
    EXPECT_EQ(interrupts.bind(kind, UINT32_MAX, list(a.give(), b.give())).error().code(), EINVAL);
    EXPECT_EQ(interrupts.trigger(kind, 0, UINT32_MAX).error().code(), EINVAL);
    EXPECT_EQ(interrupts.trigger(kind, UINT32_MAX, UINT32_MAX).error().code(), EINVAL);
  }
}

TEST_F(InterruptsTest, DisablingWhatIsNotEnabledSucceeds) {
  for (const auto kind : {intx, msi, msix, error, request}) {
    EXPECT_TRUE(interrupts.disable(kind));
    EXPECT_TRUE(interrupts.disable(kind));
  }
}

TEST_F(InterruptsTest, DisablingOneKindLeavesAnotherEnabled) {
  bind(msix, 0, a.give());
  EXPECT_TRUE(interrupts.disable(intx));
  EXPECT_TRUE(interrupts.disable(msi));
  interrupts.signal_msix(0);
  EXPECT_EQ(a.signals(), 1u);
}

TEST_F(InterruptsTest, OnlyIntxCanBeMaskedByCall) {
  for (const auto kind : {msi, msix, error, request}) {
    EXPECT_EQ(interrupts.mask(kind, 0, 1).error().code(), ENOTTY);
    EXPECT_EQ(interrupts.unmask(kind, 0, 1).error().code(), ENOTTY);
  }
  EXPECT_EQ(interrupts.mask(intx, 0, 0).error().code(), EINVAL);
  EXPECT_EQ(interrupts.unmask(intx, 0, 2).error().code(), EINVAL);
  EXPECT_EQ(interrupts.unmask(intx, 1, 1).error().code(), EINVAL);
}

TEST_F(InterruptsTest, TriggerSignalsWhatIsBound) {
  ASSERT_TRUE(interrupts.bind(msix, 0, list(a.give(), EventFd(), b.give())));
  EXPECT_TRUE(interrupts.trigger(msix, 0, 3));
  EXPECT_EQ(a.signals(), 1u);
  EXPECT_EQ(b.signals(), 1u);
  EXPECT_FALSE(pending(1));
  EXPECT_TRUE(interrupts.disable(msix));
  bind(intx, 0, a.give());
  EXPECT_TRUE(interrupts.trigger(intx, 0, 1));
  EXPECT_EQ(a.signals(), 1u);
}

// INTx

TEST_F(IntxTest, RaisingSignalsOnceAndMasks) {
  bind(intx, 0, a.give());
  interrupts.set_intx(true);
  interrupts.set_intx(true);
  EXPECT_EQ(a.signals(), 1u);
  interrupts.set_intx(false);
  interrupts.set_intx(true);
  EXPECT_EQ(a.signals(), 0u) << "masked on delivery, until unmasked";
}

TEST_F(IntxTest, UnmaskWhileRaisedSignalsAgain) {
  bind(intx, 0, a.give());
  interrupts.set_intx(true);
  EXPECT_EQ(a.signals(), 1u);
  EXPECT_TRUE(interrupts.unmask(intx, 0, 1));
  EXPECT_EQ(a.signals(), 1u);
}

TEST_F(IntxTest, UnmaskAfterLoweringDoesNotSignal) {
  bind(intx, 0, a.give());
  interrupts.set_intx(true);
  interrupts.set_intx(false);
  EXPECT_EQ(a.signals(), 1u);
  EXPECT_TRUE(interrupts.unmask(intx, 0, 1));
  EXPECT_EQ(a.signals(), 0u);
  interrupts.set_intx(true);
  EXPECT_EQ(a.signals(), 1u);
}

TEST_F(IntxTest, MaskHoldsTheLineBack) {
  bind(intx, 0, a.give());
  EXPECT_TRUE(interrupts.mask(intx, 0, 1));
  interrupts.set_intx(true);
  EXPECT_EQ(a.signals(), 0u);
  EXPECT_TRUE(interrupts.unmask(intx, 0, 1));
  EXPECT_EQ(a.signals(), 1u);
}

TEST_F(IntxTest, ALineRaisedBeforeTheBindIsDeliveredAtTheBind) {
  interrupts.set_intx(true);
  bind(intx, 0, a.give());
  EXPECT_EQ(a.signals(), 1u);
}

TEST_F(IntxTest, TheMaskSurvivesReplacingTheEventfd) {
  bind(intx, 0, a.give());
  interrupts.set_intx(true);
  bind(intx, 0, b.give());
  EXPECT_EQ(b.signals(), 0u);
  EXPECT_TRUE(interrupts.unmask(intx, 0, 1));
  EXPECT_EQ(b.signals(), 1u);
}

TEST_F(IntxTest, DisablingEndsTheMask) {
  bind(intx, 0, a.give());
  interrupts.set_intx(true);
  EXPECT_TRUE(interrupts.disable(intx));
  bind(intx, 0, b.give());
  EXPECT_EQ(b.signals(), 1u);
}

TEST_F(IntxTest, InterruptDisableInCommandHoldsTheLineBack) {
  bind(intx, 0, a.give());
  interrupts.set_intx_disabled(true);
  interrupts.set_intx(true);
  EXPECT_EQ(a.signals(), 0u);
  EXPECT_TRUE(interrupts.intx_level());
  interrupts.set_intx_disabled(false);
  EXPECT_EQ(a.signals(), 1u);
}

TEST_F(IntxTest, IsNotUsedWhileMsixIsEnabled) {
  bind(intx, 0, a.give());
  interrupts.set_msix_control(true, false);
  interrupts.set_intx(true);
  EXPECT_EQ(a.signals(), 0u);
  interrupts.set_msix_control(false, false);
  EXPECT_EQ(a.signals(), 1u);
}

TEST_F(IntxTest, EachSignalOfTheResampleEventfdUnmasks) {
  bind(intx, 0, a.give());
  ASSERT_TRUE(interrupts.bind_unmask(b.give()));
  interrupts.set_intx(true);
  EXPECT_EQ(a.signals(), 1u);
  b.fd().signal();
  loop.run_until_idle();
  EXPECT_EQ(a.signals(), 1u);
  interrupts.set_intx(false);
  b.fd().signal();
  loop.run_until_idle();
  EXPECT_EQ(a.signals(), 0u);
  EXPECT_EQ(b.signals(), 0u) << "taken by the function, never written by it";
}

TEST_F(IntxTest, OneEventfdCannotBeBothTheSignalAndTheUnmask) {
  bind(intx, 0, a.give());
  EXPECT_EQ(interrupts.bind_unmask(a.give()).error().code(), EINVAL) << "each delivery would ask for the next";
  EXPECT_EQ(loop.registrations(), 0u);
  ASSERT_TRUE(interrupts.bind_unmask(b.give()));
  EXPECT_EQ(interrupts.bind(intx, 0, list(b.give())).error().code(), EINVAL);
  interrupts.set_intx(true);
  EXPECT_EQ(a.signals(), 1u) << "what was bound before is bound still";
  b.fd().signal();
  loop.run_until_idle();
  EXPECT_EQ(a.signals(), 1u);
}

TEST_F(IntxTest, ABlockingResampleEventfdOfThePeerDoesNotStopTheLoop) {
  // The peer takes the count between the loop's wake-up and its look: here, in a callback that comes first.
  bind(intx, 0, a.give());
  const auto thief = loop.watch(b.fd().get(), Ready::readable, [&](Ready) { b.fd().drain(); });
  ASSERT_TRUE(interrupts.bind_unmask(b.give()));
  ASSERT_EQ(::fcntl(b.fd().get(), F_SETFL, 0), 0);
  b.fd().signal();
  loop.run_until_idle();
  EXPECT_EQ(loop.registrations(), 2u);
}

TEST(IntxOnAReactor, AFullSemaphoreAsTheUnmaskEventfdDoesNotKeepTheLoopAwake) {
  const auto reactor = std::move(*Reactor::create());
  Interrupts interrupts(*reactor);
  interrupts.set_counts(1, 0, 0);
  const EventFd full = std::move(*EventFd::adopt(UniqueFd(::eventfd(1000, EFD_CLOEXEC | EFD_SEMAPHORE))));
  const Line line;
  ASSERT_TRUE(interrupts.bind(intx, 0, list(line.give())));
  ASSERT_TRUE(interrupts.bind_unmask(full.duplicate().value()));
  interrupts.set_intx(true);
  int passes = 0;
  while (passes < 100 && *reactor->run_once(Duration::zero())) ++passes;
  EXPECT_LT(passes, 3);
  line.signals();
  full.signal();
  EXPECT_TRUE(*reactor->run_once(Duration::zero()));
  EXPECT_EQ(line.signals(), 1u) << "each write is an unmask all the same";
}

TEST_F(IntxTest, UnbindingOrDisablingEndsResampling) {
  bind(intx, 0, a.give());
  ASSERT_TRUE(interrupts.bind_unmask(b.give()));
  ASSERT_TRUE(interrupts.bind_unmask(EventFd()));
  EXPECT_EQ(loop.registrations(), 0u);
  ASSERT_TRUE(interrupts.bind_unmask(b.give()));
  EXPECT_EQ(loop.registrations(), 1u);
  EXPECT_TRUE(interrupts.disable(intx));
  EXPECT_EQ(loop.registrations(), 0u);
}

TEST_F(IntxTest, AResampleDescriptorThatIsNoEventfdDoesNotKeepTheLoopAwake) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  UniqueFd reader(ends[0]);
  ::close(ends[1]);  // readable for ever
  ASSERT_TRUE(interrupts.bind_unmask(std::move(*EventFd::adopt(std::move(reader)))));
  EXPECT_TRUE(interrupts.bind_unmask(std::move(*EventFd::adopt(UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC))))));
  loop.run_until_idle();
  EXPECT_EQ(loop.registrations(), 0u);
}

// MSI-X, bound from outside

TEST_F(MsixTest, BoundFromOutsideIsUnmaskedWhateverTheTableSays) {
  bind(msix, 3, a.give());
  EXPECT_TRUE(interrupts.msix_enabled());
  EXPECT_EQ(table_word(3 * 16 + 12), 1u) << "the entry is masked at power-on";
  interrupts.signal_msix(3);
  interrupts.signal_msix(3);
  EXPECT_EQ(a.signals(), 2u);
}

TEST_F(MsixTest, AnUnboundVectorStaysPendingAndIsDeliveredAtTheBind) {
  ASSERT_TRUE(interrupts.bind(msix, 0, list(EventFd())));
  interrupts.signal_msix(65);
  interrupts.signal_msix(65);
  EXPECT_TRUE(pending(65));
  EXPECT_FALSE(pending(64));
  bind(msix, 65, a.give());
  EXPECT_EQ(a.signals(), 1u);
  EXPECT_FALSE(pending(65));
}

TEST_F(MsixTest, AnEmptyBindEnablesWithNothingBound) {
  EXPECT_FALSE(interrupts.msix_enabled());
  EXPECT_TRUE(interrupts.bind(msix, 0, {}));
  EXPECT_TRUE(interrupts.msix_enabled());
  EXPECT_FALSE(interrupts.bind(intx, 0, list(a.give())));
}

TEST_F(MsixTest, UnbindingOneVectorLeavesTheOthers) {
  ASSERT_TRUE(interrupts.bind(msix, 0, list(a.give(), b.give())));
  ASSERT_TRUE(interrupts.bind(msix, 0, list(EventFd())));
  interrupts.signal_msix(0);
  interrupts.signal_msix(1);
  EXPECT_EQ(a.signals(), 0u);
  EXPECT_EQ(b.signals(), 1u);
  EXPECT_TRUE(pending(0));
}

TEST_F(MsixTest, AReplacedEventfdIsLetGo) {
  bind(msix, 0, a.give());
  bind(msix, 0, b.give());
  interrupts.signal_msix(0);
  EXPECT_EQ(a.signals(), 0u);
  EXPECT_EQ(b.signals(), 1u);
}

TEST_F(MsixTest, ADescriptorThatIsNoEventfdIsClosedAtOnce) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
  const UniqueFd reader(ends[0]);
  bind(msix, 0, std::move(*EventFd::adopt(UniqueFd(ends[1]))));
  char byte;
  EXPECT_EQ(::read(reader.get(), &byte, 1), 0) << "end of file: nobody holds the other end";
}

TEST_F(MsixTest, DisableDropsBindingsAndPending) {
  ASSERT_TRUE(interrupts.bind(msix, 0, list(a.give(), EventFd())));
  interrupts.signal_msix(1);
  ASSERT_TRUE(interrupts.disable(msix));
  EXPECT_FALSE(interrupts.msix_enabled());
  EXPECT_FALSE(pending(1));
  interrupts.signal_msix(0);
  EXPECT_EQ(a.signals(), 0u);
  ASSERT_TRUE(interrupts.bind(msix, 0, list(a.give(), b.give())));
  EXPECT_EQ(a.signals() + b.signals(), 0u) << "nothing from before is delivered";
}

TEST_F(MsixTest, EnabledInTheCapabilityButNotBoundYetKeepsWhatIsRaised) {
  interrupts.set_msix_control(true, false);  // QEMU writes the control register before it binds
  EXPECT_TRUE(interrupts.msix_enabled());
  interrupts.signal_msix(2);
  ASSERT_TRUE(interrupts.bind(msix, 0, list(EventFd())));
  bind(msix, 2, a.give());
  EXPECT_EQ(a.signals(), 1u);
}

TEST_F(MsixTest, NotEnabledNothingStaysPending) {
  interrupts.signal_msix(0);
  EXPECT_FALSE(pending(0));
}

TEST_F(MsixTest, WithoutBusMasteringMessagesAreHeldBack) {
  bind(msix, 0, a.give());
  interrupts.set_bus_master(false);
  interrupts.signal_msix(0);
  EXPECT_EQ(a.signals(), 0u);
  EXPECT_TRUE(pending(0));
  interrupts.set_bus_master(true);
  EXPECT_EQ(a.signals(), 1u);
}

TEST_F(MsixTest, AVectorBeyondTheCountIsIgnored) {
  bind(msix, 0, a.give());
  interrupts.signal_msix(vectors);
  interrupts.signal_msix(UINT32_MAX);
  EXPECT_EQ(a.signals(), 0u);
}

TEST_F(MsixTest, ASaturatedEventfdDoesNotBlock) {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC));
  const std::uint64_t full = UINT64_MAX - 1;
  ASSERT_EQ(::write(fd.get(), &full, sizeof full), static_cast<ssize_t>(sizeof full));
  bind(msix, 0, std::move(*EventFd::adopt(std::move(fd))));
  interrupts.signal_msix(0);
  EXPECT_FALSE(pending(0)) << "whoever reads it finds an event";
}

TEST_F(InterruptsTest, VU49_ASaturatedBlockingEventfdOfThePeerBlocksNobody) {
  const testing::HostileEventFd peer;
  bind(msix, 0, peer.give());
  EXPECT_TRUE(peer.does_not_block([&] { interrupts.signal_msix(0); }));
  EXPECT_FALSE(pending(0)) << "whoever reads it finds an event";
  EXPECT_TRUE(peer.does_not_block([&] { EXPECT_TRUE(interrupts.trigger(msix, 0, 1)); }));
  bind(msix, 1, EventFd());
  interrupts.signal_msix(1);
  EXPECT_TRUE(peer.does_not_block([&] { bind(msix, 1, peer.give()); })) << "what was pending is delivered";
  ASSERT_TRUE(interrupts.disable(msix));
  bind(msi, 0, peer.give());
  EXPECT_TRUE(peer.does_not_block([&] { interrupts.signal_msi(0); }));
  ASSERT_TRUE(interrupts.disable(msi));
  bind(intx, 0, peer.give());
  EXPECT_TRUE(peer.does_not_block([&] { interrupts.set_intx(true); }));
  for (const InterruptKind kind : {intx, error, request}) {
    bind(kind, 0, peer.give());
    EXPECT_TRUE(peer.does_not_block([&] { EXPECT_TRUE(interrupts.trigger(kind, 0, 1)); }));
  }
}

TEST_F(MsixTest, ADescriptorThatIsNoEventfdButHasNoTypeEitherDropsTheEvent) {
  bind(msix, 0, std::move(*EventFd::adopt(UniqueFd(::epoll_create1(EPOLL_CLOEXEC)))));
  interrupts.signal_msix(0);
  EXPECT_FALSE(pending(0));
}

TEST_F(MsixTest, ADescriptorThatIsNoEventfdDropsTheEvent) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd reader(ends[0]);
  bind(msix, 0, std::move(*EventFd::adopt(UniqueFd(ends[1]))));
  interrupts.signal_msix(0);
  EXPECT_TRUE(interrupts.trigger(msix, 0, 1));
  bind(msix, 0, a.give());
  EXPECT_EQ(a.signals(), 1u) << "it counted as unbound";
}

TEST_F(MsixTest, ReleasingTheClientUnbindsAndFreesTheKind) {
  bind(msix, 0, a.give());
  interrupts.release_client();
  interrupts.signal_msix(0);
  EXPECT_EQ(a.signals(), 0u);
  EXPECT_TRUE(interrupts.bind(intx, 0, list(b.give())));
}

// MSI-X, driven by table writes

TEST_F(MsixTest, TableEntriesTakeWhatTheSpecificationAllows) {
  const std::byte ones[16] = {std::byte{0xFF}, std::byte{0xFF}, std::byte{0xFF}, std::byte{0xFF},
                              std::byte{0xFF}, std::byte{0xFF}, std::byte{0xFF}, std::byte{0xFF},
                              std::byte{0xFF}, std::byte{0xFF}, std::byte{0xFF}, std::byte{0xFF},
                              std::byte{0xFF}, std::byte{0xFF}, std::byte{0xFF}, std::byte{0xFF}};
  interrupts.write_table(16, ones);
  EXPECT_EQ(table_word(16), 0xFFFFFFFCu);
  EXPECT_EQ(table_word(20), 0xFFFFFFFFu);
  EXPECT_EQ(table_word(24), 0xFFFFFFFFu);
  EXPECT_EQ(table_word(28), 1u);
  EXPECT_EQ(table_word(0), 0u);
  interrupts.write_table(29, {ones, 3});
  EXPECT_EQ(table_word(28), 1u) << "reserved bits stay 0";
  interrupts.write_table(17, {ones, 1});
  interrupts.write_table(vectors * 16 - 1, ones);
  interrupts.write_table(UINT64_MAX, ones);
  EXPECT_EQ(table_word(vectors * 16), 0u);
}

TEST_F(MsixTest, ATableWriteMakesTheTableTheMaster) {
  interrupts.set_msix_control(true, false);
  ASSERT_TRUE(interrupts.bind(msix, 0, list(a.give(), b.give())));
  write_vector_control(0, 0);
  interrupts.signal_msix(0);
  interrupts.signal_msix(1);
  EXPECT_EQ(a.signals(), 1u);
  EXPECT_EQ(b.signals(), 0u) << "entry 1 is masked, as at power-on";
  EXPECT_TRUE(pending(1));
}

TEST_F(MsixTest, UnmaskingAnEntryDeliversWhatIsPending) {
  interrupts.set_msix_control(true, false);
  bind(msix, 0, a.give());
  write_vector_control(0, 1);
  interrupts.signal_msix(0);
  EXPECT_EQ(a.signals(), 0u);
  write_vector_control(0, 0);
  EXPECT_EQ(a.signals(), 1u);
  EXPECT_FALSE(pending(0));
}

TEST_F(MsixTest, FunctionMaskHoldsAllVectorsAndItsEndDelivers) {
  ASSERT_TRUE(interrupts.bind(msix, 0, list(a.give(), b.give())));
  interrupts.set_msix_control(true, true);
  write_vector_control(0, 0);
  write_vector_control(1, 0);
  interrupts.signal_msix(0);
  interrupts.signal_msix(1);
  EXPECT_EQ(a.signals() + b.signals(), 0u);
  interrupts.set_msix_control(true, false);
  EXPECT_EQ(a.signals(), 1u);
  EXPECT_EQ(b.signals(), 1u);
}

TEST_F(MsixTest, ATableDrivenFunctionNeedsItsEnableBit) {
  bind(msix, 0, a.give());
  write_vector_control(0, 0);
  interrupts.signal_msix(0);
  EXPECT_EQ(a.signals(), 0u);
  interrupts.set_msix_control(true, false);
  EXPECT_EQ(a.signals(), 1u);
}

TEST_F(MsixTest, TheNextClientIsNotBoundByTheTableOfTheLast) {
  interrupts.set_msix_control(true, false);
  write_vector_control(0, 1);
  interrupts.release_client();
  bind(msix, 0, a.give());
  interrupts.signal_msix(0);
  EXPECT_EQ(a.signals(), 1u);
}

TEST_F(MsixTest, PendingBitsBeyondTheVectorsAreZero) {
  ASSERT_TRUE(interrupts.bind(msix, 0, {}));
  for (unsigned vector = 0; vector < vectors; ++vector) interrupts.signal_msix(vector);
  le64 words[3];
  interrupts.read_pba(0, std::as_writable_bytes(std::span(words)));
  EXPECT_EQ(words[0], UINT64_MAX);
  EXPECT_EQ(words[1], (UINT64_C(1) << (vectors - 64)) - 1);
  EXPECT_EQ(words[2], 0u);
}

// MSI

TEST_F(MsiTest, IsDeliveredToTheBoundVector) {
  ASSERT_TRUE(interrupts.bind(msi, 0, list(a.give(), b.give())));
  EXPECT_TRUE(interrupts.msi_enabled());
  interrupts.signal_msi(1);
  EXPECT_EQ(a.signals(), 0u);
  EXPECT_EQ(b.signals(), 1u);
}

TEST_F(MsiTest, AMaskedVectorStaysPendingUntilItIsUnmasked) {
  bind(msi, 0, a.give());
  interrupts.set_msi_control(true, 0b0001);
  interrupts.signal_msi(0);
  interrupts.signal_msi(2);
  EXPECT_EQ(a.signals(), 0u);
  EXPECT_EQ(interrupts.msi_pending(), 0b0101u);
  interrupts.set_msi_control(true, 0);
  EXPECT_EQ(a.signals(), 1u);
  EXPECT_EQ(interrupts.msi_pending(), 0b0100u);
}

// Reset

TEST_F(InterruptsTest, ResetKeepsBindingsAndDropsWhatWasRaised) {
  bind(msix, 0, a.give());
  interrupts.set_bus_master(false);
  interrupts.signal_msix(0);
  interrupts.signal_msix(1);
  interrupts.set_intx(true);
  interrupts.reset();
  EXPECT_FALSE(interrupts.intx_level());
  EXPECT_FALSE(pending(1));
  interrupts.set_bus_master(true);
  EXPECT_EQ(a.signals(), 0u);
  interrupts.signal_msix(0);
  EXPECT_EQ(a.signals(), 1u);
}

TEST_F(InterruptsTest, ResetTurnsBusMasteringOff) {
  bind(msix, 0, a.give());
  interrupts.reset();
  interrupts.signal_msix(0);
  EXPECT_EQ(a.signals(), 0u);
}

TEST_F(InterruptsTest, ResetMasksTheTableAndEndsItsRule) {
  interrupts.set_msix_control(true, true);
  write_vector_control(0, 0);
  interrupts.reset();
  EXPECT_EQ(table_word(12), 1u);
  EXPECT_FALSE(interrupts.msix_enabled());
  interrupts.set_bus_master(true);
  bind(msix, 0, a.give());
  interrupts.signal_msix(0);
  EXPECT_EQ(a.signals(), 1u);
}

TEST_F(InterruptsTest, ResetEndsTheIntxMask) {
  bind(intx, 0, a.give());
  interrupts.set_intx(true);
  EXPECT_EQ(a.signals(), 1u);
  interrupts.reset();
  interrupts.set_intx(true);
  EXPECT_EQ(a.signals(), 1u);
}

}  // namespace
}  // namespace outboard::pci
