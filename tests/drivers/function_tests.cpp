// What every PCI function does on every back end: the contract of pci::Handle.

#include <sys/mman.h>

#include <array>
#include <bit>
#include <numeric>
#include <set>
#include <vector>

#include <outboard/pci/registers.hpp>
#include <tests/drivers/back_end.hpp>

namespace outboard::drivers {
namespace {

using pci::Command;
using pci::InterruptKind;

constexpr std::array interrupt_kinds{InterruptKind::intx, InterruptKind::msi, InterruptKind::msix};

class Function : public DriverTest {
 protected:
  template <typename R>
  R config() {
    auto value = handle().config().read<R>();
    EXPECT_TRUE(value) << why(value);
    return value ? *value : R();
  }
  std::uint32_t vectors(InterruptKind kind) {
    const auto info = handle().interrupts(kind);
    EXPECT_TRUE(info) << why(info);
    return info ? info->count : 0;
  }
};
INSTANTIATE_TEST_SUITE_P(, Function, ::testing::ValuesIn(kinds()), test_name);

// Configuration space.

TEST_P(Function, SaysWhatItIs) {
  const auto identity = handle().identity();
  ASSERT_TRUE(identity) << why(identity);
  EXPECT_NE(identity->vendor, 0xFFFF);
  EXPECT_EQ(identity->vendor, config<pci::VendorId>().value());
  EXPECT_EQ(identity->device, config<pci::DeviceId>().value());
  EXPECT_EQ(identity->class_code, config<pci::ClassAndRevision>().get(pci::ClassAndRevision::class_code));
  EXPECT_FALSE(handle().name().empty());
  EXPECT_FALSE(handle().gone());
}

TEST_P(Function, ConfigurationIsTheSameInEveryWidth) {
  for (std::uint64_t offset = 0; offset < 4; offset += 4) {
    std::array<std::byte, 4> whole{}, halves{}, bytes{};
    ASSERT_TRUE(handle().read_region(pci::region::config, offset, whole));
    for (std::size_t i = 0; i < 4; i += 2)
      ASSERT_TRUE(handle().read_region(pci::region::config, offset + i, MutableBytes(halves).subspan(i, 2)));
    for (std::size_t i = 0; i < 4; ++i)
      ASSERT_TRUE(handle().read_region(pci::region::config, offset + i, MutableBytes(bytes).subspan(i, 1)));
    EXPECT_EQ(whole, halves);
    EXPECT_EQ(whole, bytes);
  }
}

TEST_P(Function, WhatIsReadOnlyInConfigurationStaysAsItIs) {
  const auto before = config<pci::VendorId>();
  [[maybe_unused]] const Status taken = handle().config().write(pci::VendorId(0));  // a back end may refuse it
  EXPECT_EQ(config<pci::VendorId>().value(), before.value());
}

TEST_P(Function, ConfigurationEndsWhereItSays) {
  const auto info = handle().region(pci::region::config);
  ASSERT_TRUE(info) << why(info);
  EXPECT_TRUE(info->size == 256 || info->size == 4096) << info->size;
  std::array<std::byte, 4> bytes{};
  EXPECT_TRUE(handle().read_region(pci::region::config, info->size - 4, bytes));
  for (const std::uint64_t offset : {info->size, info->size - 2, ~UINT64_C(0), ~UINT64_C(0) - 1})
    EXPECT_EQ(code_of(handle().read_region(pci::region::config, offset, bytes)), EINVAL) << offset;
  EXPECT_EQ(code_of(handle().write_region(pci::region::config, info->size, bytes)), EINVAL);
}

TEST_P(Function, CapabilitiesAreWalkedAndFound) {
  const auto list = handle().capabilities();
  ASSERT_TRUE(list) << why(list);
  std::set<std::pair<bool, unsigned>> places;
  for (const auto& each : *list) {
    EXPECT_TRUE(places.emplace(each.extended, pci::raw(each.offset)).second) << "twice";
    const auto header = handle().config().read_at<pci::CapabilityHeader>(each.offset);
    ASSERT_TRUE(header) << why(header);
    if (!each.extended) {
      EXPECT_EQ(header->get(pci::CapabilityHeader::id), each.id);
    }
    const auto found = handle().find_capability(each.id, each.extended);
    ASSERT_TRUE(found && *found);
    EXPECT_EQ((*found)->id, each.id);
  }
  const auto none = handle().find_capability(0xFE);
  ASSERT_TRUE(none) << why(none);
  EXPECT_FALSE(*none);
}

// BARs.

TEST_P(Function, BarsHaveASizeAndBounds) {
  ASSERT_TRUE(handle().enable_memory());
  unsigned found = 0;
  for (unsigned index = 0; index < 6; ++index) {
    const auto info = handle().region(index);
    ASSERT_TRUE(info) << why(info);
    const auto bar = handle().bar(index);
    if (info->size == 0) {
      EXPECT_EQ(code_of(bar), ENODEV) << index;
      continue;
    }
    ++found;
    ASSERT_TRUE(bar) << why(bar);
    EXPECT_EQ(bar->size(), info->size);
    EXPECT_TRUE(std::has_single_bit(bar->size())) << bar->size();
    EXPECT_EQ(code_of(bar->read<std::uint32_t>(bar->size())), EINVAL);
    EXPECT_EQ(code_of(bar->read<std::uint32_t>(bar->size() - 2)), EINVAL) << "half of it lies outside";
    EXPECT_EQ(code_of(bar->write<std::uint32_t>(bar->size(), 0)), EINVAL);
    EXPECT_EQ(code_of(bar->read<std::uint32_t>(~UINT64_C(0) - 3)), EINVAL);
  }
  EXPECT_GT(found, 0u);
  EXPECT_NE(code_of(handle().bar(6)), 0);
}

TEST_P(Function, WindowsAreCheckedWhenTheyAreMade) {
  for (unsigned index = 0; index < 6; ++index) {
    const auto bar = handle().bar(index);
    if (!bar) continue;
    for (const auto& [offset, length] : {std::pair(bar->size(), UINT64_C(4)),
                                         {UINT64_C(0), bar->size() + 1},
                                         {bar->size() - 2, UINT64_C(4)},
                                         {~UINT64_C(0), UINT64_C(4)},
                                         {UINT64_C(4), ~UINT64_C(0)}}) {
      const int code = code_of(bar->window(offset, length));
      EXPECT_TRUE(code == EINVAL || code == ENOTSUP) << offset << " " << length << ": " << code;
    }
    const auto window = bar->window(0, bar->size());
    EXPECT_TRUE(window ? window->size() == bar->size() : window.error().code() == ENOTSUP) << why(window);
  }
}

// Interrupts.

TEST_P(Function, VectorsAreCountedAndMoreThanThereAreIsAValue) {
  for (const auto kind : interrupt_kinds) {
    const std::uint32_t count = vectors(kind);
    EXPECT_EQ(code_of(handle().enable_interrupts(kind, count + 1)), ENOSPC);
    const auto most = handle().enable_interrupts_up_to(kind, count + 1);
    ASSERT_TRUE(most) << why(most);
    EXPECT_EQ(most->count(), count);
  }
  EXPECT_EQ(handle().msi_vector_count().value(), vectors(InterruptKind::msi));
  EXPECT_EQ(handle().msix_vector_count().value(), vectors(InterruptKind::msix));
}

TEST_P(Function, OneKindOfInterruptIsEnabledAtATime) {
  for (int round = 0; round < 2; ++round) {
    for (const auto kind : interrupt_kinds) {
      const std::uint32_t count = vectors(kind);
      if (count == 0) continue;
      auto set = handle().enable_interrupts(kind, count);
      ASSERT_TRUE(set) << why(set);
      EXPECT_EQ(set->kind(), kind);
      EXPECT_EQ(set->count(), count);
      for (unsigned vector = 0; vector < count; ++vector) EXPECT_TRUE(set->vector(vector).valid());
      for (const auto other : interrupt_kinds) EXPECT_NE(code_of(handle().enable_interrupts(other, 1)), 0);
      EXPECT_EQ(code_of(handle().enable_interrupts(kind, 1)), EBUSY);
    }
  }
}

TEST_P(Function, WhatIsTriggeredIsSignalled) {
  for (const auto kind : interrupt_kinds) {
    if (vectors(kind) == 0) continue;
    auto set = handle().enable_interrupts(kind, vectors(kind));
    ASSERT_TRUE(set) << why(set);
    const auto triggered = handle().trigger_interrupts(kind, 0, 1);
    if (code_of(triggered) == ENOTSUP) continue;
    ASSERT_TRUE(triggered) << why(triggered);
    EXPECT_EQ(set->vector(0).drain(), 1u);
    for (unsigned other = 1; other < set->count(); ++other) EXPECT_EQ(set->vector(other).drain(), 0u);
    EXPECT_TRUE(set->unmask());
  }
}

// Command.

TEST_P(Function, BusMasteringIsSwitchedOnAndOff) {
  const auto is_on = [&] { return config<Command>().get(Command::bus_master) != 0; };
  for (int round = 0; round < 2; ++round) {
    ASSERT_TRUE(handle().enable_bus_master());
    EXPECT_TRUE(is_on());
    EXPECT_NE(config<Command>().get(Command::memory_space), 0) << "whoever does DMA has registers";
    ASSERT_TRUE(handle().disable_bus_master());
    EXPECT_FALSE(is_on());
    EXPECT_NE(config<Command>().get(Command::memory_space), 0);
  }
}

// DMA memory.

TEST_P(Function, DmaBuffersAreZeroedAlignedAndInReach) {
  const auto limits = handle().dma().limits();
  constexpr std::uint64_t highest = (UINT64_C(1) << 32) - 1;
  for (const std::uint64_t alignment : {64, 4096, 65536}) {
    for (const std::uint64_t size : {1, 100, 4096, 100000}) {
      auto buffer = handle().dma().allocate(size, {.alignment = alignment, .highest = memory::Iova{highest}});
      ASSERT_TRUE(buffer) << why(buffer);
      EXPECT_GE(buffer->size(), size);
      EXPECT_EQ(memory::raw(buffer->iova()) % alignment, 0u);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->data()) % alignment, 0u);
      EXPECT_LE(memory::raw(buffer->range().last()), highest);
      EXPECT_NE(memory::raw(buffer->iova()), 0u) << "what a driver forgets to set is 0";
      EXPECT_TRUE(std::ranges::all_of(buffer->bytes(), [](std::byte each) { return each == std::byte{0}; }));
      EXPECT_TRUE(limits.valid.empty() || std::ranges::any_of(limits.valid, [&](const memory::IovaRange& range) {
                    return range.contains(buffer->range());
                  }));
      std::ranges::fill(buffer->bytes(), std::byte{0xFF});  // for who gets it next
    }
  }
}

