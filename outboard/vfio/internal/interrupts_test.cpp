// Interrupts of an open function (docs/spec-map.md, VFIO-20 to VFIO-24).

#include <outboard/vfio/internal/interrupts.hpp>

#include <fcntl.h>
#include <sys/resource.h>

#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/registers.hpp>
#include <tests/support/vfio_handle_fixture.hpp>

namespace outboard::vfio {
namespace {

namespace abi = vfio_abi;
using pci::InterruptKind;
using testing::PlainFunction;
using enum pci::InterruptKind;

class InterruptsTest : public testing::VfioHandleTest {
 protected:
  void start(testing::FakeVfioDevice::Options options = {}, PlainFunction::Options function = {.msix_vectors = 8}) {
    add(std::move(options), function);
    open();
    ASSERT_TRUE(handle_->enable_bus_master());
  }
  static std::vector<EventFd> eventfds(std::size_t count) {
    std::vector<EventFd> all;
    while (all.size() < count) all.push_back(*EventFd::create());
    return all;
  }
  static EventFd not_an_eventfd() { return EventFd::adopt(UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC))).value(); }
  void signal_msix(unsigned vector) { put(PlainFunction::signal_msix_at, vector); }
  void signal_msi(unsigned vector) { put(PlainFunction::signal_msi_at, vector); }
};

TEST_F(InterruptsTest, CountsAreTheKernelsAndAFlagWithoutACountIsNothing) {
  start({}, {.msix_vectors = 8, .msi_vectors = 0});
  EXPECT_EQ(handle_->interrupts(msix)->count, 8U);
  EXPECT_EQ(handle_->interrupts(msi)->count, 0U);
  EXPECT_TRUE(handle_->interrupts(intx)->automasked);
  EXPECT_EQ(handle_->enable_interrupts(msi, 1).error().code(), ENOSPC);
}

TEST_F(InterruptsTest, EachKindReachesItsEventfd) {
  start();
  {
    const auto set = handle_->enable_interrupts(msix, 8);
    ASSERT_TRUE(set) << set.error().message();
    signal_msix(7);
    EXPECT_EQ(set->vector(7).drain(), 1U);
  }
  {
    const auto set = handle_->enable_interrupts(msi, 4);
    ASSERT_TRUE(set) << set.error().message();
    signal_msi(3);
    EXPECT_EQ(set->vector(3).drain(), 1U);
  }
  auto set = handle_->enable_interrupts(intx, 1);
  ASSERT_TRUE(set) << set.error().message();
  put(PlainFunction::intx_at, 1);
  EXPECT_EQ(set->vector(0).drain(), 1U);
  EXPECT_TRUE(set->unmask());
  EXPECT_EQ(set->vector(0).drain(), 1U) << "still raised";
  put(PlainFunction::intx_at, 0);
  EXPECT_TRUE(set->unmask());
  EXPECT_EQ(set->vector(0).drain(), 0U);
}

TEST_F(InterruptsTest, OneModeAtATime) {
  start();
  const auto two = eventfds(2);
  ASSERT_TRUE(handle_->bind_interrupts(msix, 0, two));
  EXPECT_EQ(handle_->bind_interrupts(msi, 0, two).error().code(), EINVAL);
  EXPECT_EQ(handle_->bind_interrupts(intx, 0, eventfds(1)).error().code(), EINVAL);
  EXPECT_TRUE(handle_->disable_interrupts(msix));
  EXPECT_TRUE(handle_->disable_interrupts(msix)) << "which the kernel would refuse";
  EXPECT_TRUE(handle_->bind_interrupts(msi, 0, two));
}

TEST_F(InterruptsTest, WithNoDescriptorLeftNothingIsBound) {
  start();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const Status bound = handle_->bind_interrupts(msi, 0, std::vector<EventFd>(2));
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_FALSE(bound);
  EXPECT_EQ(bound.error().code(), EMFILE);
  EXPECT_TRUE(handle_->bind_interrupts(msix, 0, eventfds(1)));
}

