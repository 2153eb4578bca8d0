#include <outboard/pci/passthrough.hpp>

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include <outboard/base/endian.hpp>
#include <outboard/memory/fault_guard.hpp>
#include <outboard/memory/internal/memory_port.hpp>
#include <outboard/pci/capability_ids.hpp>
#include <outboard/testing/fake_handle.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::pci {
namespace {

using testing::FakeHandle;
using D = testing::ConfigDevice;
using enum InterruptKind;
using memory::Iova;
using Calls = std::vector<std::string>;

constexpr std::uint16_t memory_on = 2, bus_master_on = 4;

class PassthroughTest : public ::testing::Test {
 protected:
  PassthroughTest() : handle(owned_.get()) {
    // Vectors that cannot be masked, as edu's.
    handle->config_space.put(D::msi + 2, 2, 0x0086);
  }

  void make(Passthrough::Options options = {}) {
    if (!options.run_blocking) {
      options.run_blocking = [this](Loop::Task task) {
        if (hold_reset) {
          held_reset = std::move(task);
        } else {
          task();
        }
      };
    }
    options.ended = [this](const std::string& why) { ended.push_back(why); };
    auto made = Passthrough::create(std::move(owned_), loop, Log(), std::move(options));
    ASSERT_TRUE(made) << made.error().message();
    function = std::move(*made);
    handle->calls.clear();
  }

  template <typename T>
  T read(unsigned region, std::uint64_t offset) {
    EndianInteger<T, std::endian::little> value;
    EXPECT_TRUE(function->read_region(region, offset, as_writable_bytes_of(value)));
    return value;
  }
  template <typename T>
  void write(unsigned region, std::uint64_t offset, T value) {
    EXPECT_TRUE(function->write_region(region, offset, as_bytes_of(EndianInteger<T, std::endian::little>(value))));
  }
  void command(std::uint16_t value) { write<std::uint16_t>(region::config, 4, value); }

  memory::Mapping mapping(std::uint64_t start, std::uint64_t size, memory::Access access = memory::Access::read_write) {
    return {.range = {Iova{start}, size},
            .access = access,
            .memory = memory::HostMemory::borrowed(MutableBytes(backing).first(size)),
            .port = nullptr};
  }
  Status map(std::uint64_t start, std::uint64_t size) { return function->map(mapping(start, size)); }
  int error_of_unmap(std::uint64_t start, std::uint64_t size) {
    std::optional<Status> result;
    function->unmap({Iova{start}, size}, [&](Status status) { result = std::move(status); });
    EXPECT_TRUE(result);
    return *result ? 0 : result->error().code();
  }
  std::optional<Status> start(void (Passthrough::*what)(Function::Completion)) {
    auto result = std::make_shared<std::optional<Status>>();
    ((*function).*what)([result](Status status) { *result = std::move(status); });
    loop.run_until_idle();
    return *result;
  }

  static EventFd same(const EventFd& eventfd) { return eventfd.duplicate().value(); }
  Status bind(InterruptKind kind, std::uint32_t start, std::vector<const EventFd*> lines) {
    std::vector<EventFd> list;
    for (const EventFd* line : lines) list.push_back(line != nullptr ? same(*line) : EventFd());
    return function->bind_interrupts(kind, start, std::move(list));
  }
  bool leads_to(unsigned vector, const EventFd& line) {
    line.drain();
    handle->bound.at(vector).signal();
    return line.drain() == 1;
  }
  static std::size_t place(const Calls& calls, const std::string& what) {
    return static_cast<std::size_t>(std::ranges::find(calls, what) - calls.begin());
  }