TEST_P(Function, DmaBuffersDoNotOverlap) {
  std::vector<memory::DmaBuffer> buffers;
  for (std::size_t i = 0; i < 200; ++i) {
    auto buffer = handle().dma().allocate(1 + i * 37);
    ASSERT_TRUE(buffer) << why(buffer);
    buffers.push_back(std::move(*buffer));
  }
  std::ranges::sort(buffers, {}, [](const auto& each) { return memory::raw(each.iova()); });
  for (std::size_t i = 1; i < buffers.size(); ++i)
    EXPECT_FALSE(buffers[i - 1].range().overlaps(buffers[i].range())) << i;
}

TEST_P(Function, ThePoolGivesMemoryAgainAndMapsNothingAnew) {
  std::set<std::uint64_t> addresses;
  for (int i = 0; i < 5000; ++i) {
    const auto buffer = handle().dma().allocate(4096);
    ASSERT_TRUE(buffer) << why(buffer);
    addresses.insert(memory::raw(buffer->iova()));
  }
  EXPECT_LT(addresses.size(), 16u);
}

TEST_P(Function, WhatCannotBeReachedIsNotAllocated) {
  const auto out_of_reach = handle().dma().allocate(4096, {.highest = memory::Iova{0xFFF}});
  EXPECT_NE(code_of(out_of_reach), 0) << "only IOVA 0 would do";
  EXPECT_NE(code_of(handle().dma().allocate(UINT64_C(1) << 62)), 0);
  EXPECT_TRUE(handle().dma().allocate(4096)) << "the next one is well";
}

