#include <outboard/pci/handle.hpp>

#include <array>
#include <cstdlib>
#include <cstring>
#include <set>

#include <gtest/gtest.h>

#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::pci {
namespace {

using enum InterruptKind;

/// A handle over bytes that a test writes as it likes: a function that lies.
class LyingHandle final : public Handle {
 public:
  explicit LyingHandle(std::size_t config_size = 4096) : config_bytes(config_size) {
    put16(0x00, 0x1234);
    put16(0x02, 0x5678);
  }

  void put8(std::size_t at, unsigned value) { config_bytes[at] = static_cast<std::byte>(value); }
  void put16(std::size_t at, unsigned value) {
    put8(at, value);
    put8(at + 1, value >> 8);
  }
  void put32(std::size_t at, std::uint32_t value) {
    put16(at, value);
    put16(at + 2, value >> 16);
  }
  unsigned get16(std::size_t at) const {
    return std::to_integer<unsigned>(config_bytes[at]) | std::to_integer<unsigned>(config_bytes[at + 1]) << 8;
  }
  void start_list(unsigned first) {
    put16(0x06, 0x10);
    put8(0x34, first);
  }
  void capability(std::size_t at, unsigned id, unsigned next) { put16(at, id | next << 8); }
  void extended(std::size_t at, unsigned id, unsigned version, unsigned next) {
    put32(at, id | version << 16 | next << 20);
  }

  std::string name() const override { return "lying"; }
  Result<RegionInfo> region(unsigned index) override {
    if (index == region::config)
      return RegionInfo{.size = config_bytes.size(), .readable = true, .writable = true, .areas = {}};
    if (index == 2) return RegionInfo{.size = 0x1000, .readable = true, .writable = true, .areas = {}};
    return RegionInfo{};
  }
  Result<InterruptInfo> interrupts(InterruptKind kind) override { return infos[static_cast<unsigned>(kind)]; }
  using Handle::raise;
  Status read_region(unsigned region, std::uint64_t offset, MutableBytes into) override {
    ++reads;
    if (dead) return Error(ECONNRESET);
    if (region != region::config || !range_within(offset, into.size(), config_bytes.size())) return Error(EINVAL);
    std::memcpy(into.data(), config_bytes.data() + offset, into.size());
    return {};
  }
  Status write_region(unsigned region, std::uint64_t offset, Bytes from) override {
    if (dead) return Error(ECONNRESET);
    if (region != region::config || !range_within(offset, from.size(), config_bytes.size())) return Error(EINVAL);
    if (refuse_writes_at.contains(offset)) return Error(EIO);
    std::memcpy(config_bytes.data() + offset, from.data(), from.size());
    log.push_back("write " + std::to_string(offset) + "/" + std::to_string(from.size()));
    return {};
  }
  Result<Window> map_window(unsigned, std::uint64_t, std::uint64_t) override { return Error(ENOTSUP); }
  memory::DmaSpace& dma() override { std::abort(); }
  memory::DmaMapper& dma_mapper() override { std::abort(); }
  void revoke() override {
    dead = true;
    raise(Event::gone);
  }
  Status reset() override { return {}; }
  Status attach(Loop&) override { return {}; }
  bool gone() const override { return dead; }

  std::vector<std::byte> config_bytes;
  std::array<InterruptInfo, interrupt_kind_count> infos{};
  std::set<std::uint64_t> refuse_writes_at;
  std::vector<std::string> log;
  bool dead = false;
  bool refuse_bind = false;
  unsigned machine_vectors = 1000;  ///< what can really be given, known once it has been tried
  bool counts_after_failure = true;
  unsigned reads = 0;