TEST_F(InterruptsTest, VFIO20_FewerVectorsThanAskedForIsANumberAndNothingIsEnabled) {
  start();
  device_->machine_vectors[msi] = 1;
  EXPECT_EQ(handle_->enable_interrupts(msi, 4).error().code(), ENOSPC);
  EXPECT_EQ(handle_->interrupts(msi)->count, 1U) << "from now on";
  EXPECT_EQ(handle_->enable_interrupts_up_to(msi, 4)->count(), 1U);
  device_->machine_vectors[msix] = 3;
  const auto set = handle_->enable_interrupts_up_to(msix, 8);
  ASSERT_TRUE(set);
  EXPECT_EQ(set->count(), 3U);
  signal_msix(2);
  EXPECT_EQ(set->vector(2).drain(), 1U);
}

TEST_F(InterruptsTest, VFIO21_AVectorThatIsNoEventfdLeavesWhatWasBoundBefore) {
  start();
  const auto before = eventfds(3);
  ASSERT_TRUE(handle_->bind_interrupts(msix, 0, before));
  auto wrong = eventfds(3);
  wrong[1] = not_an_eventfd();
  EXPECT_EQ(handle_->bind_interrupts(msix, 0, wrong).error().code(), EINVAL);
  for (unsigned i = 0; i < 3; ++i) {
    signal_msix(i);
    EXPECT_EQ(before[i].drain(), 1U) << i;
  }
}

TEST_F(InterruptsTest, VFIO21_AVectorThatIsNoEventfdEnablesNothingWhereNothingWas) {
  start();
  auto wrong = eventfds(2);
  wrong[1] = not_an_eventfd();
  EXPECT_EQ(handle_->bind_interrupts(msi, 0, wrong).error().code(), EINVAL);
  EXPECT_TRUE(handle_->bind_interrupts(msix, 0, eventfds(1))) << "no mode is left over";
}

TEST_F(InterruptsTest, VectorsOfMsixAreAddedAndTakenAwayOneByOne) {
  start();
  const auto all = eventfds(6);
  std::vector<EventFd> one(1);
  one[0] = all[5].duplicate().value();
  ASSERT_TRUE(handle_->bind_interrupts(msix, 5, one)) << "a sparse start";
  signal_msix(5);
  EXPECT_EQ(all[5].drain(), 1U);
  ASSERT_TRUE(handle_->bind_interrupts(msix, 0, eventfds(2)));
  signal_msix(5);
  EXPECT_EQ(all[5].drain(), 1U) << "the others stay";
  ASSERT_TRUE(handle_->bind_interrupts(msix, 5, std::vector<EventFd>(1)));
  signal_msix(5);
  EXPECT_EQ(all[5].drain(), 0U);
}

TEST_F(InterruptsTest, MsixIsEnabledWithNothingBound) {
  start();
  ASSERT_TRUE(handle_->bind_interrupts(msix, 0, {}));
  const auto at = handle_->find_capability(pci::capability_id::msix).value()->offset + pci::MsixControl::in_capability;
  EXPECT_EQ(handle_->config().read_at<pci::MsixControl>(at)->get(pci::MsixControl::enable), 1);
  ASSERT_TRUE(handle_->disable_interrupts(msix));
  EXPECT_EQ(handle_->config().read_at<pci::MsixControl>(at)->get(pci::MsixControl::enable), 0);
}

TEST_F(InterruptsTest, TheEnableBitOfMsixIsTheKernels) {
  start();
  const auto at = handle_->find_capability(pci::capability_id::msix).value()->offset + pci::MsixControl::in_capability;
  ASSERT_TRUE(handle_->config().write_at(at, pci::MsixControl(0x8000)));
  EXPECT_EQ(handle_->config().read_at<pci::MsixControl>(at)->get(pci::MsixControl::enable), 0);
}

TEST_F(InterruptsTest, MsiThatGrowsIsEnabledAnewWithAllThatAreBound) {
  start();
  const auto first = eventfds(1), second = eventfds(2);
  ASSERT_TRUE(handle_->bind_interrupts(msi, 0, first));
  ASSERT_TRUE(handle_->bind_interrupts(msi, 2, second));
  signal_msi(0);
  signal_msi(3);
  EXPECT_EQ(first[0].drain(), 1U);
  EXPECT_EQ(second[1].drain(), 1U);
}

TEST_F(InterruptsTest, MsixThatCannotGrowIsEnabledAnew) {
  start({.dynamic_msix = false});
  EXPECT_FALSE(handle_->interrupts(msix)->resizable);
  const auto first = eventfds(1), second = eventfds(1);
  ASSERT_TRUE(handle_->bind_interrupts(msix, 0, first));
  ASSERT_TRUE(handle_->bind_interrupts(msix, 4, second));
  signal_msix(0);
  signal_msix(4);
  EXPECT_EQ(first[0].drain(), 1U);
  EXPECT_EQ(second[0].drain(), 1U);
}