TEST_P(Function, MemoryOfTheCallersIsMappedByWholePages) {
  constexpr std::size_t size = 2 << 20;
  const UniqueFd fd(::memfd_create("driver-test", MFD_CLOEXEC));
  ASSERT_TRUE(fd && ::ftruncate(fd.get(), size) == 0);
  void* const at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  ASSERT_NE(at, MAP_FAILED);
  const MutableBytes memory(static_cast<std::byte*>(at), size);
  for (int round = 0; round < 3; ++round) {
    const auto mapped = handle().dma().map(memory, &fd, 0);
    ASSERT_TRUE(mapped) << why(mapped);
    EXPECT_EQ(mapped->data(), memory.data());
    EXPECT_EQ(mapped->size(), size);
    EXPECT_EQ(memory::raw(mapped->iova()) % 4096, 0u);
  }
  EXPECT_EQ(code_of(handle().dma().map(memory.subspan(1, 4096), &fd, 1)), EINVAL);
  EXPECT_EQ(code_of(handle().dma().map(memory.first(100), &fd, 0)), EINVAL);
  ::munmap(at, size);
}

// Reset, sleep, and the end.

TEST_P(Function, AResetRestoresWhatIsTheLibrarys) {
  ASSERT_TRUE(handle().enable_bus_master());
  auto buffer = handle().dma().allocate(4096);
  ASSERT_TRUE(buffer) << why(buffer);
  const auto identity = handle().identity();
  const auto before = config<Command>();
  if (!handle().resettable()) {
    EXPECT_EQ(code_of(handle().reset()), ENOTSUP);
    return;
  }
  const auto reset = handle().reset();
  ASSERT_TRUE(reset) << why(reset);
  EXPECT_EQ(config<Command>().value(), before.value());
  EXPECT_EQ(handle().identity()->device, identity->device);
  EXPECT_TRUE(handle().dma().allocate(4096));
  EXPECT_FALSE(handle().gone());
}