  testing::ManualLoop loop;
  std::unique_ptr<FakeHandle> owned_ = std::make_unique<FakeHandle>();
  FakeHandle* handle;
  std::unique_ptr<Passthrough> function;
  std::vector<std::byte> backing = std::vector<std::byte>(0x40000);
  EventFd one = std::move(*EventFd::create()), two = std::move(*EventFd::create());
  std::vector<std::string> ended;
  bool hold_reset = false;
  Loop::Task held_reset;
};

// Regions

TEST_F(PassthroughTest, RegionsAreTheDevicesAndNothingIsMapped) {
  UniqueFd file(::memfd_create("device", MFD_CLOEXEC));
  handle->regions[0].areas = {{.offset = 0, .size = 0x100000}};
  handle->regions[0].fd = &file;
  make();
  EXPECT_EQ(function->region(0).size, 0x100000u);
  EXPECT_TRUE(function->region(0).areas.empty()) << "the descriptor is the whole device";
  EXPECT_EQ(function->region(0).fd, nullptr);
  EXPECT_EQ(function->region(region::rom).size, 0x10000u);
  EXPECT_FALSE(function->region(region::rom).writable);
  EXPECT_EQ(function->region(region::config).size, 4096u);
  EXPECT_EQ(function->region(region::vga).size, 0u);
  EXPECT_TRUE(function->io_eventfds(0).empty());
}

TEST_F(PassthroughTest, ATrustedClientMapsAllButTheMsixTable) {
  UniqueFd file(::memfd_create("device", MFD_CLOEXEC));
  handle->regions[0].areas = {{.offset = 0, .size = 0x100000}};
  handle->regions[0].fd = &file;
  handle->regions[0].fd_offset = UINT64_C(3) << 40;
  make({.trust_client = true});
  const RegionInfo region = function->region(0);
  EXPECT_EQ(region.fd, &file);
  EXPECT_EQ(region.fd_offset, UINT64_C(3) << 40);
  ASSERT_EQ(region.areas.size(), 2u) << "the table lies at 0x2000";
  EXPECT_EQ(region.areas[0].offset, 0u);
  EXPECT_EQ(region.areas[0].size, 0x2000u);
  EXPECT_EQ(region.areas[1].offset, 0x3000u);
  EXPECT_EQ(region.areas[1].size, 0xFD000u);
  EXPECT_EQ(function->io_eventfds(0).size(), 1u);
}

TEST_F(PassthroughTest, RegistersAreReachedWhileTheClientHasDecodingOn) {
  make();
  EXPECT_EQ(read<std::uint32_t>(0, 0x10), UINT32_MAX);
  write<std::uint32_t>(0, 0x10, 7);
  EXPECT_EQ(handle->memory[0][0x10], std::byte{0});
  command(memory_on);
  write<std::uint32_t>(0, 0x10, 7);
  EXPECT_EQ(handle->memory[0][0x10], std::byte{7});
  EXPECT_EQ(read<std::uint32_t>(0, 0x10), 7u);
}

TEST_F(PassthroughTest, ABarOfPortsFollowsItsOwnBit) {
  make();
  command(memory_on);
  EXPECT_EQ(read<std::uint8_t>(5, 0), 0xFF);
  command(1);
  EXPECT_EQ(read<std::uint8_t>(5, 0), 0x00);
}

TEST_F(PassthroughTest, AccessesOutsideTheRegionsAreRefused) {
  make();
  std::byte bytes[8];
  EXPECT_EQ(function->read_region(0, 0xFFFFC, bytes).error().code(), EINVAL);
  EXPECT_EQ(function->write_region(1, 0, bytes).error().code(), EINVAL);
  EXPECT_EQ(function->read_region(99, 0, bytes).error().code(), EINVAL);
  EXPECT_EQ(function->write_region(region::rom, 0, bytes).error().code(), EACCES);
}

TEST_F(PassthroughTest, TheMsixTableIsTheClientsAndNeverTheDevices) {
  make();
  command(memory_on);
  EXPECT_EQ(read<std::uint32_t>(0, 0x200C), 1u) << "every vector is masked at first";
  write<std::uint64_t>(0, 0x1FFC, UINT64_MAX);
  EXPECT_EQ(read<std::uint32_t>(0, 0x2000), 0xFFFFFFFCu);
  EXPECT_EQ(handle->memory[0][0x1FFF], std::byte{0xFF}) << "what lies in front of it is the device's";
  EXPECT_EQ(handle->memory[0][0x2000], std::byte{0});
  write<std::uint32_t>(0, 0x2080, 9);
  EXPECT_EQ(handle->memory[0][0x2080], std::byte{9}) << "8 vectors end there";
  handle->memory[0][0x3000] = std::byte{0x04};
  EXPECT_EQ(read<std::uint8_t>(0, 0x3000), 0x04) << "pending bits are the device's";
}

TEST_F(PassthroughTest, AnMsixTableOutsideTheBarsIsRefused) {
  handle->config_space.put(D::msix + 4, 4, 0x000FFFF8);
  const auto made = Passthrough::create(std::move(owned_), loop, Log(), {});
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), EPROTO);
}

// Memory: docs/spec-map.md, EXP-6 and VFIO-41

TEST_F(PassthroughTest, ClientMemoryIsMappedAtItsOwnAddresses) {
  make();
  ASSERT_TRUE(map(0x100000, 0x2000));
  EXPECT_EQ(handle->calls, (Calls{"map 0x100000 0x2000 rw"}));
  EXPECT_EQ(handle->mapped.at(0x100000).second.data(), backing.data());
  ASSERT_TRUE(function->map(mapping(0x200000, 0x1000, memory::Access::read)));
  EXPECT_EQ(handle->calls.back(), "map 0x200000 0x1000 r");
  EXPECT_EQ(error_of_unmap(0x100000, 0x2000), 0);
  EXPECT_EQ(handle->calls.back(), "unmap 0x100000 0x2000");
}