// The fixture fails when the kernel is given an MSI vector without an eventfd.
TEST_F(InterruptsTest, AVectorOfMsiIsNeverWithoutAnEventfd) {
  start();
  ASSERT_TRUE(handle_->bind_interrupts(msi, 0, eventfds(4)));
  ASSERT_TRUE(handle_->bind_interrupts(msi, 1, std::vector<EventFd>(2)));
  signal_msi(1);
  ASSERT_TRUE(handle_->disable_interrupts(msi));
  ASSERT_TRUE(handle_->bind_interrupts(msi, 0, {}));
}

TEST_F(InterruptsTest, RangesBeyondTheCountAreRefused) {
  start();
  EXPECT_EQ(handle_->bind_interrupts(msix, 8, eventfds(1)).error().code(), EINVAL);
  EXPECT_EQ(handle_->bind_interrupts(msix, UINT32_MAX, eventfds(2)).error().code(), EINVAL);
  EXPECT_EQ(handle_->bind_interrupts(msix, 0, eventfds(9)).error().code(), EINVAL);
  EXPECT_EQ(handle_->unmask_interrupts(intx, 1, 1).error().code(), EINVAL);
  EXPECT_EQ(handle_->bind_interrupts(error, 0, eventfds(1)).error().code(), ENOTSUP) << "these are events";
}

TEST_F(InterruptsTest, OnlyIntxIsMaskedByCall) {
  start();
  ASSERT_TRUE(handle_->bind_interrupts(msix, 0, eventfds(1)));
  EXPECT_EQ(handle_->mask_interrupts(msix, 0, 1).error().code(), ENOTTY);
  EXPECT_EQ(handle_->unmask_interrupts(msix, 0, 1).error().code(), ENOTTY);
  EXPECT_EQ(handle_->unmask_interrupts(intx, 0, 1).error().code(), EINVAL) << "it is not enabled";
  EXPECT_EQ(handle_->bind_unmask(*EventFd::create()).error().code(), EINVAL);
}

TEST_F(InterruptsTest, AnEventfdUnmasksAndAnotherOneTakesItsPlace) {
  start();
  const auto line = eventfds(1);
  ASSERT_TRUE(handle_->bind_interrupts(intx, 0, line));
  const auto first = EventFd::create(), second = EventFd::create();
  ASSERT_TRUE(handle_->bind_unmask(*first));
  ASSERT_TRUE(handle_->bind_unmask(*second));
  put(PlainFunction::intx_at, 1);
  EXPECT_EQ(line[0].drain(), 1U);
  second->signal();
  loop_.run_until_idle();
  EXPECT_EQ(line[0].drain(), 1U);
  EXPECT_TRUE(handle_->bind_unmask(EventFd()));
}

TEST_F(InterruptsTest, TriggeringSignalsWhatIsBound) {
  start();
  const auto all = eventfds(2);
  ASSERT_TRUE(handle_->bind_interrupts(msix, 0, all));
  ASSERT_TRUE(handle_->trigger_interrupts(msix, 1, 1));
  EXPECT_EQ(all[1].drain(), 1U);
  EXPECT_TRUE(handle_->trigger_interrupts(msix, 0, 0)) << "and disables nothing";
  ASSERT_TRUE(handle_->trigger_interrupts(msix, 0, 1));
  EXPECT_EQ(all[0].drain(), 1U);
}

TEST_F(InterruptsTest, VFIO24_SignalsThatComeTogetherAreOneWakeUp) {
  start();
  const auto set = handle_->enable_interrupts(msix, 1);
  signal_msix(0);
  signal_msix(0);
  EXPECT_EQ(set->vector(0).drain(), 2U);
  EXPECT_EQ(set->vector(0).drain(), 0U);
}

TEST_F(InterruptsTest, VFIO22_WithoutBusMasteringAnMsiIsNotSent) {
  start();
  const auto set = handle_->enable_interrupts(msix, 1);
  ASSERT_TRUE(handle_->disable_bus_master());
  signal_msix(0);
  EXPECT_EQ(set->vector(0).drain(), 0U);
}

}  // namespace
}  // namespace outboard::vfio