  Status bind_interrupts(InterruptKind kind, std::uint32_t, const std::vector<EventFd>& fds) override {
    if (refuse_bind) return Error(EPERM);
    if (fds.size() > machine_vectors) {
      if (counts_after_failure) infos[static_cast<unsigned>(kind)].count = machine_vectors;
      return Error(ENOSPC);
    }
    log.push_back("bind " + std::to_string(static_cast<unsigned>(kind)) + " " + std::to_string(fds.size()));
    return {};
  }
  Status disable_interrupts(InterruptKind kind) override {
    log.push_back("disable " + std::to_string(static_cast<unsigned>(kind)));
    return {};
  }
  Status unmask_interrupts(InterruptKind, std::uint32_t, std::uint32_t) override {
    log.emplace_back("unmask");
    return {};
  }
};

class HandleTest : public ::testing::Test {
 protected:
  using Log = std::vector<std::string>;
  int walk_error() {
    const auto list = handle.capabilities();
    return list ? 0 : list.error().code();
  }
  LyingHandle handle;
};

// The capability walk

TEST_F(HandleTest, WithoutTheStatusBitThereIsNoList) {
  handle.put8(0x34, 0x40);
  handle.capability(0x40, 0x05, 0);
  const auto list = handle.capabilities();
  ASSERT_TRUE(list);
  EXPECT_TRUE(list->empty());
}

TEST_F(HandleTest, TheListIsFollowedInOrder) {
  handle.start_list(0x60);
  handle.capability(0x60, 0x01, 0x43);  // bits 0 and 1 of a pointer are reserved
  handle.capability(0x40, 0x11, 0xFC);
  handle.capability(0xFC, 0x09, 0x00);
  const auto list = handle.capabilities();
  ASSERT_TRUE(list);
  ASSERT_EQ(list->size(), 3u);
  EXPECT_EQ((*list)[0].id, 0x01);
  EXPECT_EQ(raw((*list)[1].offset), 0x40);
  EXPECT_EQ((*list)[2].id, 0x09);
  EXPECT_FALSE((*list)[2].extended);
}

TEST_F(HandleTest, AFullListOf48IsFollowed) {
  handle.start_list(0x40);
  for (unsigned at = 0x40; at < 0x100; at += 4) handle.capability(at, 0x09, at == 0xFC ? 0 : at + 4);
  const auto list = handle.capabilities();
  ASSERT_TRUE(list);
  EXPECT_EQ(list->size(), 48u);
}

TEST_F(HandleTest, AListThatLoopsIsRefused) {
  handle.start_list(0x40);
  handle.capability(0x40, 0x09, 0x50);
  handle.capability(0x50, 0x09, 0x40);
  EXPECT_EQ(walk_error(), EPROTO);
  handle.capability(0x40, 0x09, 0x40);
  EXPECT_EQ(walk_error(), EPROTO);
  EXPECT_EQ(handle.find_capability(0x11).error().code(), EPROTO);
  EXPECT_EQ(handle.msix_vector_count().error().code(), EPROTO);
  EXPECT_LT(handle.reads, 100u);
}

TEST_F(HandleTest, APointerIntoTheHeaderIsRefused) {
  for (const unsigned pointer : {0x04u, 0x10u, 0x3Cu}) {
    handle.start_list(pointer);
    EXPECT_EQ(walk_error(), EPROTO) << pointer;
  }
  handle.start_list(0x40);
  handle.capability(0x40, 0x09, 0x3C);
  EXPECT_EQ(walk_error(), EPROTO);
}

TEST_F(HandleTest, AllOnesMeansThatNobodyAnswers) {
  std::ranges::fill(handle.config_bytes, std::byte{0xFF});
  EXPECT_EQ(walk_error(), ENODEV);
  EXPECT_EQ(handle.enable_bus_master().error().code(), ENODEV);
}

TEST_F(HandleTest, ACapabilityOfAllOnesMeansThatNobodyAnswersAnyMore) {
  handle.start_list(0x40);
  handle.put16(0x40, 0xFFFF);
  EXPECT_EQ(walk_error(), ENODEV);
}

TEST_F(HandleTest, AFailedReadIsHandedOn) {
  handle.dead = true;
  EXPECT_EQ(walk_error(), ECONNRESET);
}

TEST_F(HandleTest, ExtendedCapabilitiesFollow) {
  handle.extended(0x100, 0x0001, 2, 0x140);
  handle.extended(0x140, 0x000B, 1, 0);
  const auto list = handle.capabilities();
  ASSERT_TRUE(list);
  ASSERT_EQ(list->size(), 2u);
  EXPECT_EQ((*list)[0].id, 0x0001);
  EXPECT_EQ((*list)[0].version, 2);
  EXPECT_TRUE((*list)[0].extended);
  EXPECT_EQ(raw((*list)[1].offset), 0x140);
  ASSERT_TRUE(handle.find_capability(0x000B, true));
  EXPECT_TRUE(handle.find_capability(0x000B, true)->has_value());
  EXPECT_FALSE(handle.find_capability(0x000B, false)->has_value()) << "the ids of the two lists have nothing in common";
}

TEST_F(HandleTest, AHiddenFirstExtendedCapabilityIsSkipped) {
  handle.extended(0x100, 0, 0, 0x200);
  handle.extended(0x200, 0x0003, 1, 0);
  const auto list = handle.capabilities();
  ASSERT_TRUE(list);
  ASSERT_EQ(list->size(), 1u);
  EXPECT_EQ(raw((*list)[0].offset), 0x200);
}

TEST_F(HandleTest, AFullExtendedListIsFollowedAndALoopRefused) {
  for (unsigned at = 0x100; at < 0x1000; at += 4) handle.extended(at, 1, 1, at == 0xFFC ? 0 : at + 4);
  EXPECT_EQ(handle.capabilities()->size(), 960u);
  handle.extended(0xFFC, 1, 1, 0x100);
  EXPECT_EQ(walk_error(), EPROTO);
  handle.extended(0x100, 1, 1, 0x0FC);
  EXPECT_EQ(walk_error(), EPROTO);
}

TEST_F(HandleTest, AnExtendedPointerBeyondTheSpaceIsRefused) {
  LyingHandle small(0x200);
  small.extended(0x100, 1, 1, 0x200);
  EXPECT_EQ(small.capabilities().error().code(), EPROTO);
  small.extended(0x100, 1, 1, 0x1FC);
  EXPECT_TRUE(small.capabilities());
}

TEST_F(HandleTest, ConventionalSpaceHasNoExtendedWalk) {
  LyingHandle conventional(256);
  EXPECT_TRUE(conventional.capabilities()->empty());
  handle.put32(0x100, 0xFFFFFFFF);
  EXPECT_TRUE(handle.capabilities()->empty()) << "nor has a function whose extended space does not answer";
  handle.extended(0x100, 1, 1, 0x140);
  handle.put32(0x140, 0xFFFFFFFF);
  EXPECT_EQ(walk_error(), ENODEV);
}

// Vectors

class VectorTest : public HandleTest {
 protected:
  VectorTest() {
    handle.start_list(0x40);
    handle.capability(0x40, capability_id::msi, 0x60);
    handle.put16(0x42, 0x0186);  // 8 vectors
    handle.capability(0x60, capability_id::msix, 0);
    handle.put16(0x62, 15);
    handle.infos[0] = {.count = 1, .maskable = true, .automasked = true};
    handle.infos[1] = {.count = 8};
    handle.infos[2] = {.count = 16};
  }
};

TEST_F(VectorTest, CountsComeFromTheCapabilities) {
  EXPECT_EQ(*handle.msix_vector_count(), 16u);
  EXPECT_EQ(*handle.msi_vector_count(), 8u);
}

TEST_F(VectorTest, CountsAreNeverMoreThanCanBeEnabled) {
  handle.infos[2].count = 3;
  EXPECT_EQ(*handle.msix_vector_count(), 3u);
  handle.put16(0x42, 0x000E);  // a reserved value: 128
  handle.infos[1].count = 1000;
  EXPECT_EQ(*handle.msi_vector_count(), 32u);
}

TEST_F(VectorTest, WithoutTheCapabilityTheCountIsZero) {
  handle.start_list(0);
  EXPECT_EQ(*handle.msix_vector_count(), 0u);
  EXPECT_EQ(*handle.msi_vector_count(), 0u);
}

TEST_F(VectorTest, EnablingBindsAndThenSetsTheEnableBit) {
  handle.put16(0x62, 0x400F);  // masked by someone before us
  const auto set = handle.enable_interrupts(msix, 5);
  ASSERT_TRUE(set);
  EXPECT_EQ(set->count(), 5u);
  EXPECT_TRUE(set->vector(4).valid());
  EXPECT_EQ(handle.log, (Log{"bind 2 5", "write 98/2"}));
  EXPECT_EQ(handle.get16(0x62), 0x800Fu);
}

TEST_F(VectorTest, DestroyingTheSetDisablesInTheOtherOrder) {
  {
    auto set = handle.enable_interrupts(msix, 1);
    ASSERT_TRUE(set);
    handle.log.clear();
    const InterruptSet moved = std::move(*set);
  }
  EXPECT_EQ(handle.log, (Log{"write 98/2", "disable 2"}));
  EXPECT_EQ(handle.get16(0x62), 15u);
  EXPECT_TRUE(handle.enable_interrupts(msix, 1));
}

TEST_F(VectorTest, MsiEnablesTheNextPowerOfTwo) {
  auto set = handle.enable_interrupts(msi, 3);
  ASSERT_TRUE(set);
  EXPECT_EQ(handle.get16(0x42), 0x0186u | 2 << 4 | 1);
  set->reset();
  EXPECT_EQ(handle.get16(0x42) & 1, 0u);
  ASSERT_TRUE(handle.enable_interrupts(msi, 1));
  EXPECT_EQ(handle.get16(0x42) & 0x70, 0u);
}

TEST_F(VectorTest, EnablingOneKindTurnsOffWhatAnotherDriverLeftOn) {
  handle.put16(0x62, 0x800F);
  handle.put16(0x42, 0x0187);
  handle.put16(0x04, 0x0402);
  const auto set = handle.enable_interrupts(intx, 1);
  ASSERT_TRUE(set);
  EXPECT_EQ(handle.get16(0x62), 0x000Fu);
  EXPECT_EQ(handle.get16(0x42), 0x0186u);
  EXPECT_EQ(handle.get16(0x04), 0x0002u) << "and lets INTx through";
}

TEST_F(VectorTest, OnlyOneSetAtATime) {
  auto set = handle.enable_interrupts(intx, 1);
  ASSERT_TRUE(set);
  EXPECT_EQ(handle.enable_interrupts(msix, 1).error().code(), EBUSY);
  set->reset();
  EXPECT_TRUE(handle.enable_interrupts(msix, 1));
}

TEST_F(VectorTest, MoreVectorsThanThereAreEnablesNothing) {
  EXPECT_EQ(handle.enable_interrupts(msix, 17).error().code(), ENOSPC);
  EXPECT_EQ(handle.enable_interrupts(error, 1).error().code(), ENOSPC);
  EXPECT_EQ(handle.enable_interrupts(msix, 0).error().code(), EINVAL);
  EXPECT_TRUE(handle.log.empty());
}

TEST_F(VectorTest, AsManyVectorsAsThereAreIsANumberNotAnError) {
  EXPECT_EQ(handle.enable_interrupts_up_to(msix, 100)->count(), 16u);
  EXPECT_EQ(handle.enable_interrupts_up_to(msix, 3)->count(), 3u);
  EXPECT_EQ(handle.enable_interrupts_up_to(error, 3)->count(), 0u);
  EXPECT_EQ(handle.enable_interrupts_up_to(msix, 0).error().code(), EINVAL);
}

TEST_F(VectorTest, AMachineWithFewerVectorsIsAskedAgainForWhatItHas) {
  handle.machine_vectors = 1;
  EXPECT_EQ(handle.enable_interrupts_up_to(msi, 8)->count(), 1u);
  EXPECT_EQ(handle.enable_interrupts(msi, 8).error().code(), ENOSPC);
  handle.infos[1].count = 8;
  handle.counts_after_failure = false;
  EXPECT_EQ(handle.enable_interrupts_up_to(msi, 8).error().code(), ENOSPC) << "and not for ever";
}

TEST_F(VectorTest, AFailedEnableIsUndone) {
  handle.refuse_writes_at = {0x62};
  const auto set = handle.enable_interrupts(msix, 2);
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().code(), EIO);
  EXPECT_EQ(handle.log, (Log{"bind 2 2", "disable 2"}));
  handle.refuse_writes_at.clear();
  handle.refuse_bind = true;
  EXPECT_EQ(handle.enable_interrupts(msix, 2).error().code(), EPERM);
  EXPECT_EQ(handle.get16(0x62), 15u);
  handle.refuse_bind = false;
  EXPECT_TRUE(handle.enable_interrupts(msix, 2));
}