TEST_F(PassthroughTest, TheFileGoesOnWithItsMemoryForAHandleThatPassesItOn) {
  make();
  auto file = std::make_shared<const UniqueFd>(testing::make_memfd(0x3000));
  auto with_file = mapping(0, 0x2000, memory::Access::read_write);
  with_file.file = file;
  with_file.file_offset = 0x1000;
  ASSERT_TRUE(function->map(with_file));
  EXPECT_EQ(handle->calls, (Calls{"map 0x1000 0x1000 rw file 0x2000"})) << "without the first page";
  with_file.file.reset();
  EXPECT_EQ(file.use_count(), 1) << "it is not kept open";
}

TEST_F(PassthroughTest, VFIO41_MemoryWithoutAFileIsRefused) {
  make();
  const auto mapped =
      function->map({.range = {Iova{0x100000}, 0x1000}, .memory = nullptr, .offset = 0, .port = nullptr});
  ASSERT_FALSE(mapped);
  EXPECT_EQ(mapped.error().code(), EINVAL);
  EXPECT_TRUE(handle->calls.empty());
}

TEST_F(PassthroughTest, VFIO41_AFileThatIsNotSharedMemoryIsRefused) {
  make();
  auto with_file = mapping(0x100000, 0x1000);
  with_file.file = std::make_shared<const UniqueFd>(::open("/proc/self/status", O_RDONLY | O_CLOEXEC));
  ASSERT_TRUE(with_file.file->valid());
  const auto refused = function->map(with_file);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), EINVAL);
  EXPECT_NE(refused.error().message().find("is not shared memory"), std::string::npos);
  EXPECT_TRUE(handle->calls.empty());
  with_file.file = std::make_shared<const UniqueFd>(testing::make_memfd(0x1000));
  EXPECT_TRUE(function->map(with_file));
}

TEST_F(PassthroughTest, VFIO41_MemoryThatCannotBeMappedIsRefusedAndNothingChanges) {
  make();
  ASSERT_TRUE(map(0x100000, 0x2000));
  EXPECT_EQ(map(0x100000, 0x2000).error().code(), EEXIST);
  EXPECT_EQ(map(0x101000, 0x2000).error().code(), EEXIST);
  EXPECT_EQ(map(0x200800, 0x1000).error().code(), EINVAL);
  EXPECT_EQ(map(0x200000, 0x0800).error().code(), EINVAL);
  EXPECT_EQ(map(0xFEDFF000, 0x2000).error().code(), EINVAL) << "across the window of interrupts";
  EXPECT_EQ(map(0xFEE00000, 0x1000).error().code(), EINVAL);
  EXPECT_EQ(map(UINT64_C(1) << 60, 0x1000).error().code(), EINVAL);
  EXPECT_EQ(map(UINT64_MAX - 0xFFF, 0x2000).error().code(), EINVAL);
  auto larger = mapping(0x300000, 0x2000);
  larger.range.size = 0x4000;
  EXPECT_EQ(function->map(larger).error().code(), EINVAL);
  EXPECT_EQ(handle->calls, (Calls{"map 0x100000 0x2000 rw"})) << "the device's IOMMU has not even been asked";
  EXPECT_EQ(handle->mapped.size(), 1u);
}

TEST_F(PassthroughTest, VFIO41_AnAddressOutsideTheRangesIsSaidWithTheRanges) {
  make();
  EXPECT_NE(map(0xFEE00000, 0x1000).error().message().find("0xfedfffff"), std::string::npos);
}

TEST_F(PassthroughTest, VFIO41_MoreThanTheLimitIsRefused) {
  make();
  for (unsigned i = 0; i < 8; ++i) ASSERT_TRUE(map(0x100000 + i * 0x1000, 0x1000));
  EXPECT_EQ(map(0x200000, 0x1000).error().code(), ENOSPC);
}

TEST_F(PassthroughTest, TheFirstPageIsNeverMapped) {
  make();
  ASSERT_TRUE(map(0, 0x3000));
  EXPECT_EQ(handle->calls, (Calls{"map 0x1000 0x2000 rw"}));
  EXPECT_EQ(handle->mapped.at(0x1000).second.data(), backing.data() + 0x1000);
  EXPECT_EQ(error_of_unmap(0, 0x3000), 0) << "as the client named it";
  EXPECT_EQ(handle->calls.back(), "unmap 0x1000 0x2000");
  ASSERT_TRUE(map(0, 0x1000)) << "alone it is no more than remembered";
  EXPECT_TRUE(handle->mapped.empty());
  EXPECT_EQ(error_of_unmap(0, 0x1000), 0);
}

