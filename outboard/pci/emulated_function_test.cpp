#include <outboard/pci/emulated_function.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <outboard/base/endian.hpp>
#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <tests/support/plain_function.hpp>

namespace outboard::pci {
namespace {

using testing::PlainFunction;
using enum InterruptKind;

/// A function whose parts a test chooses.
class BareFunction : public EmulatedFunction {
 public:
  explicit BareFunction(Loop& loop, bool express = true)
      : EmulatedFunction(loop, Log(), {.vendor = 1, .device = 2, .express = express}) {}

  using EmulatedFunction::add_bar;
  using EmulatedFunction::add_intx;
  using EmulatedFunction::add_msi;
  using EmulatedFunction::add_msix;
  using EmulatedFunction::area;
  using EmulatedFunction::BarSpec;
  using EmulatedFunction::config;

  struct Access {
    unsigned bar;
    std::uint64_t offset;
    std::size_t size;
    friend bool operator==(const Access&, const Access&) = default;
  };
  std::vector<Access> reads, writes, area_writes;
  std::vector<bool> bus_master_changes;

 protected:
  void read_bar(unsigned bar, std::uint64_t offset, MutableBytes into) override {
    reads.push_back({bar, offset, into.size()});
    std::ranges::fill(into, std::byte{0x55});
  }
  void write_bar(unsigned bar, std::uint64_t offset, Bytes from) override {
    writes.push_back({bar, offset, from.size()});
  }
  void area_written(unsigned bar, std::uint64_t offset, Bytes from) override {
    area_writes.push_back({bar, offset, from.size()});
  }
  void reset_device(Loop::Task done) override { done(); }
  void bus_master_changed(bool on) override { bus_master_changes.push_back(on); }
};

template <typename T>
T read(Function& function, unsigned region, std::uint64_t offset) {
  EndianInteger<T, std::endian::little> value;
  EXPECT_TRUE(function.read_region(region, offset, as_writable_bytes_of(value)));
  return value;
}
template <typename T>
void write(Function& function, unsigned region, std::uint64_t offset, T value) {
  EXPECT_TRUE(function.write_region(region, offset, as_bytes_of(EndianInteger<T, std::endian::little>(value))));
}
std::uint32_t config32(Function& function, std::uint64_t offset) {
  return read<std::uint32_t>(function, region::config, offset);
}
std::uint16_t config16(Function& function, std::uint64_t offset) {
  return read<std::uint16_t>(function, region::config, offset);
}
void set_command(Function& function, std::uint16_t value) { write<std::uint16_t>(function, region::config, 4, value); }
constexpr std::uint16_t memory_on = 2, bus_master_on = 4, intx_off = 0x400;

std::uint16_t find_capability(Function& function, std::uint8_t id) {
  for (auto at = read<std::uint8_t>(function, region::config, 0x34); at != 0;
       at = read<std::uint8_t>(function, region::config, at + 1)) {
    if (read<std::uint8_t>(function, region::config, at) == id) return at;
  }
  ADD_FAILURE() << "no capability " << unsigned{id};
  return 0;
}

class BareFunctionTest : public ::testing::Test {
 protected:
  testing::ManualLoop loop;
  BareFunction function{loop};
};

// BARs

TEST_F(BareFunctionTest, BarSizeIsTheRegionSizeAndTheSizingMask) {
  ASSERT_TRUE(function.add_bar(1, {.size = 0x4000, .areas = {}}));
  EXPECT_EQ(function.region(1).size, 0x4000u);
  EXPECT_TRUE(function.region(1).readable && function.region(1).writable);
  EXPECT_TRUE(function.region(1).areas.empty());
  EXPECT_EQ(function.region(1).fd, nullptr);
  write<std::uint32_t>(function, region::config, 0x14, 0xFFFFFFFF);
  EXPECT_EQ(config32(function, 0x14), 0xFFFFC000u);
  write<std::uint8_t>(function, region::config, 0x17, 0x12);
  EXPECT_EQ(config32(function, 0x14), 0x12FFC000u);
  EXPECT_EQ(config32(function, 0x10), 0u) << "no BAR 0";
}

TEST_F(BareFunctionTest, A64BitBarTakesTwoRegisters) {
  ASSERT_TRUE(function.add_bar(2, {.size = UINT64_C(1) << 33, .is_64bit = true, .prefetchable = true, .areas = {}}));
  EXPECT_EQ(config32(function, 0x18), 0xCu);
  write<std::uint32_t>(function, region::config, 0x18, 0xFFFFFFFF);
  write<std::uint32_t>(function, region::config, 0x1C, 0xFFFFFFFF);
  EXPECT_EQ(config32(function, 0x18), 0xCu);
  EXPECT_EQ(config32(function, 0x1C), 0xFFFFFFFEu);
  EXPECT_EQ(function.region(2).size, UINT64_C(1) << 33);
  EXPECT_EQ(function.region(3).size, 0u);
  EXPECT_EQ(function.add_bar(3, {.size = 16, .areas = {}}).error().code(), EINVAL) << "taken by the upper half";
}

TEST_F(BareFunctionTest, BarsThatCannotBeAreRefused) {
  ASSERT_TRUE(function.add_bar(0, {.size = 16, .areas = {}}));
  EXPECT_FALSE(function.add_bar(0, {.size = 16, .areas = {}}));
  EXPECT_FALSE(function.add_bar(6, {.size = 16, .areas = {}}));
  EXPECT_FALSE(function.add_bar(5, {.size = 16, .is_64bit = true, .areas = {}}));
  EXPECT_FALSE(function.add_bar(1, {.size = 0x3000, .areas = {}}));
  EXPECT_FALSE(function.add_bar(1, {.size = UINT64_C(1) << 32, .areas = {}}));
  EXPECT_FALSE(function.add_bar(1, {.size = 0x100000, .areas = {{.offset = 0x80, .size = 0x10000}}}));
  EXPECT_FALSE(function.add_bar(1, {.size = 0x100000, .areas = {{.offset = 0xF0000, .size = 0x20000}}}));
  EXPECT_FALSE(function.add_bar(
      1, {.size = 0x100000, .areas = {{.offset = 0, .size = 0x20000}, {.offset = 0x10000, .size = 0x10000}}}));
  EXPECT_FALSE(function.add_bar(1, {.size = 0x100000, .areas = {{.offset = 0x10000, .size = 0}}}));
  EXPECT_EQ(function.region(1).size, 0u);
  EXPECT_EQ(config32(function, 0x14), 0u);
  ASSERT_TRUE(function.add_bar(1, {.size = 4, .areas = {}}));
  EXPECT_EQ(function.region(1).size, 16u);
}

TEST_F(BareFunctionTest, CommandHasMemorySpaceOnceThereIsABar) {
  set_command(function, 0xFFFF);
  EXPECT_EQ(config16(function, 4), 0x0544);
  ASSERT_TRUE(function.add_bar(0, {.size = 16, .areas = {}}));
  set_command(function, 0xFFFF);
  EXPECT_EQ(config16(function, 4), 0x0546);
}

TEST_F(BareFunctionTest, AccessesReachTheDeviceOnlyWhileMemoryIsDecoded) {
  ASSERT_TRUE(function.add_bar(0, {.size = 0x100, .areas = {}}));
  EXPECT_EQ(read<std::uint32_t>(function, 0, 0), 0xFFFFFFFFu);
  write<std::uint32_t>(function, 0, 0, 1);
  EXPECT_TRUE(function.reads.empty() && function.writes.empty());
  set_command(function, memory_on);
  EXPECT_EQ(read<std::uint32_t>(function, 0, 0x10), 0x55555555u);
  write<std::uint16_t>(function, 0, 0x12, 1);
  EXPECT_EQ(function.reads, (std::vector<BareFunction::Access>{{0, 0x10, 4}}));
  EXPECT_EQ(function.writes, (std::vector<BareFunction::Access>{{0, 0x12, 2}}));
}

TEST_F(BareFunctionTest, AccessesOutsideTheRegionsAreRefused) {
  ASSERT_TRUE(function.add_bar(0, {.size = 0x100, .areas = {}}));
  set_command(function, memory_on);
  std::byte bytes[8];
  EXPECT_EQ(function.read_region(0, 0xFC, bytes).error().code(), EINVAL);
  EXPECT_EQ(function.write_region(0, UINT64_MAX, bytes).error().code(), EINVAL);
  for (const unsigned region : {1u, region::rom, region::vga, 9u, UINT_MAX}) {
    EXPECT_EQ(function.read_region(region, 0, bytes).error().code(), EINVAL);
    EXPECT_EQ(function.write_region(region, 0, bytes).error().code(), EINVAL);
    EXPECT_EQ(function.region(region).size, 0u);
  }
  EXPECT_EQ(function.read_region(region::config, function.region(region::config).size - 4, bytes).error().code(),
            EINVAL);
  EXPECT_EQ(function.write_region(region::config, UINT64_MAX, bytes).error().code(), EINVAL);
}

// Mapped areas

class AreaTest : public BareFunctionTest {
 protected:
  AreaTest() {
    EXPECT_TRUE(function.add_bar(
        0, {.size = 0x80000, .areas = {{.offset = 0x10000, .size = 0x10000}, {.offset = 0x40000, .size = 0x20000}}}));
    set_command(function, memory_on);
  }
};

TEST_F(AreaTest, AreBackedByASealedFileThatTheClientCanMap) {
  const RegionInfo info = function.region(0);
  ASSERT_EQ(info.areas.size(), 2u);
  ASSERT_NE(info.fd, nullptr);
  EXPECT_EQ(::ftruncate(info.fd->get(), 0), -1) << "nobody can shrink it";
  EXPECT_NE(::fcntl(info.fd->get(), F_GET_SEALS) & F_SEAL_SHRINK, 0);
  void* mapped = ::mmap(nullptr, 0x20000, PROT_READ | PROT_WRITE, MAP_SHARED, info.fd->get(),
                        static_cast<off_t>(info.fd_offset + info.areas[1].offset));
  ASSERT_NE(mapped, MAP_FAILED);
  static_cast<char*>(mapped)[5] = 'x';
  EXPECT_EQ(function.area(0, 1)[5], std::byte{'x'});
  EXPECT_EQ(read<std::uint8_t>(function, 0, 0x40005), 'x');
  ::munmap(mapped, 0x20000);
}

TEST_F(AreaTest, AWriteByCallIsInTheMemoryAndTheDeviceIsTold) {
  write<std::uint32_t>(function, 0, 0x10004, 0x01020304);
  EXPECT_EQ(function.area(0, 0)[4], std::byte{4});
  EXPECT_EQ(function.area_writes, (std::vector<BareFunction::Access>{{0, 0x10004, 4}}));
  EXPECT_TRUE(function.writes.empty());
  EXPECT_EQ(read<std::uint32_t>(function, 0, 0x10004), 0x01020304u);
  EXPECT_EQ(read<std::uint16_t>(function, 0, 0x10005), 0x0203u) << "unaligned";
}

TEST_F(AreaTest, AnAccessAcrossABorderIsCut) {
  write<std::uint64_t>(function, 0, 0x0FFFC, 0x1111111122222222);
  EXPECT_EQ(function.writes, (std::vector<BareFunction::Access>{{0, 0x0FFFC, 4}}));
  EXPECT_EQ(function.area_writes, (std::vector<BareFunction::Access>{{0, 0x10000, 4}}));
  EXPECT_EQ(read<std::uint64_t>(function, 0, 0x1FFFC), 0x5555555500000000u);
}

TEST_F(AreaTest, ThereAreNoOthers) {
  EXPECT_TRUE(function.area(0, 2).empty());
  EXPECT_TRUE(function.area(1, 0).empty());
  EXPECT_TRUE(function.area(99, 0).empty());
}

// Capabilities

TEST_F(BareFunctionTest, AnExpressFunctionIsAnEndpointWithPowerManagement) {
  EXPECT_EQ(function.region(region::config).size, 4096u);
  const auto express = find_capability(function, capability_id::express);
  EXPECT_EQ(config16(function, express + 2), 0x0002);
  EXPECT_NE(config32(function, express + 4) & 1u << 28, 0u);
  find_capability(function, capability_id::power_management);
}

TEST_F(BareFunctionTest, AConventionalFunctionHas256Bytes) {
  BareFunction conventional(loop, false);
  EXPECT_EQ(conventional.region(region::config).size, 256u);
  EXPECT_EQ(read<std::uint8_t>(conventional, region::config, 0x34), 0);
}

TEST_F(BareFunctionTest, MsixHasItsTableAndPendingBitsInTheBar) {
  ASSERT_TRUE(function.add_bar(4, {.size = 0x10000, .areas = {}}));
  ASSERT_TRUE(function.add_msix(65, 4, 0x1000, 0x8000));
  const auto at = find_capability(function, capability_id::msix);
  EXPECT_EQ(config16(function, at + 2), 64);
  EXPECT_EQ(config32(function, at + 4), 0x1004u);
  EXPECT_EQ(config32(function, at + 8), 0x8004u);
  write<std::uint16_t>(function, region::config, at + 2, 0x3FFF);
  EXPECT_EQ(config16(function, at + 2), 64) << "only Enable and Function Mask can be written";
  EXPECT_EQ(function.interrupts(msix).count, 65u);

  set_command(function, memory_on);
  EXPECT_EQ(read<std::uint32_t>(function, 4, 0x100C), 1u);
  EXPECT_EQ(read<std::uint64_t>(function, 4, 0x8008), 0u);
  write<std::uint64_t>(function, 4, 0x8000, UINT64_MAX);
  EXPECT_EQ(read<std::uint64_t>(function, 4, 0x8000), 0u);
  EXPECT_TRUE(function.reads.empty() && function.writes.empty()) << "the device never sees them";
  EXPECT_EQ(read<std::uint32_t>(function, 4, 0x1000 + 65 * 16), 0x55555555u);
}

TEST_F(BareFunctionTest, MsixThatDoesNotFitIsRefused) {
  ASSERT_TRUE(function.add_bar(0, {.size = 0x40000, .areas = {{.offset = 0x10000, .size = 0x10000}}}));
  EXPECT_FALSE(function.add_msix(0, 0, 0, 0x1000));
  EXPECT_FALSE(function.add_msix(2049, 0, 0x20000, 0x1000));
  EXPECT_FALSE(function.add_msix(4, 1, 0, 0x1000)) << "no such BAR";
  EXPECT_FALSE(function.add_msix(4, 0, 4, 0x1000)) << "not 8-byte aligned";
  EXPECT_FALSE(function.add_msix(4, 0, 0x3FFF8, 0x1000)) << "out of the BAR";
  EXPECT_FALSE(function.add_msix(4, 0, 0, 0x38)) << "over each other";
  EXPECT_FALSE(function.add_msix(4, 0, 0x10000, 0)) << "in a mapped area";
  EXPECT_EQ(function.interrupts(msix).count, 0u);
  EXPECT_TRUE(function.add_msix(2048, 0, 0x20000, 0));
  EXPECT_FALSE(function.add_msix(4, 0, 0x100, 0x200)) << "there is one already";
}

TEST_F(BareFunctionTest, MsiOffersWhatItHas) {
  EXPECT_FALSE(function.add_msi(3));
  EXPECT_FALSE(function.add_msi(64));
  EXPECT_FALSE(function.add_msi(0));
  ASSERT_TRUE(function.add_msi(8));
  const auto at = find_capability(function, capability_id::msi);
  EXPECT_EQ(config16(function, at + 2), 0x0186);
  write<std::uint16_t>(function, region::config, at + 2, 0xFFFF);
  EXPECT_EQ(config16(function, at + 2), 0x01B7) << "no more messages than it is capable of";
  write<std::uint32_t>(function, region::config, at + 4, 0xFFFFFFFF);
  EXPECT_EQ(config32(function, at + 4), 0xFFFFFFFCu);
  write<std::uint32_t>(function, region::config, at + 0x10, 0xFFFFFFFF);
  EXPECT_EQ(config32(function, at + 0x10), 0xFFu);
  EXPECT_EQ(function.interrupts(msi).count, 8u);
}

TEST_F(BareFunctionTest, IntxShowsInPinAndInfo) {
  EXPECT_EQ(read<std::uint8_t>(function, region::config, 0x3D), 0);
  ASSERT_TRUE(function.add_intx());
  EXPECT_EQ(read<std::uint8_t>(function, region::config, 0x3D), 1);
  EXPECT_EQ(function.interrupts(intx).count, 1u);
}

TEST_F(BareFunctionTest, BusMasterChangesAreToldOnce) {
  set_command(function, bus_master_on);
  set_command(function, bus_master_on);
  set_command(function, 0);
  EXPECT_EQ(function.bus_master_changes, (std::vector{true, false}));
}

// Interrupts, power, reset: on a function with everything

class PlainFunctionTest : public ::testing::Test {
 protected:
  explicit PlainFunctionTest(const PlainFunction::Options& options = {})
      : function_(std::move(*PlainFunction::create(loop, Log(), options))) {}