TEST_F(VectorTest, UnmaskConcernsIntxOnly) {
  {
    auto set = handle.enable_interrupts(intx, 1);
    handle.log.clear();
    EXPECT_TRUE(set->unmask());
    EXPECT_EQ(handle.log, (Log{"unmask"}));
  }
  auto set = handle.enable_interrupts(msix, 1);
  handle.log.clear();
  EXPECT_TRUE(set->unmask());
  EXPECT_TRUE(handle.log.empty());
  EXPECT_TRUE(InterruptSet().unmask());
}

TEST_F(VectorTest, ASetOutlivesABackEndThatHasGone) {
  auto set = handle.enable_interrupts(msix, 1);
  ASSERT_TRUE(set);
  handle.dead = true;
  set->reset();
  EXPECT_EQ(set->count(), 0u);
}

// Events

TEST_F(HandleTest, AnUnplugRequestThatNobodyListensToIsAnswered) {
  handle.raise(Event::unplug_requested);
  EXPECT_TRUE(handle.gone());
}

TEST_F(HandleTest, WhoListensDecides) {
  std::vector<Event> events;
  handle.on_event([&](Event event) { events.push_back(event); });
  handle.raise(Event::unplug_requested);
  EXPECT_FALSE(handle.gone());
  EXPECT_EQ(events, std::vector{Event::unplug_requested});
}