TEST_F(PassthroughTest, UnmapTakesWholeMappingsOnly) {
  make();
  ASSERT_TRUE(map(0x100000, 0x2000));
  ASSERT_TRUE(map(0x102000, 0x1000));
  handle->calls.clear();
  EXPECT_EQ(error_of_unmap(0x100000, 0x1000), EINVAL);
  EXPECT_EQ(error_of_unmap(0x101000, 0x2000), EINVAL);
  EXPECT_EQ(error_of_unmap(0x200000, 0x1000), ENOENT);
  EXPECT_TRUE(handle->calls.empty());
  EXPECT_EQ(error_of_unmap(0x000000, 0x1000000), 0);
  EXPECT_EQ(handle->calls, (Calls{"unmap 0x100000 0x2000", "unmap 0x102000 0x1000"}));
}

TEST_F(PassthroughTest, VFIO30_WhenMemoryCannotBeTakenBackTheDeviceIsStopped) {
  make();
  ASSERT_TRUE(map(0x100000, 0x1000));
  ASSERT_TRUE(map(0x200000, 0x1000));
  ASSERT_TRUE(bind(error, 0, {&one}));
  command(memory_on | bus_master_on);
  handle->calls.clear();
  handle->unmap_error = EIO;
  EXPECT_EQ(error_of_unmap(0x100000, 0x1000), EIO);
  EXPECT_LT(place(handle->calls, "command 0x0002"), place(handle->calls, "unmap 0x200000 0x1000"))
      << "bus mastering off, then the rest";
  EXPECT_EQ(one.drain(), 1u);
  EXPECT_EQ(read<std::uint32_t>(0, 0), UINT32_MAX);
  EXPECT_EQ(map(0x300000, 0x1000).error().code(), EIO);
  EXPECT_EQ(bind(msix, 0, {&one}).error().code(), EIO);
}

TEST_F(PassthroughTest, VFIO30_AfterThatTheNextClientHasItWhenTheMemoryCameBack) {
  make();
  ASSERT_TRUE(map(0x100000, 0x1000));
  handle->unmap_error = EIO;
  EXPECT_EQ(error_of_unmap(0x100000, 0x1000), EIO);
  handle->unmap_error = 0;
  EXPECT_TRUE(start(&Passthrough::release_client));
  EXPECT_TRUE(handle->mapped.empty());
  EXPECT_TRUE(ended.empty());
  EXPECT_TRUE(map(0x100000, 0x1000));
}

TEST_F(PassthroughTest, VFIO30_AndNobodyHasItWhenItDidNot) {
  make();
  ASSERT_TRUE(map(0x100000, 0x1000));
  handle->unmap_error = EIO;
  EXPECT_EQ(error_of_unmap(0x100000, 0x1000), EIO);
  EXPECT_TRUE(start(&Passthrough::release_client));
  EXPECT_TRUE(handle->gone());
  EXPECT_EQ(ended.size(), 1u);
}

TEST_F(PassthroughTest, VFIO43_AClientThatTruncatesItsMemoryHarmsNobody) {
  ASSERT_TRUE(memory::install_fault_guard());
  make();
  UniqueFd file(::memfd_create("client", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), 0x2000), 0);
  auto shared = memory::HostMemory::map_file(file, 0, 0x2000, memory::Access::read_write);
  ASSERT_TRUE(shared) << shared.error().message();
  ASSERT_TRUE(function->map({.range = {Iova{0x100000}, 0x2000}, .memory = *shared, .port = nullptr}));
  ASSERT_EQ(::ftruncate(file.get(), 0), 0);
  command(memory_on | bus_master_on);
  EXPECT_EQ(read<std::uint32_t>(0, 0), 0u) << "nobody here touches it; the device has the pages it was given";
  EXPECT_EQ(error_of_unmap(0x100000, 0x2000), 0);
}

TEST_F(PassthroughTest, VFIO30_MemoryThatNeverCameBackStaysUntilTheHandleHasEnded) {
  make();
  auto shared = memory::HostMemory::borrowed(MutableBytes(backing).first(0x1000));
  const std::weak_ptr<memory::HostMemory> watched = shared;
  ASSERT_TRUE(
      function->map({.range = {Iova{0x100000}, 0x1000}, .memory = std::exchange(shared, nullptr), .port = nullptr}));
  handle->unmap_error = EIO;
  EXPECT_EQ(error_of_unmap(0x100000, 0x1000), EIO);
  EXPECT_FALSE(watched.expired());
  bool there = false;
  handle->at_end = [&] { there = !watched.expired(); };
  function.reset();
  EXPECT_TRUE(there);
  EXPECT_TRUE(watched.expired());
}

// Bus mastering

