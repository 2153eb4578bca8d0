// What a driver does with an open function: registers, windows, reset, sleep, events (docs/spec-map.md, VFIO-14 to
// VFIO-19 and VFIO-32 to VFIO-38).

#include <outboard/vfio/handle.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include <outboard/memory/fault_guard.hpp>
#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/vfio/internal/windows.hpp>
#include <tests/support/own_mappings.hpp>
#include <tests/support/vfio_handle_fixture.hpp>

namespace outboard::vfio {
namespace {

namespace abi = vfio_abi;
using ::testing::ElementsAre;
using testing::FakeVfioDevice;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::PlainFunction;

class HandleTest : public testing::VfioHandleTest {
 protected:
  HandleTest() { add({.cdev = "vfio0"}); }
  pci::Window window(std::uint64_t length = 4096) { return bar().window(PlainFunction::area_at, length).value(); }
  Status set_power_state(std::uint16_t state) {
    const auto at = handle_->find_capability(pci::capability_id::power_management).value()->offset +
                    pci::PowerManagementControl::in_capability;
    return handle_->config().write_at(at, pci::PowerManagementControl(state));
  }
};

// Registers

TEST_F(HandleTest, ARegisterIsOneAccessOfItsWidth) {
  open();
  device_->accesses.clear();
  using Access = FakeVfioDevice::Access;
  EXPECT_TRUE(bar().read<std::uint8_t>(0x1001));
  EXPECT_TRUE(bar().read<std::uint16_t>(0x1002));
  EXPECT_TRUE(bar().read<std::uint32_t>(0x1004));
  EXPECT_TRUE(bar().read<std::uint64_t>(0x1008));
  EXPECT_TRUE(bar().write<std::uint64_t>(0x1008, 1));
  EXPECT_THAT(device_->accesses,
              ElementsAre(Access{0, 0x1001, 1, false}, Access{0, 0x1002, 2, false}, Access{0, 0x1004, 4, false},
                          Access{0, 0x1008, 8, false}, Access{0, 0x1008, 8, true}));
}

TEST_F(HandleTest, VFIO16_WhatIsNoRegisterGoesByDwordsAndNeverBySomethingWider) {
  open();
  device_->accesses.clear();
  using Access = FakeVfioDevice::Access;
  std::array<std::byte, 15> bytes{};
  ASSERT_TRUE(handle_->read_region(0, 0x1001, bytes));
  EXPECT_THAT(device_->accesses,
              ElementsAre(Access{0, 0x1001, 1, false}, Access{0, 0x1002, 2, false}, Access{0, 0x1004, 4, false},
                          Access{0, 0x1008, 4, false}, Access{0, 0x100c, 4, false}));
  device_->accesses.clear();
  EXPECT_TRUE(bar().read<std::uint64_t>(0x1004)) << "not at its alignment";
  EXPECT_THAT(device_->accesses, ElementsAre(Access{0, 0x1004, 4, false}, Access{0, 0x1008, 4, false}));
}

TEST_F(HandleTest, BoundsAreCheckedBeforeTheKernelIsAsked) {
  open();
  std::array<std::byte, 8> bytes{};
  EXPECT_EQ(handle_->read_region(0, PlainFunction::bar_size - 4, bytes).error().code(), EINVAL);
  EXPECT_EQ(handle_->write_region(0, UINT64_MAX, bytes).error().code(), EINVAL);
  EXPECT_EQ(handle_->read_region(pci::region::config, 4095, bytes).error().code(), EINVAL);
  EXPECT_EQ(handle_->read_region(40, 0, bytes).error().code(), EINVAL);
  EXPECT_EQ(handle_->read_region(1, 0, bytes).error().code(), EINVAL);
  EXPECT_EQ(handle_->map_window(0, 0, PlainFunction::bar_size + 1).error().code(), EINVAL);
}

TEST_F(HandleTest, ConfigurationSpaceIsReadInOnePiece) {
  open();
  std::array<std::byte, 4096> bytes{};
  EXPECT_TRUE(handle_->read_region(pci::region::config, 0, bytes));
  EXPECT_EQ(bytes[0], std::byte{0x34});
}

TEST_F(HandleTest, BarsOfTheKernelsAreBookkeepingAndTheirSizeIsTheRegions) {
  open();
  struct Base : pci::Register<std::uint32_t> {
    using Register::Register;
  };
  ASSERT_TRUE(handle_->config().write_at(pci::BaseAddress::offset_of(0), Base(0xFFFFFFFF)));
  EXPECT_EQ(get(PlainFunction::id_at), PlainFunction::id_value) << "nothing moved";
  EXPECT_EQ(bar().size(), PlainFunction::bar_size);
}

TEST_F(HandleTest, VFIO18_AnAccessWhileMemoryIsNotDecodedSaysSo) {
  open();
  ASSERT_TRUE(handle_->config().write(pci::Command(0)));
  const auto read = bar().read<std::uint32_t>(0);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code(), EIO);
  EXPECT_THAT(read.error().what(), HasSubstr("does not decode memory"));
  EXPECT_THAT(read.error().cure(), HasSubstr("enable_memory()"));
  ASSERT_TRUE(handle_->enable_memory());
  EXPECT_EQ(get(PlainFunction::id_at), PlainFunction::id_value);
}

TEST_F(HandleTest, VFIO17_AllOnesInTheVendorsPlaceMeanThatItIsGone) {
  open();
  device_->dead = true;
  EXPECT_TRUE(handle_->config().read<pci::VendorId>()) << "which the kernel makes up";
  EXPECT_EQ(handle_->enable_memory().error().code(), ENODEV);
  EXPECT_EQ(handle_->identity().error().code(), ENODEV);
  ASSERT_TRUE(handle_->process());
  EXPECT_TRUE(handle_->gone());
  EXPECT_THAT(events_, ElementsAre(pci::Event::gone));
  EXPECT_EQ(handle_->reset().error().code(), ENODEV);
}

// Windows

TEST_F(HandleTest, AWindowIsTheDevicesMemory) {
  open();
  window(8192).write<std::uint32_t>(4096, 0x1234);
  EXPECT_EQ(get(PlainFunction::area_at + 4096), 0x1234U);
}

TEST_F(HandleTest, VFIO14_WhatMayNotBeMappedIsReachedByCalls) {
  open();
  EXPECT_EQ(bar().window(0, 4).error().code(), ENOTSUP);
  EXPECT_EQ(bar().window(PlainFunction::area_at - 4, 8).error().code(), ENOTSUP);
  EXPECT_EQ(get(PlainFunction::id_at), PlainFunction::id_value);
}

TEST_F(HandleTest, VFIO15_WhatCannotBeMappedIsReachedByCallsAndWarnedOf) {
  open();
  device_->mmap_fails = true;
  EXPECT_EQ(bar().window(PlainFunction::area_at, 4).error().code(), ENOTSUP);
  EXPECT_TRUE(logged("accessed by calls"));
  put(PlainFunction::area_at, 7);
  EXPECT_EQ(get(PlainFunction::area_at), 7U);
}

TEST_F(HandleTest, VFIO40_AChildHasNoWindows) {
  open();
  const auto there = reinterpret_cast<std::uintptr_t>(window().data());
  const pid_t child = ::fork();
  if (child == 0) ::_exit(testing::can_be_pinned(there, 4096, false) ? 1 : 0);
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST(SystemKernel, VFIO40_WhatItOpensIsClosedByExec) {
  const UniqueFd opened(Kernel::system().open("/dev/null"));
  ASSERT_TRUE(opened);
  EXPECT_TRUE(::fcntl(opened.get(), F_GETFD) & FD_CLOEXEC);
}

TEST_F(HandleTest, WindowsReadAsAllOnesWhileMemoryIsNotDecoded) {
  open();
  const pci::Window view = window();
  view.write<std::uint32_t>(0, 5);
  ASSERT_TRUE(handle_->config().write(pci::Command(0)));
  EXPECT_EQ(view.read<std::uint32_t>(0), UINT32_MAX);
  const pci::Window later = window();
  EXPECT_EQ(later.read<std::uint32_t>(0), UINT32_MAX) << "one that is made meanwhile too";
  view.write<std::uint32_t>(0, 6);
  ASSERT_TRUE(handle_->enable_memory());
  EXPECT_EQ(view.read<std::uint32_t>(0), 5U) << "and are the device's again";
  EXPECT_EQ(later.read<std::uint32_t>(0), 5U);
}

TEST_F(HandleTest, WindowsReadAsAllOnesInD3) {
  open();
  const pci::Window view = window();
  ASSERT_TRUE(set_power_state(pci::PowerManagementControl::d3hot));
  EXPECT_EQ(view.read<std::uint32_t>(0), UINT32_MAX);
  EXPECT_EQ(bar().read<std::uint32_t>(0).error().code(), EIO);
}

TEST_F(HandleTest, AWindowThatCouldNotBeMappedAgainIsTriedAtTheNextWrite) {
  open();
  const pci::Window view = window();
  view.write<std::uint32_t>(0, 5);
  ASSERT_TRUE(handle_->config().write(pci::Command(0)));
  device_->mmap_fails = true;
  EXPECT_FALSE(handle_->enable_memory());
  EXPECT_EQ(view.read<std::uint32_t>(0), UINT32_MAX);
  device_->mmap_fails = false;
  ASSERT_TRUE(handle_->enable_memory());
  EXPECT_EQ(view.read<std::uint32_t>(0), 5U);
}

/// A kernel whose BARs are an ordinary file, which can be taken away behind the handle's back.
struct Bars final : Kernel {
  int open(const std::string& /*path*/) override { return -ENOENT; }
  int ioctl(int /*fd*/, unsigned long /*request*/, std::uintptr_t /*argument*/) override { return -ENOTTY; }
  ssize_t pread(int /*fd*/, MutableBytes /*into*/, std::uint64_t /*offset*/) override { return -EIO; }
  ssize_t pwrite(int /*fd*/, Bytes /*from*/, std::uint64_t /*offset*/) override { return -EIO; }
  ssize_t read(int /*fd*/, MutableBytes /*into*/) override { return -EBADF; }
  ssize_t write(int /*fd*/, Bytes /*from*/) override { return -EBADF; }
  void* map(int fd, std::uint64_t length, int protection, std::uint64_t /*offset*/, void* fixed) override {
    void* at = ::mmap(fixed, length, protection, MAP_SHARED | (fixed != nullptr ? MAP_FIXED : 0), fd, 0);
    return at == MAP_FAILED ? nullptr : at;
  }
  void unmap(void* address, std::uint64_t length) override { ::munmap(address, length); }
  std::uint64_t lockable_memory() override { return 0; }
  void pause(Duration /*time*/) override {}
};

class WindowsTest : public ::testing::Test {
 protected:
  pci::Window whole(std::uint64_t size) {
    EXPECT_EQ(::ftruncate(device_.fd.get(), static_cast<off_t>(size)), 0);
    return windows_.window(0, 0, {.offset = 0, .size = size}, true, 0, size).value();
  }
  Bars kernel_;
  DeviceFd device_{UniqueFd(::memfd_create("bar", MFD_CLOEXEC))};
  Windows windows_{kernel_, device_};
};

TEST_F(WindowsTest, ALargeWindowIsCoveredByAFewThousandMappings) {
  constexpr std::uint64_t size = UINT64_C(4) << 30;
  const pci::Window view = whole(size);
  const std::size_t before = testing::own_mappings().size();
  windows_.close();
  EXPECT_LT(testing::own_mappings().size() - before, 10000U);
  for (const std::uint64_t at : {UINT64_C(0), size / 2, size - 4}) EXPECT_EQ(view.read<std::uint32_t>(at), UINT32_MAX);
}

TEST_F(WindowsTest, OfAWindowTooLargeForOnesNothingStaysMappedEither) {
  constexpr std::uint64_t size = UINT64_C(17) << 30;
  const pci::Window view = whole(size);
  struct stat info{};
  ASSERT_EQ(::fstat(device_.fd.get(), &info), 0);
  windows_.close();
  EXPECT_EQ(std::ranges::count(testing::own_mappings(), info.st_ino, &testing::OwnMapping::inode), 0);
  EXPECT_EQ(view.read<std::uint32_t>(0), UINT32_MAX);
  EXPECT_EQ(view.read<std::uint32_t>(size - 4), 0U);
}

TEST_F(WindowsTest, WithNoDescriptorLeftTheyAreCoveredAllTheSame) {
  const pci::Window view = whole(UINT64_C(1) << 20);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  windows_.close();
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(view.read<std::uint32_t>(0), UINT32_MAX);
  EXPECT_EQ(view.read<std::uint32_t>(view.size() - 4), UINT32_MAX);
}

TEST(HandleDeathTest, VFIO19_ABusErrorInAWindowBecomesOnesUnderTheFaultGuard) {
  // In a process of its own: the guard stays installed.
  EXPECT_EXIT(
      {
        if (!memory::install_fault_guard()) ::_exit(2);
        const UniqueFd file(::memfd_create("bar", MFD_CLOEXEC));
        if (::ftruncate(file.get(), 8192) != 0) ::_exit(3);
        Bars kernel;
        const DeviceFd device{file.duplicate().value()};
        Windows windows(kernel, device);
        const auto view = windows.window(0, 0, {.offset = 0, .size = 8192}, true, 0, 8192);
        view->write<std::uint32_t>(0, 5);
        if (::ftruncate(file.get(), 0) != 0) ::_exit(4);
        if (view->read<std::uint32_t>(0) != UINT32_MAX || view->read<std::uint32_t>(4096) != UINT32_MAX) ::_exit(5);
        view->write<std::uint32_t>(0, 1);
        if (::ftruncate(file.get(), 8192) != 0 || !windows.uncover()) ::_exit(6);
        ::_exit(view->read<std::uint32_t>(0) == 0 ? 0 : 7);  // the device's again
      },
      ::testing::ExitedWithCode(0), "");
}

// Reset

TEST_F(HandleTest, ResetKeepsWhatTheLibraryLooksAfter) {
  open();
  ASSERT_TRUE(handle_->enable_bus_master());
  auto set = handle_->enable_interrupts(pci::InterruptKind::msix, 2);
  ASSERT_TRUE(set);
  const pci::Window view = window();
  put(PlainFunction::scratch_at, 5);
  ASSERT_TRUE(handle_->reset());
  EXPECT_EQ(get(PlainFunction::scratch_at), 0U);
  EXPECT_TRUE(function_->bus_master());
  put(PlainFunction::signal_msix_at, 1);
  EXPECT_EQ(set->vector(1).drain(), 1U);
  view.write<std::uint32_t>(0, 9);
  EXPECT_EQ(get(PlainFunction::area_at), 9U);
}

TEST_F(HandleTest, ABusyDeviceIsResetALittleLater) {
  open();
  ASSERT_TRUE(handle_->enable_bus_master());
  device_->failures[abi::DeviceRequest::reset] = {EAGAIN, EAGAIN};
  EXPECT_TRUE(handle_->reset());
  EXPECT_GT(kernel_.paused, Duration{0});
  device_->failures[abi::DeviceRequest::reset].assign(100, EAGAIN);
  EXPECT_EQ(handle_->reset().error().code(), EAGAIN);
  EXPECT_TRUE(function_->bus_master()) << "a reset that did not take place changes nothing";
  device_->failures[abi::DeviceRequest::reset] = {EINVAL};
  EXPECT_EQ(handle_->reset().error().code(), ENOTSUP);
  EXPECT_TRUE(function_->bus_master());
  EXPECT_TRUE(handle_->reset());
  EXPECT_TRUE(function_->bus_master());
}

TEST_F(HandleTest, VFIO33_AResetThatFailsLeavesOnlyClosing) {
  open();
  device_->failures[abi::DeviceRequest::reset] = {ENOTTY};
  const Status reset = handle_->reset();
  ASSERT_FALSE(reset);
  EXPECT_EQ(reset.error().code(), EIO);
  EXPECT_THAT(reset.error().cure(), HasSubstr("close it"));
  EXPECT_EQ(handle_->identity().error().code(), EIO);
  handle_.reset();
  open();
  EXPECT_EQ(get(PlainFunction::id_at), PlainFunction::id_value);
}

class NoReset : public testing::VfioHandleTest {};

TEST_F(NoReset, VFIO32_AFunctionWithoutAResetSaysSo) {
  add({.resettable = false});
  open();
  EXPECT_FALSE(handle_->resettable());
  const Status reset = handle_->reset();
  ASSERT_FALSE(reset);
  EXPECT_EQ(reset.error().code(), ENOTSUP);
  EXPECT_THAT(reset.error().what(), HasSubstr("no method of being reset"));
}

TEST_F(HandleTest, VFIO34_WritingCommandAgainRestoresBarsThatAResetLost) {
  open();
  const pci::Window view = window();
  view.write<std::uint32_t>(0, 3);
  ASSERT_TRUE(function_->write_region(pci::region::config, 4, as_bytes_of(le16(0))));  // behind the kernel's back
  EXPECT_EQ(bar().read<std::uint32_t>(0).error().code(), EIO);
  ASSERT_TRUE(handle_->enable_memory());
  EXPECT_EQ(get(PlainFunction::area_at), 3U);
}

// Sleep

TEST_F(HandleTest, VFIO38_AFunctionSleepsAndComesBackWithItsWindows) {
  open();
  const pci::Window view = window();
  view.write<std::uint32_t>(0, 5);
  ASSERT_TRUE(handle_->enter_low_power());
  EXPECT_TRUE(device_->asleep);
  EXPECT_EQ(handle_->enter_low_power().error().code(), EALREADY);
  EXPECT_EQ(view.read<std::uint32_t>(0), UINT32_MAX);
  EXPECT_TRUE(handle_->config().read<pci::VendorId>()) << "what the kernel allows, a call does";
  ASSERT_TRUE(handle_->exit_low_power());
  EXPECT_TRUE(handle_->exit_low_power());
  EXPECT_EQ(view.read<std::uint32_t>(0), 5U);
  EXPECT_THAT(events_, ElementsAre(pci::Event::low_power_entry, pci::Event::low_power_exit));
}

TEST_F(HandleTest, WakingGivesNoWindowBackWhileMemoryIsNotDecoded) {
  open();
  const pci::Window view = window();
  view.write<std::uint32_t>(0, 5);
  ASSERT_TRUE(handle_->config().write(pci::Command(0)));
  ASSERT_TRUE(handle_->enter_low_power());
  ASSERT_TRUE(handle_->exit_low_power());
  EXPECT_EQ(view.read<std::uint32_t>(0), UINT32_MAX);
  device_->failures[abi::DeviceRequest::feature] = {0, EBUSY};  // that it can, and then that it will not
  EXPECT_EQ(handle_->enter_low_power().error().code(), EBUSY);
  EXPECT_EQ(view.read<std::uint32_t>(0), UINT32_MAX);
  ASSERT_TRUE(handle_->enable_memory());
  EXPECT_EQ(view.read<std::uint32_t>(0), 5U);
}

TEST_F(NoReset, WithoutTheKernelsLowPowerTheFunctionsOwnIsUsed) {
  add({.low_power = false});
  open();
  ASSERT_TRUE(handle_->enable_bus_master());
  ASSERT_TRUE(handle_->enter_low_power());
  EXPECT_EQ(bar().read<std::uint32_t>(0).error().code(), EIO);
  ASSERT_TRUE(handle_->exit_low_power());
  EXPECT_EQ(get(PlainFunction::id_at), PlainFunction::id_value);
  EXPECT_TRUE(function_->bus_master());
}

TEST_F(HandleTest, AHandleThatSleepsCanBeClosed) {
  open();
  ASSERT_TRUE(handle_->enter_low_power());
  handle_.reset();
  EXPECT_FALSE(device_->asleep);
}

// Events

TEST_F(HandleTest, VFIO35_AnUnplugRequestIsToldOfAndTheDeviceWorksOn) {
  open();
  ASSERT_TRUE(handle_->attach(loop_));
  device_->request_unplug();
  loop_.run_until_idle();
  EXPECT_THAT(events_, ElementsAre(pci::Event::unplug_requested));
  EXPECT_EQ(get(PlainFunction::id_at), PlainFunction::id_value);
}

TEST_F(HandleTest, VFIO35_AskedASecondTimeTheHandleLetsGo) {
  open();
  const pci::Window view = window();
  ASSERT_TRUE(handle_->attach(loop_));
  device_->request_unplug();
  loop_.run_until_idle();
  device_->request_unplug();
  loop_.run_until_idle();
  EXPECT_THAT(events_, ElementsAre(pci::Event::unplug_requested, pci::Event::gone));
  EXPECT_FALSE(kernel_.in_use(address));
  EXPECT_EQ(view.read<std::uint32_t>(0), UINT32_MAX);
}

TEST_F(HandleTest, VFIO35_WithoutAListenerItLetsGoAtOnce) {
  open();
  handle_->on_event(nullptr);
  device_->request_unplug();
  ASSERT_TRUE(handle_->process());
  EXPECT_TRUE(handle_->gone());
  EXPECT_FALSE(kernel_.in_use(address));
}

TEST_F(HandleTest, VFIO36_ARequestAfterTheRevokeIsIgnored) {
  open();
  device_->request_unplug();
  handle_->revoke();
  ASSERT_TRUE(handle_->process());
  EXPECT_THAT(events_, ElementsAre(pci::Event::gone));
}

TEST_F(HandleTest, ARevokeFromInsideTheHandlerIsOrderly) {
  open();
  ASSERT_TRUE(handle_->enable_bus_master());
  const pci::Window view = window();
  auto buffer = handle_->dma().allocate(4096);
  auto set = handle_->enable_interrupts(pci::InterruptKind::msix, 1);
  ASSERT_TRUE(buffer && set);
  handle_->on_event([this](pci::Event event) {
    events_.push_back(event);
    if (event == pci::Event::unplug_requested) handle_->revoke();
  });
  ASSERT_TRUE(handle_->attach(loop_));
  device_->request_unplug();
  loop_.run_until_idle();
  EXPECT_THAT(events_, ElementsAre(pci::Event::unplug_requested, pci::Event::gone));
  EXPECT_FALSE(kernel_.in_use(address)) << "the kernel has it back before anything else is destroyed";
  EXPECT_FALSE(function_->bus_master());
  EXPECT_EQ(view.read<std::uint32_t>(0), UINT32_MAX);
  EXPECT_EQ(handle_->bar(0).error().code(), ENODEV);
  EXPECT_EQ(handle_->dma().allocate(1 << 24).error().code(), ENODEV);
}

TEST_F(HandleTest, AHandlerMayDestroyTheHandle) {
  open();
  ASSERT_TRUE(handle_->attach(loop_));
  handle_->on_event([this](pci::Event event) {
    handle_.reset();
    events_.push_back(event);
  });
  device_->report_error();
  device_->request_unplug();
  loop_.run_until_idle();
  EXPECT_THAT(events_, ElementsAre(pci::Event::error)) << "and of nothing more";
  EXPECT_FALSE(kernel_.in_use(address));
}

TEST_F(HandleTest, ARevokingHandlerMayDestroyTheHandleWhenItIsGone) {
  open();
  handle_->on_event([this](pci::Event event) {
    events_.push_back(event);
    if (event == pci::Event::error) handle_->revoke();
    if (event == pci::Event::gone) handle_.reset();
  });
  device_->report_error();
  device_->request_unplug();
  auto& handle = *handle_;
  EXPECT_TRUE(handle.process());
  EXPECT_THAT(events_, ElementsAre(pci::Event::error, pci::Event::gone));
  EXPECT_EQ(handle_, nullptr);
}

TEST_F(HandleTest, VFIO35_AskedASecondTimeTheHandleMayBeDestroyedAsItLetsGo) {
  open();
  handle_->on_event([this](pci::Event event) {
    if (event == pci::Event::gone) handle_.reset();
  });
  device_->request_unplug();
  EXPECT_TRUE(handle_->process());
  device_->request_unplug();
  EXPECT_TRUE(handle_->process());
  EXPECT_EQ(handle_, nullptr);
}

TEST_F(HandleTest, AHandlerMaySetAnother) {
  open();
  handle_->on_event([this, captured = std::make_unique<int>(1)](pci::Event) {
    handle_->on_event([this](pci::Event event) { events_.push_back(event); });
    *captured = 2;
  });
  device_->report_error();
  device_->request_unplug();
  EXPECT_TRUE(handle_->process());
  EXPECT_THAT(events_, ElementsAre(pci::Event::unplug_requested));
}

TEST_F(HandleTest, VFIO37_AnErrorIsToldOfAndAResetMendsIt) {
  open();
  put(PlainFunction::scratch_at, 5);
  device_->report_error();
  ASSERT_TRUE(handle_->process());
  EXPECT_THAT(events_, ElementsAre(pci::Event::error));
  ASSERT_TRUE(handle_->reset());
  EXPECT_EQ(get(PlainFunction::scratch_at), 0U);
}

TEST_F(HandleTest, ADoorbellCanBeRungByAnEventfd) {
  open();
  const auto eventfd = EventFd::create();
  ASSERT_TRUE(handle_->ring_by_eventfd(0, PlainFunction::doorbell_at, 4, 3, *eventfd));
  ASSERT_EQ(device_->ioeventfds.size(), 1U);
  EXPECT_EQ(device_->ioeventfds[0].data, 3U);
  EXPECT_EQ(handle_->ring_by_eventfd(0, PlainFunction::doorbell_at, 8, 3, *eventfd).error().code(), EINVAL);
  EXPECT_EQ(handle_->ring_by_eventfd(0, UINT64_MAX, 4, 3, *eventfd).error().code(), EINVAL);
}

class MappableWhole : public testing::VfioHandleTest {};

TEST_F(MappableWhole, TheMsixTableIsTheKernelsAllTheSame) {
  add({.msix_mappable = true});
  open();
  EXPECT_EQ(handle_->region(0)->areas.size(), 1U);
  EXPECT_EQ(bar().window(PlainFunction::msix_table_at, 4).error().code(), ENOTSUP);
}

}  // namespace
}  // namespace outboard::vfio