// Command and BARs

TEST_F(HandleTest, CommandIsWrittenAs16BitsAndKeepsItsOtherBits) {
  handle.put16(0x04, 0x0400);
  ASSERT_TRUE(handle.enable_bus_master());
  EXPECT_EQ(handle.get16(0x04), 0x0406u);
  ASSERT_TRUE(handle.disable_bus_master());
  EXPECT_EQ(handle.get16(0x04), 0x0402u);
  EXPECT_EQ(handle.log, (Log{"write 4/2", "write 4/2"}));
}

TEST_F(HandleTest, MemoryCanBeEnabledAlone) {
  ASSERT_TRUE(handle.enable_memory());
  EXPECT_EQ(handle.get16(0x04), 0x0002u);
}

TEST_F(HandleTest, OnlyBarsThatAreThereAreGiven) {
  EXPECT_EQ(handle.bar(2)->size(), 0x1000u);
  EXPECT_EQ(handle.bar(0).error().code(), ENODEV);
  EXPECT_EQ(handle.bar(6).error().code(), EINVAL);
  EXPECT_EQ(handle.bar(2)->window(0xFFF, 2).error().code(), EINVAL);
  EXPECT_EQ(handle.bar(2)->window(UINT64_MAX, 2).error().code(), EINVAL);
  EXPECT_EQ(handle.bar(2)->window(0, 4).error().code(), ENOTSUP);
}