TEST_F(PassthroughTest, BusMasteringWaitsForMemory) {
  make();
  command(memory_on | bus_master_on);
  EXPECT_EQ(handle->calls, (Calls{"command 0x0002"}));
  EXPECT_EQ(read<std::uint16_t>(region::config, 4), memory_on | bus_master_on);
  ASSERT_TRUE(map(0x100000, 0x1000));
  EXPECT_EQ(handle->calls.back(), "command 0x0006");
}

TEST_F(PassthroughTest, BusMasteringWaitsForMemoryThatTheDeviceReaches) {
  make();
  command(memory_on | bus_master_on);
  ASSERT_TRUE(map(0, 0x1000));
  EXPECT_EQ(handle->calls, (Calls{"command 0x0002"})) << "the first page alone is never mapped: no IOMMU has taken it";
  ASSERT_TRUE(map(0x100000, 0x1000));
  EXPECT_EQ(handle->calls.back(), "command 0x0006");
}

TEST_F(PassthroughTest, BusMasteringStaysOffWhereNothingCanBeMapped) {
  handle->limits.valid.clear();
  make();
  command(memory_on | bus_master_on);
  ASSERT_TRUE(map(0, 0x1000));
  EXPECT_FALSE(map(0x100000, 0x1000));
  EXPECT_EQ(handle->calls, (Calls{"command 0x0002"}));
}

// Interrupts

TEST_F(PassthroughTest, TheClientsEventfdsAreGivenToTheDevice) {
  make();
  ASSERT_TRUE(bind(msix, 2, {&one, &two}));
  EXPECT_EQ(handle->calls, (Calls{"bind msix 2 2"}));
  EXPECT_TRUE(leads_to(2, one));
  EXPECT_TRUE(leads_to(3, two));
  ASSERT_TRUE(bind(msix, 2, {nullptr}));
  EXPECT_FALSE(handle->bound[2].valid());
}

TEST_F(PassthroughTest, MsixCanBeEnabledWithNothingBound) {
  make();
  ASSERT_TRUE(bind(msix, 0, {nullptr}));
  EXPECT_EQ(handle->enabled, msix);
  EXPECT_FALSE(handle->bound[0].valid());
  ASSERT_TRUE(bind(msix, 0, {}));
}

TEST_F(PassthroughTest, AVectorOfAnMsiWithoutMaskBitsIsNeverTakenAway) {
  make();
  ASSERT_TRUE(bind(msi, 0, {&one, nullptr}));
  EXPECT_TRUE(handle->bound[0].valid());
  EXPECT_TRUE(handle->bound[1].valid()) << "nobody listens, but the device has somewhere to signal";
  ASSERT_TRUE(bind(msi, 0, {nullptr}));
  EXPECT_TRUE(handle->bound[0].valid());
  EXPECT_FALSE(leads_to(0, one));
}

TEST_F(PassthroughTest, AVectorOfAnMsiWithMaskBitsCanBe) {
  handle->config_space.put(D::msi + 2, 2, 0x0186);
  make();
  ASSERT_TRUE(bind(msi, 0, {&one, nullptr}));
  EXPECT_FALSE(handle->bound[1].valid());
}

TEST_F(PassthroughTest, MsiThatCannotGrowIsBoundAnewWhole) {
  make();
  ASSERT_TRUE(bind(msi, 0, {&one}));
  ASSERT_TRUE(bind(msi, 2, {&two}));
  EXPECT_EQ(handle->calls, (Calls{"bind msi 0 1", "disable msi", "bind msi 0 3"}));
  EXPECT_TRUE(leads_to(0, one));
  EXPECT_TRUE(handle->bound[1].valid());
  EXPECT_TRUE(leads_to(2, two));
}

TEST_F(PassthroughTest, VFIO20_WhatTheMachineCannotGiveIsAnErrorAndNothingIsEnabled) {
  make();
  handle->bind_error = ENOSPC;
  EXPECT_EQ(bind(msi, 0, {&one, &two}).error().code(), ENOSPC);
  EXPECT_FALSE(handle->enabled);
  EXPECT_TRUE(bind(intx, 0, {&one})) << "no kind is enabled";
}

TEST_F(PassthroughTest, VFIO21_WhenALargerSetFailsTheOneBeforeIsBack) {
  make();
  ASSERT_TRUE(bind(msi, 0, {&one}));
  handle->bind_error = ENOSPC;
  EXPECT_EQ(bind(msi, 1, {&two}).error().code(), ENOSPC);
  EXPECT_EQ(handle->bound.size(), 1u);
  EXPECT_TRUE(leads_to(0, one));
}

TEST_F(PassthroughTest, OneKindIsEnabledAtATime) {
  make();
  ASSERT_TRUE(bind(intx, 0, {&one}));
  EXPECT_EQ(bind(msix, 0, {&two}).error().code(), EINVAL);
  ASSERT_TRUE(function->disable_interrupts(msix)) << "not enabled: nothing to do";
  ASSERT_TRUE(function->disable_interrupts(intx));
  EXPECT_TRUE(bind(msix, 0, {&two}));
}

