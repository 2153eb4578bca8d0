#include <outboard/pci/local_handle.hpp>

#include <array>
#include <map>

#include <gtest/gtest.h>

#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <tests/support/plain_function.hpp>

namespace outboard::pci {
namespace {

using testing::PlainFunction;

/// A handle over a function that the test pumps.
class PumpedHandleTest : public ::testing::Test {
 protected:
  explicit PumpedHandleTest(PlainFunction::Options options = {.doorbell_fd = true}) {
    auto made = PlainFunction::create(loop, Log(), options);
    function = made->get();
    handle = std::move(*LocalHandle::over(std::move(*made), [this] { pump(); }, "local:plain"));
  }
  virtual void pump() { loop.run_until_idle(); }
  Bar bar() { return *handle->bar(0); }

  testing::ManualLoop loop;
  PlainFunction* function = nullptr;
  std::unique_ptr<LocalHandle> handle;
};

TEST_F(PumpedHandleTest, RegistersAreReadAndWritten) {
  ASSERT_TRUE(handle->enable_memory());
  EXPECT_EQ(*bar().read<std::uint32_t>(PlainFunction::id_at), PlainFunction::id_value);
  EXPECT_TRUE(bar().write<std::uint32_t>(PlainFunction::scratch_at, 9));
  EXPECT_EQ(*bar().read<std::uint32_t>(PlainFunction::scratch_at), 9u);
  EXPECT_EQ(handle->name(), "local:plain");
}

TEST_F(PumpedHandleTest, BoundsAreCheckedBeforeTheFunctionIsAsked) {
  ASSERT_TRUE(handle->enable_memory());
  std::byte bytes[8];
  EXPECT_EQ(handle->read_region(0, PlainFunction::bar_size - 4, bytes).error().code(), EINVAL);
  EXPECT_EQ(handle->write_region(0, UINT64_MAX, bytes).error().code(), EINVAL);
  EXPECT_EQ(handle->read_region(1, 0, bytes).error().code(), EINVAL);
  EXPECT_EQ(handle->read_region(region::config, 4092, bytes).error().code(), EINVAL);
  EXPECT_EQ(handle->read_region(region::count, 0, bytes).error().code(), EINVAL);
  EXPECT_EQ(handle->region(region::count).error().code(), EINVAL);
  EXPECT_EQ(bar().read<std::uint32_t>(PlainFunction::bar_size).error().code(), EINVAL);
}

TEST_F(PumpedHandleTest, CapabilitiesAndVectorsAreFound) {
  const auto list = handle->capabilities();
  ASSERT_TRUE(list);
  ASSERT_EQ(list->size(), 4u);
  EXPECT_EQ((*list)[0].id, capability_id::power_management);
  EXPECT_EQ((*list)[1].id, capability_id::express);
  EXPECT_EQ((*list)[2].id, capability_id::msi);
  EXPECT_EQ((*list)[3].id, capability_id::msix);
  EXPECT_EQ(*handle->msix_vector_count(), 4u);
  EXPECT_EQ(*handle->msi_vector_count(), 4u);
}

TEST_F(PumpedHandleTest, MsixReachesItsVector) {
  ASSERT_TRUE(handle->enable_bus_master());
  auto set = handle->enable_interrupts(InterruptKind::msix, 2);
  ASSERT_TRUE(set);
  EXPECT_TRUE(function->interrupts().msix_enabled());
  ASSERT_TRUE(bar().write<std::uint32_t>(PlainFunction::signal_msix_at, 1));
  EXPECT_EQ(set->vector(0).drain(), 0u);
  EXPECT_EQ(set->vector(1).drain(), 1u);
  set->reset();
  EXPECT_FALSE(function->interrupts().msix_enabled());
}

TEST_F(PumpedHandleTest, MsiReachesItsVector) {
  ASSERT_TRUE(handle->enable_bus_master());
  const auto set = handle->enable_interrupts(InterruptKind::msi, 4);
  ASSERT_TRUE(set);
  ASSERT_TRUE(bar().write<std::uint32_t>(PlainFunction::signal_msi_at, 3));
  EXPECT_EQ(set->vector(3).drain(), 1u);
}

TEST_F(PumpedHandleTest, IntxIsAcknowledgedByUnmask) {
  ASSERT_TRUE(handle->enable_memory());
  auto set = handle->enable_interrupts(InterruptKind::intx, 1);
  ASSERT_TRUE(set);
  ASSERT_TRUE(bar().write<std::uint32_t>(PlainFunction::intx_at, 1));
  EXPECT_EQ(set->vector(0).drain(), 1u);
  EXPECT_TRUE(set->unmask());
  EXPECT_EQ(set->vector(0).drain(), 1u) << "still raised";
  ASSERT_TRUE(bar().write<std::uint32_t>(PlainFunction::intx_at, 0));
  EXPECT_TRUE(set->unmask());
  EXPECT_EQ(set->vector(0).drain(), 0u);
}

TEST_F(PumpedHandleTest, AWindowIsTheMappedAreaAndNothingElse) {
  const auto window = bar().window(PlainFunction::area_at + 0x100, 0x200);
  ASSERT_TRUE(window) << window.error().message();
  EXPECT_EQ(window->size(), 0x200u);
  window->write<std::uint32_t>(4, 0xABCD);
  EXPECT_EQ(function->area(0, 0)[0x104], std::byte{0xCD});
  EXPECT_EQ(bar().window(0, 4).error().code(), ENOTSUP);
  EXPECT_EQ(bar().window(PlainFunction::area_at - 4, 8).error().code(), ENOTSUP);
  EXPECT_EQ(bar().window(PlainFunction::area_at, PlainFunction::area_size + 1).error().code(), ENOTSUP);
}

TEST_F(PumpedHandleTest, ADoorbellCanBeRungByItsEventfd) {
  const auto doorbells = handle->io_eventfds(0);
  ASSERT_TRUE(doorbells);
  ASSERT_EQ(doorbells->size(), 1u);
  EXPECT_EQ((*doorbells)[0].offset, PlainFunction::doorbell_at);
  (*doorbells)[0].fd->signal();
  loop.run_until_idle();
  EXPECT_EQ(function->doorbell_count(), 1u);
}

TEST_F(PumpedHandleTest, TheFunctionReachesDmaBuffersAndOnlyThose) {
  ASSERT_TRUE(handle->enable_bus_master());
  auto buffer = handle->dma().allocate(4096);
  ASSERT_TRUE(buffer);
  EXPECT_NE(memory::raw(buffer->iova()), 0u);
  buffer->bytes()[3] = std::byte{0x42};
  const auto address = memory::raw(buffer->iova());
  ASSERT_TRUE(bar().write<std::uint64_t>(PlainFunction::dma_address_at, address));
  ASSERT_TRUE(bar().write<std::uint32_t>(PlainFunction::dma_length_at, 64));
  ASSERT_TRUE(bar().write<std::uint32_t>(PlainFunction::dma_command_at, PlainFunction::dma_from_memory));
  EXPECT_EQ(*bar().read<std::uint32_t>(PlainFunction::dma_status_at), PlainFunction::dma_done);
  EXPECT_EQ(*bar().read<std::uint8_t>(PlainFunction::buffer_at + 3), 0x42);

  ASSERT_TRUE(bar().write<std::uint64_t>(PlainFunction::dma_address_at, 0));
  ASSERT_TRUE(bar().write<std::uint32_t>(PlainFunction::dma_command_at, PlainFunction::dma_from_memory));
  EXPECT_EQ(*bar().read<std::uint32_t>(PlainFunction::dma_status_at), PlainFunction::dma_failed + EFAULT);
}

TEST_F(PumpedHandleTest, ResetReturnsToPowerOnAndRestoresWhatTheLibraryKeeps) {
  ASSERT_TRUE(handle->enable_bus_master());
  auto set = handle->enable_interrupts(InterruptKind::msix, 2);
  ASSERT_TRUE(set);
  const ConfigOffset bar0 = BaseAddress::offset_of(0);
  function->config().set(bar0, 4, 0xE0000000);
  ASSERT_TRUE(bar().write<std::uint32_t>(PlainFunction::scratch_at, 1));
  ASSERT_TRUE(handle->reset());
  EXPECT_EQ(function->resets(), 1u);
  EXPECT_EQ(*bar().read<std::uint32_t>(PlainFunction::scratch_at), 0u) << "decoded, and as at power-on";
  EXPECT_TRUE(function->bus_master());
  EXPECT_EQ(function->config().get(bar0, 4) & 0xFFFFFFF0u, 0xE0000000u);
  ASSERT_TRUE(bar().write<std::uint32_t>(PlainFunction::signal_msix_at, 1));
  EXPECT_EQ(set->vector(1).drain(), 1u) << "MSI-X is enabled still";
}

TEST_F(PumpedHandleTest, AFunctionThatSleepsComesBackWithWhatTheLibraryKeeps) {
  std::vector<Event> events;
  handle->on_event([&](Event event) { events.push_back(event); });
  ASSERT_TRUE(handle->enable_bus_master());
  ASSERT_TRUE(handle->enter_low_power());
  EXPECT_EQ(handle->enter_low_power().error().code(), EALREADY);
  EXPECT_EQ(*bar().read<std::uint32_t>(PlainFunction::id_at), 0xFFFFFFFFu);
  ASSERT_TRUE(handle->exit_low_power());
  EXPECT_TRUE(handle->exit_low_power()) << "nothing to do";
  EXPECT_EQ(*bar().read<std::uint32_t>(PlainFunction::id_at), PlainFunction::id_value);
  EXPECT_TRUE(function->bus_master());
  EXPECT_EQ(events, (std::vector{Event::low_power_entry, Event::low_power_exit}));
}

TEST_F(PumpedHandleTest, WhatIsRevokedReadsAsAllOnesAndSaysEnodev) {
  ASSERT_TRUE(handle->enable_bus_master());
  const auto window = bar().window(PlainFunction::area_at, 0x200);
  ASSERT_TRUE(window);
  window->write<std::uint32_t>(4, 0xABCD);
  auto buffer = handle->dma().allocate(4096);
  ASSERT_TRUE(buffer);
  auto set = handle->enable_interrupts(InterruptKind::msix, 1);
  const Bar old = bar();
  std::vector<std::string> told;
  handle->on_event([&](Event event) { told.emplace_back(event == Event::gone ? "gone" : "else"); });
  handle->on_gone([&] { told.emplace_back("driver"); });

  handle->revoke();
  handle->revoke();
  EXPECT_EQ(told, (std::vector<std::string>{"gone", "driver"})) << "once, the owner first";
  EXPECT_TRUE(handle->gone());
  EXPECT_EQ(window->read<std::uint32_t>(4), 0xFFFFFFFFu);
  window->write<std::uint32_t>(4, 1);
  EXPECT_EQ(old.read<std::uint32_t>(0).error().code(), ENODEV);
  EXPECT_EQ(handle->config().read<VendorId>().error().code(), ENODEV);
  EXPECT_EQ(handle->interrupts(InterruptKind::msix).error().code(), ENODEV);
  EXPECT_EQ(handle->reset().error().code(), ENODEV);
  buffer->bytes()[0] = std::byte{1};
}

// Events.

/// A function that tells of errors and unplug requests.
class TellingFunction final : public EmulatedFunction {
 public:
  explicit TellingFunction(Loop& loop) : EmulatedFunction(loop, Log(), {.vendor = 1, .device = 2}) {}
  void tell(InterruptKind kind) const { bound_.at(kind).signal(); }