TEST_F(HandleTest, AFunctionSaysWhatItIs) {
  handle.put32(0x08, 0x01080203);
  handle.put16(0x2C, 0x1af4);
  handle.put16(0x2E, 0x1100);
  const auto identity = handle.identity();
  ASSERT_TRUE(identity);
  EXPECT_EQ(identity->vendor, 0x1234);
  EXPECT_EQ(identity->device, 0x5678);
  EXPECT_EQ(identity->class_code, 0x010802u);
  EXPECT_EQ(identity->revision, 3);
  EXPECT_EQ(identity->subsystem_vendor, 0x1af4);
  EXPECT_EQ(identity->subsystem, 0x1100);
  handle.put16(0, 0xFFFF);
  EXPECT_EQ(handle.identity().error().code(), ENODEV);
}

TEST_F(HandleTest, SleepNeedsPowerManagement) { EXPECT_EQ(handle.enter_low_power().error().code(), ENOTSUP); }

TEST_F(HandleTest, RegistersAreReadByTheirNames) {
  const auto vendor = handle.config().read<VendorId>();
  ASSERT_TRUE(vendor);
  EXPECT_EQ(vendor->value(), 0x1234);
  ASSERT_TRUE(handle.config().write(with(Command(), Command::serr_enable, 1)));
  EXPECT_EQ(handle.config().read<Command>()->get(Command::serr_enable), 1);
}

}  // namespace
}  // namespace outboard::pci