TEST_F(PassthroughTest, VectorsBeyondTheCountAreRefused) {
  make();
  EXPECT_EQ(bind(msix, 7, {&one, &two}).error().code(), EINVAL);
  EXPECT_EQ(bind(intx, 1, {&one}).error().code(), EINVAL);
  EXPECT_EQ(bind(error, 1, {&one}).error().code(), EINVAL);
  EXPECT_EQ(function->trigger_interrupts(msix, 0, 9).error().code(), EINVAL);
  EXPECT_TRUE(handle->calls.empty());
}

TEST_F(PassthroughTest, IntxIsMaskedAndUnmaskedByTheDevice) {
  make();
  ASSERT_TRUE(bind(intx, 0, {&one}));
  ASSERT_TRUE(function->mask_interrupts(intx, 0, 1));
  ASSERT_TRUE(function->unmask_interrupts(intx, 0, 1));
  EXPECT_EQ(handle->calls, (Calls{"bind intx 0 1", "mask intx", "unmask intx"}));
  EXPECT_EQ(function->mask_interrupts(msi, 0, 1).error().code(), ENOTTY);
  ASSERT_TRUE(function->bind_unmask(same(two)));
  EXPECT_TRUE(handle->unmask_bound.valid()) << "no hop";
  EXPECT_EQ(function->bind_unmask(same(one)).error().code(), EINVAL);
}

TEST_F(PassthroughTest, AnUnmaskEventfdThatTheHandleDoesNotTakeIsWatched) {
  handle->takes_unmask_eventfds = false;
  make();
  ASSERT_TRUE(bind(intx, 0, {&one}));
  ASSERT_TRUE(function->bind_unmask(same(two)));
  handle->calls.clear();
  two.signal();
  loop.run_until_idle();
  EXPECT_EQ(handle->calls, (Calls{"unmask intx"}));
}

// Reset

TEST_F(PassthroughTest, AResetStopsDmaFirstAndKeepsMappingsAndBindings) {
  make();
  ASSERT_TRUE(map(0x100000, 0x1000));
  ASSERT_TRUE(bind(msix, 0, {&one}));
  command(memory_on | bus_master_on);
  write<std::uint32_t>(region::config, 0x10, 0xFEB00000);
  handle->calls.clear();
  const auto done = start(&Passthrough::reset);
  ASSERT_TRUE(done && *done);
  EXPECT_EQ(handle->calls, (Calls{"command 0x0002", "reset", "command 0x0000"}));
  EXPECT_EQ(read<std::uint16_t>(region::config, 4), 0u);
  EXPECT_EQ(read<std::uint32_t>(region::config, 0x10), 0u);
  EXPECT_EQ(handle->mapped.size(), 1u);
  EXPECT_EQ(handle->enabled, msix);
  command(bus_master_on);
  EXPECT_EQ(handle->calls.back(), "command 0x0004") << "there is memory still";
}

TEST_F(PassthroughTest, WhileTheDeviceIsBeingResetNothingElseReachesIt) {
  make();
  ASSERT_TRUE(map(0x100000, 0x1000));
  command(memory_on);
  hold_reset = true;
  std::optional<Status> done;
  function->reset([&](Status status) { done = std::move(status); });
  EXPECT_FALSE(handle->attached) << "its events wait";
  handle->calls.clear();
  EXPECT_EQ(read<std::uint32_t>(0, 0), UINT32_MAX);
  EXPECT_EQ(read<std::uint32_t>(region::config, 0), UINT32_MAX);
  write<std::uint32_t>(0, 0, 1);
  EXPECT_EQ(map(0x200000, 0x1000).error().code(), EBUSY);
  EXPECT_EQ(error_of_unmap(0x100000, 0x1000), EBUSY);
  EXPECT_EQ(bind(msix, 0, {&one}).error().code(), EBUSY);
  EXPECT_TRUE(handle->calls.empty());
  held_reset();
  EXPECT_FALSE(done);
  loop.run_until_idle();
  ASSERT_TRUE(done && *done);
  EXPECT_TRUE(handle->attached);
  EXPECT_EQ(read<std::uint32_t>(region::config, 0), 0x56781234u);
}

TEST_F(PassthroughTest, ACompletionMayDestroyTheFunction) {
  make();
  function->reset([this](const Status& status) {
    EXPECT_TRUE(status);
    function.reset();
  });
  loop.run_until_idle();
  EXPECT_EQ(function, nullptr);
}

TEST_F(PassthroughTest, TheClientsReleaseMayDestroyTheFunction) {
  make();
  function->release_client([this](const Status&) { function.reset(); });
  loop.run_until_idle();
  EXPECT_EQ(function, nullptr);
}