  InterruptInfo interrupts(InterruptKind kind) const override {
    return is_notice(kind) ? InterruptInfo{.count = 1} : EmulatedFunction::interrupts(kind);
  }
  Status bind_interrupts(InterruptKind kind, std::uint32_t start, std::vector<EventFd> eventfds) override {
    if (!is_notice(kind)) return EmulatedFunction::bind_interrupts(kind, start, std::move(eventfds));
    bound_[kind] = std::move(eventfds.at(0));
    return {};
  }

 protected:
  void read_bar(unsigned, std::uint64_t, MutableBytes) override {}
  void write_bar(unsigned, std::uint64_t, Bytes) override {}
  void reset_device(Loop::Task done) override { done(); }

 private:
  static bool is_notice(InterruptKind kind) { return kind == InterruptKind::error || kind == InterruptKind::request; }
  std::map<InterruptKind, EventFd> bound_;
};

class TellingHandleTest : public ::testing::Test {
 protected:
  TellingHandleTest() {
    auto made = std::make_unique<TellingFunction>(loop);
    function = made.get();
    handle = LocalHandle::over(std::move(made), [this] { loop.run_until_idle(); }, "local:telling").value();
    EXPECT_TRUE(handle->process()) << "listens from here on";
  }
  /// An error and an unplug request, at once.
  void tell_of_both() {
    function->tell(InterruptKind::error);
    function->tell(InterruptKind::request);
  }