  PlainFunction& function() { return *function_; }
  std::uint32_t reg(std::uint64_t offset) { return read<std::uint32_t>(function(), 0, offset); }
  void set_reg(std::uint64_t offset, std::uint32_t value) { write<std::uint32_t>(function(), 0, offset, value); }
  void start() { set_command(function(), memory_on | bus_master_on); }
  Status bind(InterruptKind kind, unsigned vector, const EventFd& line) {
    std::vector<EventFd> list;
    list.push_back(line.duplicate().value());
    return function().bind_interrupts(kind, vector, std::move(list));
  }
  void set_power_state(std::uint16_t state) {
    write<std::uint16_t>(function(), region::config, find_capability(function(), capability_id::power_management) + 4,
                         state);
  }
  void request_flr() {
    write<std::uint16_t>(function(), region::config, find_capability(function(), capability_id::express) + 8, 0x8000);
  }
  unsigned reset() {
    unsigned completions = 0;
    function().reset([&](Status status) {
      EXPECT_TRUE(status);
      ++completions;
    });
    return completions;
  }

  testing::ManualLoop loop;
  EventFd fd = std::move(*EventFd::create());

 private:
  std::unique_ptr<PlainFunction> function_;
};

TEST_F(PlainFunctionTest, RegistersAreReached) {
  start();
  EXPECT_EQ(reg(PlainFunction::id_at), PlainFunction::id_value);
  set_reg(PlainFunction::scratch_at, 0xCAFE);
  EXPECT_EQ(reg(PlainFunction::scratch_at), 0xCAFEu);
  set_reg(PlainFunction::doorbell_at, 7);
  EXPECT_EQ(function().last_doorbell(), 7u);
  EXPECT_EQ(function().doorbell_count(), 1u);
}

TEST_F(PlainFunctionTest, StatusShowsTheIntxLevelEvenWhenItIsDisabled) {
  start();
  set_reg(PlainFunction::intx_at, 1);
  EXPECT_NE(config16(function(), 6) & 0x08, 0);
  set_command(function(), memory_on | intx_off);
  EXPECT_NE(config16(function(), 6) & 0x08, 0);
  set_reg(PlainFunction::intx_at, 0);
  EXPECT_EQ(config16(function(), 6) & 0x08, 0);
}

TEST_F(PlainFunctionTest, CommandInterruptDisableHoldsIntxBack) {
  ASSERT_TRUE(bind(intx, 0, fd));
  set_command(function(), memory_on | intx_off);
  set_reg(PlainFunction::intx_at, 1);
  EXPECT_EQ(fd.drain(), 0u);
  set_command(function(), memory_on);
  EXPECT_EQ(fd.drain(), 1u);
}

TEST_F(PlainFunctionTest, MessagesNeedBusMastering) {
  ASSERT_TRUE(bind(msix, 1, fd));
  set_command(function(), memory_on);
  set_reg(PlainFunction::signal_msix_at, 1);
  EXPECT_EQ(fd.drain(), 0u);
  EXPECT_EQ(reg(PlainFunction::msix_pba_at), 0b10u);
  start();
  EXPECT_EQ(fd.drain(), 1u);
  EXPECT_EQ(reg(PlainFunction::msix_pba_at), 0u);
}

TEST_F(PlainFunctionTest, ADriverCanMaskInTheTable) {
  start();
  ASSERT_TRUE(bind(msix, 0, fd));
  const auto at = find_capability(function(), capability_id::msix);
  write<std::uint16_t>(function(), region::config, at + 2, 0x8000);
  write<std::uint32_t>(function(), 0, PlainFunction::msix_table_at + 12, 1);
  set_reg(PlainFunction::signal_msix_at, 0);
  EXPECT_EQ(fd.drain(), 0u);
  write<std::uint32_t>(function(), 0, PlainFunction::msix_table_at + 12, 0);
  EXPECT_EQ(fd.drain(), 1u);

  write<std::uint16_t>(function(), region::config, at + 2, 0xC000);
  set_reg(PlainFunction::signal_msix_at, 0);
  EXPECT_EQ(fd.drain(), 0u) << "function mask";
  write<std::uint16_t>(function(), region::config, at + 2, 0x8000);
  EXPECT_EQ(fd.drain(), 1u);
}

TEST_F(PlainFunctionTest, MsiMaskAndPendingAreRegisters) {
  start();
  ASSERT_TRUE(bind(msi, 2, fd));
  const auto at = find_capability(function(), capability_id::msi);
  write<std::uint32_t>(function(), region::config, at + 0x10, 0b0100);
  set_reg(PlainFunction::signal_msi_at, 2);
  EXPECT_EQ(fd.drain(), 0u);
  EXPECT_EQ(config32(function(), at + 0x14), 0b0100u);
  write<std::uint32_t>(function(), region::config, at + 0x10, 0);
  EXPECT_EQ(fd.drain(), 1u);
  EXPECT_EQ(config32(function(), at + 0x14), 0u);
}

/// What QEMU does when its guest enables MSI-X.
TEST_F(PlainFunctionTest, QemusWayToEnableMsixWorks) {
  start();
  const EventFd intx_fd = std::move(*EventFd::create());
  ASSERT_TRUE(bind(intx, 0, intx_fd));
  const auto at = find_capability(function(), capability_id::msix);
  write<std::uint16_t>(function(), region::config, at + 2, 0x8000);
  EXPECT_FALSE(bind(msix, 0, fd)) << "INTx is bound still";
  ASSERT_TRUE(function().disable_interrupts(intx));
  std::vector<EventFd> none(1);
  ASSERT_TRUE(function().bind_interrupts(msix, 0, std::move(none)));
  set_reg(PlainFunction::signal_msix_at, 3);
  ASSERT_TRUE(bind(msix, 3, fd));
  EXPECT_EQ(fd.drain(), 1u);
}

// Power management

TEST_F(PlainFunctionTest, InD3hotNothingIsDecodedOrSent) {
  start();
  ASSERT_TRUE(bind(msix, 0, fd));
  set_reg(PlainFunction::scratch_at, 1);
  set_power_state(3);
  EXPECT_FALSE(function().bus_master());
  EXPECT_EQ(reg(PlainFunction::id_at), 0xFFFFFFFFu);
  set_reg(PlainFunction::doorbell_at, 1);
  EXPECT_EQ(function().doorbell_count(), 0u) << "what is written is dropped";
  function().interrupts().signal_msix(0);
  EXPECT_EQ(fd.drain(), 0u);
  EXPECT_NE(config32(function(), 0), 0xFFFFFFFFu) << "configuration space answers";
}

TEST_F(PlainFunctionTest, TheWayBackFromD3hotIsAReset) {
  start();
  set_power_state(3);
  EXPECT_EQ(function().resets(), 0u);
  set_power_state(0);
  EXPECT_EQ(function().resets(), 1u);
  EXPECT_EQ(config16(function(), 4), 0);
}

TEST_F(PlainFunctionTest, PowerStatesThatAreNotThereAreDiscarded) {
  start();
  const auto at = find_capability(function(), capability_id::power_management) + 4;
  set_power_state(1);
  EXPECT_EQ(config16(function(), at), 0);
  set_power_state(3);
  set_power_state(2);
  EXPECT_EQ(config16(function(), at), 3);
  EXPECT_EQ(function().resets(), 0u);
}

// Reset: docs/spec-map.md, CFG-19

TEST_F(PlainFunctionTest, ResetReturnsRegistersToTheirDefaults) {
  start();
  const auto msix_at = find_capability(function(), capability_id::msix);
  const auto msi_at = find_capability(function(), capability_id::msi);
  write<std::uint32_t>(function(), region::config, 0x10, 0xFEBC0000);
  write<std::uint8_t>(function(), region::config, 0x3C, 11);
  write<std::uint16_t>(function(), region::config, msix_at + 2, 0xC000);
  write<std::uint16_t>(function(), region::config, msi_at + 2, 0x0001);
  write<std::uint32_t>(function(), 0, PlainFunction::msix_table_at, 0xFEE00000);
  set_reg(PlainFunction::scratch_at, 5);
  set_reg(PlainFunction::intx_at, 1);

  EXPECT_EQ(reset(), 1u);

  EXPECT_EQ(config16(function(), 4), 0);
  EXPECT_EQ(config32(function(), 0x10), 0u);
  EXPECT_EQ(read<std::uint8_t>(function(), region::config, 0x3C), 0);
  EXPECT_EQ(config16(function(), msix_at + 2) & 0xC000, 0);
  EXPECT_EQ(config16(function(), msi_at + 2) & 1, 0);
  EXPECT_EQ(config16(function(), 6), 0x10);
  set_command(function(), memory_on);
  EXPECT_EQ(read<std::uint32_t>(function(), 0, PlainFunction::msix_table_at), 0u);
  EXPECT_EQ(read<std::uint32_t>(function(), 0, PlainFunction::msix_table_at + 12), 1u);
  EXPECT_EQ(reg(PlainFunction::scratch_at), 0u);
  EXPECT_FALSE(function().bus_master());
}

TEST_F(PlainFunctionTest, ResetKeepsBindingsAndMappings) {
  start();
  ASSERT_TRUE(bind(msix, 0, fd));
  std::byte bytes[4096] = {};
  ASSERT_TRUE(function().map({.range = {memory::Iova{0x10000}, sizeof bytes},
                              .memory = memory::HostMemory::borrowed(bytes),
                              .port = nullptr}));
  reset();
  EXPECT_EQ(function().memory().current()->mapping_count(), 1u);
  start();
  EXPECT_EQ(fd.drain(), 0u);
  set_reg(PlainFunction::signal_msix_at, 0);
  EXPECT_EQ(fd.drain(), 1u);
}

TEST_F(PlainFunctionTest, FunctionLevelResetIsTheSameReset) {
  start();
  set_reg(PlainFunction::scratch_at, 5);
  request_flr();
  EXPECT_EQ(function().resets(), 1u);
  EXPECT_EQ(config16(function(), 4), 0);
  const auto express = find_capability(function(), capability_id::express);
  EXPECT_EQ(config16(function(), express + 8), 0x2810) << "the bit reads as 0";
  start();
  EXPECT_EQ(reg(PlainFunction::scratch_at), 0u);
}

class SlowReset : public PlainFunctionTest {
 protected:
  SlowReset() : PlainFunctionTest({.slow_reset = true}) {}
};

TEST_F(SlowReset, CompletesWhenTheDeviceHasStopped) {
  start();
  unsigned completions = 0;
  function().reset([&](Status) { ++completions; });
  EXPECT_EQ(completions, 0u);
  function().finish_reset();
  EXPECT_EQ(completions, 1u);
}

TEST_F(SlowReset, ConfigurationSpaceIsBackAtOnceAndBarsAreNotDecodedMeanwhile) {
  start();
  request_flr();
  EXPECT_EQ(config16(function(), 4), 0);
  start();
  EXPECT_EQ(reg(PlainFunction::id_at), 0xFFFFFFFFu);
  EXPECT_FALSE(function().bus_master());
  function().finish_reset();
  EXPECT_EQ(reg(PlainFunction::id_at), PlainFunction::id_value);
  EXPECT_EQ(config16(function(), 4), memory_on | bus_master_on) << "written since, and kept";
  EXPECT_TRUE(function().bus_master());
}

TEST_F(SlowReset, WhatTheDeviceRaisesWhileItStopsIsDropped) {
  start();
  ASSERT_TRUE(bind(msix, 0, fd));
  function().reset([](Status) {});
  function().interrupts().signal_msix(0);
  function().interrupts().set_intx(true);
  function().finish_reset();
  start();
  EXPECT_EQ(fd.drain(), 0u);
  EXPECT_EQ(config16(function(), 6) & 0x08, 0);
}

TEST_F(SlowReset, AResetDuringAFunctionLevelResetJoinsIt) {
  start();
  request_flr();
  start();
  unsigned completions = 0;
  function().reset([&](Status) { ++completions; });
  EXPECT_EQ(function().resets(), 1u);
  EXPECT_EQ(config16(function(), 4), 0);
  function().finish_reset();
  EXPECT_EQ(completions, 1u);
}

TEST_F(PlainFunctionTest, ReleasingTheClientLetsGoOfWhatItBroughtAndKeepsTheDevice) {
  start();
  ASSERT_TRUE(bind(msix, 0, fd));
  std::byte bytes[4096] = {};
  ASSERT_TRUE(function().map({.range = {memory::Iova{0x10000}, sizeof bytes},
                              .memory = memory::HostMemory::borrowed(bytes),
                              .port = nullptr}));
  set_reg(PlainFunction::scratch_at, 5);
  unsigned completions = 0;
  function().release_client([&](Status status) {
    EXPECT_TRUE(status);
    ++completions;
  });
  loop.run_until_idle();
  EXPECT_EQ(completions, 1u);
  EXPECT_EQ(function().memory().current()->mapping_count(), 0u);
  EXPECT_EQ(reg(PlainFunction::scratch_at), 5u);
  EXPECT_TRUE(bind(intx, 0, fd)) << "no kind is enabled any more";
  EXPECT_EQ(config16(function(), 4) & bus_master_on, 0) << "the next client's memory is not the device's to touch yet";
}

TEST_F(PlainFunctionTest, DmaNeedsBusMasteringAndAMapping) {
  std::byte bytes[4096] = {};
  bytes[10] = std::byte{0x77};
  ASSERT_TRUE(function().map({.range = {memory::Iova{0x10000}, sizeof bytes},
                              .memory = memory::HostMemory::borrowed(bytes),
                              .port = nullptr}));
  set_command(function(), memory_on);
  set_reg(PlainFunction::dma_address_at, 0x10000);
  set_reg(PlainFunction::dma_length_at, 16);
  set_reg(PlainFunction::dma_command_at, PlainFunction::dma_from_memory);
  EXPECT_EQ(reg(PlainFunction::dma_status_at), PlainFunction::dma_failed + ENODEV);
  start();
  set_reg(PlainFunction::dma_command_at, PlainFunction::dma_from_memory);
  EXPECT_EQ(reg(PlainFunction::dma_status_at), PlainFunction::dma_done);
  EXPECT_EQ(read<std::uint8_t>(function(), 0, PlainFunction::buffer_at + 10), 0x77);
  set_reg(PlainFunction::dma_address_at, 0x90000);
  set_reg(PlainFunction::dma_command_at, PlainFunction::dma_to_memory);
  EXPECT_EQ(reg(PlainFunction::dma_status_at), PlainFunction::dma_failed + EFAULT);
}

}  // namespace
}  // namespace outboard::pci