TEST_F(PassthroughTest, ADeviceWithoutAResetSaysSo) {
  handle->can_be_reset = false;
  make();
  EXPECT_FALSE(function->resettable());
  const auto done = start(&Passthrough::reset);
  ASSERT_TRUE(done);
  EXPECT_EQ(done->error().code(), ENOTSUP);
}

TEST_F(PassthroughTest, AResetThatFailsIsTold) {
  make();
  handle->reset_error = EIO;
  const auto done = start(&Passthrough::reset);
  ASSERT_TRUE(done);
  EXPECT_EQ(done->error().code(), EIO);
}

TEST_F(PassthroughTest, AResetThatFailsLeavesTheClientWhatItHad) {
  make();
  ASSERT_TRUE(map(0x100000, 0x1000));
  command(memory_on | bus_master_on);
  write<std::uint32_t>(0, 0x2000, 0xFEE01000);
  handle->reset_error = EIO;
  EXPECT_FALSE(*start(&Passthrough::reset));
  EXPECT_EQ(handle->calls.back(), "command 0x0006");
  EXPECT_EQ(read<std::uint32_t>(0, 0x2000), 0xFEE01000u);
}

TEST_F(PassthroughTest, BusMasteringThatCouldNotBeTakenAwayIsTakenFromTheNextClient) {
  make();
  ASSERT_TRUE(map(0x100000, 0x1000));
  command(memory_on | bus_master_on);
  const auto size = std::exchange(handle->regions[region::config].size, 0);
  hold_reset = true;
  function->release_client([](const Status&) {});
  handle->regions[region::config].size = size;
  held_reset();
  loop.run_until_idle();
  ASSERT_TRUE(ended.empty());
  command(memory_on | bus_master_on);
  EXPECT_EQ(handle->calls.back(), "command 0x0002") << "there is no memory yet";
}

TEST_F(PassthroughTest, AFunctionThatEndsDuringAResetWaitsForIt) {
  Passthrough::Options threaded;
  threaded.run_blocking = nullptr;
  auto made = Passthrough::create(std::move(owned_), loop, Log(), std::move(threaded));
  ASSERT_TRUE(made);
  bool called = false;
  (*made)->reset([&](const Status&) { called = true; });
  made->reset();
  loop.run_until_idle();
  EXPECT_FALSE(called);
}

// Clients that come and go: docs/spec-map.md, EXP-9 and VFIO-42

TEST_F(PassthroughTest, VFIO42_WhenTheClientLeavesEverythingItBroughtGoesInOrder) {
  make();
  ASSERT_TRUE(map(0x100000, 0x1000));
  ASSERT_TRUE(bind(msi, 0, {&one}));
  command(memory_on | bus_master_on);
  handle->calls.clear();
  const auto done = start(&Passthrough::release_client);
  ASSERT_TRUE(done && *done);
  EXPECT_EQ(handle->calls,
            (Calls{"command 0x0002", "disable msi", "unmap 0x100000 0x1000", "reset", "command 0x0000"}));
  EXPECT_TRUE(handle->bound.empty());
  EXPECT_TRUE(ended.empty());
  command(bus_master_on);
  EXPECT_EQ(handle->calls.back(), "command 0x0000") << "the next client has no memory yet";
}

TEST_F(PassthroughTest, VFIO42_WithoutAResetTheRestHappens) {
  handle->can_be_reset = false;
  make();
  ASSERT_TRUE(map(0x100000, 0x1000));
  const auto done = start(&Passthrough::release_client);
  ASSERT_TRUE(done && *done);
  EXPECT_EQ(place(handle->calls, "reset"), handle->calls.size());
  EXPECT_TRUE(ended.empty());
}

TEST_F(PassthroughTest, VFIO42_TheNextClientFindsThePowerOnValuesAlsoWithoutAReset) {
  handle->can_be_reset = false;
  make();
  write<std::uint16_t>(region::config, D::express + 8, 0x5937);
  write<std::uint32_t>(region::config, D::errors + 0x14, UINT32_MAX);
  write<std::uint8_t>(region::config, 0x0C, 0x10);
  write<std::uint16_t>(region::config, D::power + 4, 0x0003);
  EXPECT_TRUE(start(&Passthrough::release_client));
  EXPECT_TRUE(ended.empty());
  EXPECT_EQ(read<std::uint16_t>(region::config, D::express + 8), 0u);
  EXPECT_EQ(read<std::uint32_t>(region::config, D::errors + 0x14), 0u);
  EXPECT_EQ(read<std::uint8_t>(region::config, 0x0C), 0u);
  EXPECT_EQ(read<std::uint16_t>(region::config, D::power + 4) & 3, 0u);
  command(memory_on);
  EXPECT_EQ(read<std::uint32_t>(0, 0), 0u) << "it is awake";
}