  testing::ManualLoop loop;
  TellingFunction* function = nullptr;
  std::unique_ptr<LocalHandle> handle;
  std::vector<Event> told;
};

TEST_F(TellingHandleTest, AHandlerIsToldOfEachEvent) {
  handle->on_event([this](Event event) { told.push_back(event); });
  tell_of_both();
  EXPECT_TRUE(handle->process());
  EXPECT_EQ(told, (std::vector{Event::error, Event::unplug_requested}));
}

TEST_F(TellingHandleTest, AHandlerMayDestroyTheHandle) {
  handle->on_event([this, captured = std::make_unique<int>(1)](Event event) {
    handle.reset();
    told.push_back(event);
    *captured = 2;
  });
  handle->on_gone([] { ADD_FAILURE() << "nobody may be told by a handle that is not there"; });
  tell_of_both();
  EXPECT_TRUE(handle->process());
  EXPECT_EQ(told, std::vector{Event::error}) << "and of nothing more";
}

TEST_F(TellingHandleTest, AHandlerMayDestroyTheHandleFromItsLoop) {
  testing::ManualLoop own;
  ASSERT_TRUE(handle->attach(own));
  handle->on_event([this](Event) { handle.reset(); });
  tell_of_both();
  own.run_until_idle();
  EXPECT_EQ(handle, nullptr);
}

TEST_F(TellingHandleTest, ARevokingHandlerMayDestroyTheHandleWhenItIsGone) {
  handle->on_event([this](Event event) {
    told.push_back(event);
    if (event == Event::error) handle->revoke();
    if (event == Event::gone) handle.reset();
  });
  tell_of_both();
  EXPECT_TRUE(handle->process());
  EXPECT_EQ(told, (std::vector{Event::error, Event::gone}));
  EXPECT_EQ(handle, nullptr);
}

TEST_F(TellingHandleTest, TheDriverOnTopMayDestroyAHandleThatNobodyListensTo) {
  handle->on_gone([this] { handle.reset(); });
  function->tell(InterruptKind::request);
  EXPECT_TRUE(handle->process());
  EXPECT_EQ(handle, nullptr);
}

TEST_F(TellingHandleTest, AHandlerMaySetAnother) {
  handle->on_event([this, captured = std::make_unique<int>(1)](Event) {
    handle->on_event([this](Event event) { told.push_back(event); });
    *captured = 2;
  });
  tell_of_both();
  EXPECT_TRUE(handle->process());
  EXPECT_EQ(told, std::vector{Event::unplug_requested});
}

TEST_F(PumpedHandleTest, MemoryIsMappedWhereItsOwnerSays) {
  ASSERT_TRUE(handle->enable_bus_master());
  alignas(4096) static std::array<std::byte, 4096> page{};
  page[5] = std::byte{0x42};
  const memory::IovaRange range{memory::Iova{0x10000}, page.size()};
  auto& mapper = handle->dma_mapper();
  ASSERT_TRUE(mapper.map(range, page, memory::Access::read, nullptr, 0));
  EXPECT_EQ(mapper.map(range, page, memory::Access::read, nullptr, 0).error().code(), EEXIST);
  ASSERT_TRUE(bar().write<std::uint64_t>(PlainFunction::dma_address_at, 0x10000));
  ASSERT_TRUE(bar().write<std::uint32_t>(PlainFunction::dma_length_at, 64));
  ASSERT_TRUE(bar().write<std::uint32_t>(PlainFunction::dma_command_at, PlainFunction::dma_from_memory));
  EXPECT_EQ(*bar().read<std::uint8_t>(PlainFunction::buffer_at + 5), 0x42);
  ASSERT_TRUE(bar().write<std::uint32_t>(PlainFunction::dma_command_at, PlainFunction::dma_to_memory));
  EXPECT_GE(*bar().read<std::uint32_t>(PlainFunction::dma_status_at), PlainFunction::dma_failed) << "not for writing";
  EXPECT_TRUE(mapper.unmap(range));
}

TEST_F(PumpedHandleTest, InterruptsOfAReexporterAreItsOwn) {
  ASSERT_TRUE(handle->enable_bus_master());
  std::vector<EventFd> eventfds(2);
  eventfds[1] = *EventFd::create();
  ASSERT_TRUE(handle->bind_interrupts(InterruptKind::msix, 0, eventfds));
  ASSERT_TRUE(handle->trigger_interrupts(InterruptKind::msix, 1, 1));
  EXPECT_EQ(eventfds[1].drain(), 1u);
  EXPECT_EQ(handle->mask_interrupts(InterruptKind::msix, 0, 1).error().code(), ENOTTY);
  ASSERT_TRUE(handle->disable_interrupts(InterruptKind::msix));
  ASSERT_TRUE(handle->bind_interrupts(InterruptKind::intx, 0, [] {
    std::vector<EventFd> one;
    one.push_back(*EventFd::create());
    return one;
  }()));
  EXPECT_TRUE(handle->mask_interrupts(InterruptKind::intx, 0, 1));
}

class SlowPumpedHandleTest : public PumpedHandleTest {
 protected:
  SlowPumpedHandleTest() : PumpedHandleTest({.slow_reset = true}) {}
  void pump() override {
    inner = handle->reset();
    function->finish_reset();
  }
  Status inner;
};

TEST_F(SlowPumpedHandleTest, ACallFromInsideThePumpThatWouldWaitForItselfIsRefused) {
  EXPECT_TRUE(handle->reset());
  ASSERT_FALSE(inner);
  EXPECT_EQ(inner.error().code(), EDEADLK);
}

}  // namespace
}  // namespace outboard::pci