TEST_P(Function, AResetKeepsInterruptsEnabled) {
  if (!handle().resettable()) {
    EXPECT_EQ(code_of(handle().reset()), ENOTSUP);
    return;
  }
  for (const auto kind : interrupt_kinds) {
    if (vectors(kind) == 0) continue;
    auto set = handle().enable_interrupts(kind, 1);
    ASSERT_TRUE(set) << why(set);
    ASSERT_TRUE(handle().reset());
    EXPECT_EQ(code_of(handle().enable_interrupts(kind, 1)), EBUSY);
    const auto triggered = handle().trigger_interrupts(kind, 0, 1);
    if (triggered) {
      EXPECT_EQ(set->vector(0).drain(), 1u) << "the eventfd is bound still";
    }
  }
}

TEST_P(Function, SleepsAndWakesOrSaysThatItCannot) {
  ASSERT_TRUE(handle().enable_memory());
  const auto asleep = handle().enter_low_power();
  if (!asleep) {
    EXPECT_EQ(asleep.error().code(), ENOTSUP) << why(asleep);
    return;
  }
  EXPECT_EQ(code_of(handle().enter_low_power()), EALREADY);
  const auto awake = handle().exit_low_power();
  ASSERT_TRUE(awake) << why(awake);
  EXPECT_TRUE(handle().exit_low_power()) << "it is awake";
  EXPECT_NE(config<Command>().get(Command::memory_space), 0);
  EXPECT_TRUE(handle().identity());
}

TEST_P(Function, ARevokedFunctionAnswersNothingAndSaysSoOnce) {
  ASSERT_TRUE(handle().enable_bus_master());
  std::vector<pci::Event> events;
  handle().on_event([&](pci::Event event) { events.push_back(event); });
  std::vector<pci::Window> windows;
  for (unsigned index = 0; index < 6; ++index) {
    const auto bar = handle().bar(index);
    if (!bar) continue;
    if (const auto window = bar->window(0, 4)) windows.push_back(*window);
  }
  handle().revoke();
  handle().revoke();
  EXPECT_EQ(events, std::vector{pci::Event::gone});
  EXPECT_TRUE(handle().gone());
  for (const auto& window : windows) EXPECT_EQ(window.read<std::uint32_t>(0), 0xFFFFFFFF);
  le32 word;
  EXPECT_EQ(code_of(handle().read_region(pci::region::config, 0, as_writable_bytes_of(word))), ENODEV);
  EXPECT_NE(code_of(handle().enable_bus_master()), 0);
  EXPECT_NE(code_of(handle().reset()), 0);
  opened().reopen();
  ASSERT_TRUE(opened().open());
  EXPECT_TRUE(handle().identity()) << "the next driver has it";
}

TEST_P(Function, ASecondDriverIsRefused) {
  if (opened().is_local()) return;  // a device in this process is made by opening it: there is no second one of it
  const auto second = opened().open_again();
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), EBUSY) << why(second);
  EXPECT_TRUE(handle().identity()) << "the first is not disturbed";
}

TEST_P(Function, IsOpenedAgainAndAgain) {
  for (int i = 0; i < 5; ++i) {
    opened().reopen();
    ASSERT_TRUE(opened().open());
    ASSERT_TRUE(handle().enable_bus_master());
    ASSERT_TRUE(handle().dma().allocate(4096));
  }
}

}  // namespace
}  // namespace outboard::drivers