TEST_F(PassthroughTest, VFIO33_ADeviceThatCannotBeResetAnyMoreIsForNobody) {
  make();
  handle->reset_error = ENOTTY;
  EXPECT_TRUE(start(&Passthrough::release_client));
  EXPECT_TRUE(handle->gone());
  ASSERT_EQ(ended.size(), 1u);
  EXPECT_NE(ended[0].find("could not be made ready"), std::string::npos);
}

// Events: docs/spec-map.md, VFIO-35, VFIO-37, VFIO-44

TEST_F(PassthroughTest, VFIO44_WithoutAClientTheDeviceIsGivenBackAtOnce) {
  make();
  handle->event(Event::unplug_requested);
  loop.run_until_idle();
  EXPECT_TRUE(handle->gone());
  EXPECT_EQ(ended.size(), 1u);
}

TEST_F(PassthroughTest, VFIO35_TheClientIsToldAndHasUntilTheDeadline) {
  make({.unplug_timeout = std::chrono::seconds(3)});
  ASSERT_TRUE(bind(request, 0, {&one}));
  ASSERT_TRUE(map(0x100000, 0x1000));
  ASSERT_TRUE(bind(msix, 0, {&two}));
  command(memory_on | bus_master_on);
  handle->event(Event::unplug_requested);
  handle->event(Event::unplug_requested);
  EXPECT_EQ(one.drain(), 1u) << "once, however often it is asked for";
  EXPECT_FALSE(handle->gone());
  EXPECT_EQ(read<std::uint32_t>(0, 0), 0u) << "it works meanwhile";
  handle->calls.clear();
  loop.advance(std::chrono::seconds(4));
  EXPECT_EQ(handle->calls, (Calls{"command 0x0002", "disable msix", "unmap 0x100000 0x1000", "revoke"}));
  EXPECT_EQ(ended.size(), 1u);
  EXPECT_EQ(read<std::uint32_t>(0, 0), UINT32_MAX);
  EXPECT_EQ(read<std::uint32_t>(region::config, 0), UINT32_MAX);
  EXPECT_EQ(map(0x200000, 0x1000).error().code(), ENODEV);
  EXPECT_TRUE(start(&Passthrough::release_client));
}

TEST_F(PassthroughTest, VFIO35_AClientThatLeavesInTimeEndsItSooner) {
  make();
  ASSERT_TRUE(bind(request, 0, {&one}));
  handle->event(Event::unplug_requested);
  EXPECT_TRUE(start(&Passthrough::release_client));
  EXPECT_TRUE(handle->gone());
  EXPECT_EQ(ended.size(), 1u);
}

TEST_F(PassthroughTest, VFIO35_AClientThatComesToHearLateHearsAtOnce) {
  make();
  ASSERT_TRUE(map(0x100000, 0x1000));
  handle->event(Event::unplug_requested);
  ASSERT_TRUE(bind(request, 0, {&one}));
  EXPECT_EQ(one.drain(), 1u);
}

TEST_F(PassthroughTest, VFIO35_ADeadlineDuringAResetWaitsForItsEnd) {
  make({.unplug_timeout = std::chrono::seconds(3)});
  ASSERT_TRUE(map(0x100000, 0x1000));
  handle->event(Event::unplug_requested);
  hold_reset = true;
  std::optional<Status> done;
  function->reset([&](Status status) { done = std::move(status); });
  loop.advance(std::chrono::seconds(4));
  EXPECT_FALSE(handle->gone());
  held_reset();
  loop.run_until_idle();
  EXPECT_TRUE(done);
  EXPECT_TRUE(handle->gone());
}

TEST_F(PassthroughTest, VFIO37_AnErrorOfTheDeviceIsPassedOn) {
  make();
  ASSERT_TRUE(bind(error, 0, {&one}));
  handle->event(Event::error);
  EXPECT_EQ(one.drain(), 1u);
  ASSERT_TRUE(function->disable_interrupts(error));
  handle->event(Event::error);
  EXPECT_EQ(one.drain(), 0u);
}

TEST_F(PassthroughTest, ADeviceThatIsGoneReadsAllOnesAndIsSaidOnce) {
  make();
  ASSERT_TRUE(bind(msix, 0, {&one}));
  handle->revoke();
  loop.run_until_idle();
  EXPECT_EQ(ended.size(), 1u);
  EXPECT_EQ(read<std::uint32_t>(0, 0), UINT32_MAX);
  EXPECT_TRUE(function->disable_interrupts(msix)) << "nothing is enabled any more";
  EXPECT_TRUE(function->region(0).size != 0);
}

}  // namespace
}  // namespace outboard::pci
