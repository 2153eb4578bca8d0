#include <outboard/pci/internal/kernel_config.hpp>

#include <ostream>

#include <gtest/gtest.h>

#include <outboard/base/endian.hpp>
#include <outboard/testing/config_device.hpp>

// What Linux' vfio-pci does with configuration space, row by row: as measured and read in 7.2.12.

namespace outboard::pci {
namespace {

using testing::ConfigDevice;
using D = ConfigDevice;

constexpr KernelConfig::Facts facts{.base_sizes = {0x100000, 0, 0x200000000, 0, 0, 0x20, 0x10000}, .size = 4096};

class KernelConfigTest : public ::testing::Test {
 protected:
  void create(const KernelConfig::Facts& about = facts) {
    auto made = KernelConfig::create(device, about);
    ASSERT_TRUE(made) << made.error().message();
    config = std::move(*made);
  }
  void SetUp() override { create(); }

  std::uint32_t read(std::uint16_t at, unsigned width) {
    std::array<std::byte, 4> bytes{};
    EXPECT_TRUE(config->read(at, MutableBytes(bytes).first(width)));
    std::uint32_t value = 0;
    for (unsigned i = 0; i < width; ++i) value |= std::to_integer<std::uint32_t>(bytes[i]) << (8 * i);
    return value;
  }
  void write(std::uint16_t at, unsigned width, std::uint32_t value) {
    std::array<std::byte, 4> bytes{};
    for (unsigned i = 0; i < width; ++i) bytes[i] = static_cast<std::byte>(value >> (8 * i));
    EXPECT_TRUE(config->write(at, Bytes(bytes).first(width)));
  }

  ConfigDevice device;
  std::unique_ptr<KernelConfig> config;
};

/// A register whose bits are the kernel's (virtual) or the device's, and may be written or not.
struct MaskRow {
  const char* name;
  std::uint16_t at;
  unsigned width;
  std::uint32_t virt, write;
  friend std::ostream& operator<<(std::ostream& out, const MaskRow& row) { return out << row.name; }
};

class KernelConfigRow : public KernelConfigTest, public ::testing::WithParamInterface<MaskRow> {
 protected:
  std::uint32_t ones() const {
    return GetParam().width == 4 ? UINT32_MAX : (UINT32_C(1) << (8 * GetParam().width)) - 1;
  }
};

constexpr MaskRow mask_rows[] = {
    {"Row00_VendorId", 0x00, 2, 0xFFFF, 0},
    {"Row02_DeviceId", 0x02, 2, 0xFFFF, 0},
    {"Row06_Status", 0x06, 2, 0x0010, 0},
    {"Row08_RevisionAndClass", 0x08, 4, 0, 0},
    {"Row0C_CacheLineSize", 0x0C, 1, 0, 0xFF},
    {"Row0D_LatencyTimer", 0x0D, 1, 0, 0xFF},
    {"Row0E_HeaderType", 0x0E, 1, 0, 0},
    {"Row0F_Bist", 0x0F, 1, 0, 0xFF},
    {"Row28_CisPointer", 0x28, 4, 0, 0},
    {"Row2C_SubsystemIds", 0x2C, 4, 0, 0},
    {"Row34_CapabilitiesPointer", 0x34, 1, 0xFF, 0},
    {"Row35_Reserved", 0x35, 1, 0, 0},
    {"Row38_Reserved", 0x38, 4, 0, 0},
    {"Row3C_InterruptLine", 0x3C, 1, 0xFF, 0xFF},
    {"Row3D_InterruptPin", 0x3D, 1, 0xFF, 0},
    {"Row3E_MinGntMaxLat", 0x3E, 2, 0, 0},
    {"RowAnyCapability_Id", D::power, 1, 0, 0},
    {"RowAnyCapability_Next", D::power + 1, 1, 0xFF, 0},
    {"RowPm_Capabilities", D::power + 2, 2, 0xF800, 0},
    {"RowPm_ControlStatus", D::power + 4, 4, 0x00008100, 0xFFFF7EFC},
    {"RowVpd_Data", D::vpd + 4, 4, UINT32_MAX, UINT32_MAX},
    {"RowMsi_Address", D::msi + 4, 4, UINT32_MAX, UINT32_MAX},
    {"RowMsi_UpperAddress", D::msi + 8, 4, UINT32_MAX, UINT32_MAX},
    {"RowMsi_Data", D::msi + 0xC, 2, 0xFFFF, 0xFFFF},
    {"RowMsi_Mask", D::msi + 0x10, 4, 0, UINT32_MAX},
    {"RowMsi_Pending", D::msi + 0x14, 4, 0, 0},
    {"RowExpress_DeviceStatus", D::express + 0xA, 2, 0, 0},
    {"RowExpress_LinkControl", D::express + 0x10, 2, 0, 0},
    {"RowExpress_DeviceControl2", D::express + 0x28, 2, 0, 0xFFDF},
    {"RowMsix_Control", D::msix + 2, 2, 0, 0},
    {"RowMsix_Table", D::msix + 4, 4, 0, 0},
    {"RowAer_UncorrectableStatus", D::errors + 4, 4, 0, 0x03FFF031},
    {"RowAer_UncorrectableMask", D::errors + 8, 4, 0, 0x03FFF031},
    {"RowAer_UncorrectableSeverity", D::errors + 0xC, 4, 0, 0x03FFF031},
    {"RowAer_CorrectableStatus", D::errors + 0x10, 4, 0, 0x0000F1C1},
    {"RowAer_CorrectableMask", D::errors + 0x14, 4, 0, 0x0000F1C1},
    {"RowAer_Control", D::errors + 0x18, 4, 0, 0x00000140},
    {"RowAer_HeaderLog", D::errors + 0x1C, 4, 0, 0},
    {"RowExtended_Header", D::serial, 4, UINT32_MAX, 0},
    {"RowExtended_Serial", D::serial + 4, 4, 0, 0},
    {"RowExtended_TranslationServices", D::translation + 4, 4, 0, 0},
};

TEST_P(KernelConfigRow, BitsThatAreNotVirtualAreTheDevices) {
  const auto& [name, at, width, virt, write_mask] = GetParam();
  const std::uint32_t before = read(at, width);
  const std::uint32_t flipped = ~device.get(at, width) & ones();
  device.put(at, width, flipped);
  EXPECT_EQ(read(at, width), (before & virt) | (flipped & ~virt & ones()));
}

TEST_P(KernelConfigRow, OnesReachTheDeviceExceptInVirtualBits) {
  const auto& [name, at, width, virt, write_mask] = GetParam();
  const std::uint32_t before = read(at, width), hardware = device.get(at, width);
  write(at, width, ones());
  EXPECT_EQ(device.get(at, width), hardware | (write_mask & ~virt));
  EXPECT_EQ(read(at, width), before | write_mask);
  write(at, width, 0);
  EXPECT_EQ(device.get(at, width), hardware & ~(write_mask & ~virt));
  EXPECT_EQ(read(at, width), before & ~write_mask);
}

INSTANTIATE_TEST_SUITE_P(, KernelConfigRow, ::testing::ValuesIn(mask_rows),
                         [](const auto& each) { return std::string(each.param.name); });

// Command

TEST_F(KernelConfigTest, CFG2_CommandReachesTheDeviceButForIntxDisable) {
  write(0x04, 2, 0x0546);
  EXPECT_EQ(device.get(0x04, 2), 0x0146u);
  EXPECT_EQ(read(0x04, 2), 0x0546u);
  EXPECT_EQ(device.intx, (std::vector{true}));
  write(0x04, 2, 0x0146);
  EXPECT_EQ(device.intx, (std::vector{true, false}));
}

TEST_F(KernelConfigTest, CFG2_MemoryOffRevokesMappingsBeforeTheDeviceHears) {
  EXPECT_TRUE(config->memory_enabled());
  write(0x04, 2, 0x0000);
  EXPECT_EQ(device.decoding, (std::vector{false}));
  EXPECT_FALSE(config->memory_enabled());
  write(0x04, 2, 0x0002);
  EXPECT_EQ(device.decoding, (std::vector{false, true}));
  EXPECT_TRUE(config->memory_enabled());
}

TEST_F(KernelConfigTest, CFG2_ADeviceThatLostItsBarsGetsThemBack) {
  device.put(0x04, 2, 0);
  device.put(0x10, 4, 0);
  device.put(0x30, 4, 0);
  write(0x04, 2, 0x0003);
  EXPECT_EQ(device.get(0x10, 4), 0xFEB00000u);
  EXPECT_EQ(device.get(0x30, 4), 0xFEA00000u);
}

// BARs

TEST_F(KernelConfigTest, CFG4_BarsAreSizedHereAndNeverReachTheDevice) {
  write(0x10, 4, 0xFFFFFFFF);
  EXPECT_EQ(read(0x10, 4), 0xFFF00000u);
  write(0x10, 4, 0xDEADBEEF);
  EXPECT_EQ(read(0x10, 4), 0xDEA00000u);
  write(0x13, 1, 0x12);
  EXPECT_EQ(read(0x10, 4), 0x12A00000u) << "byte by byte as well";
  EXPECT_EQ(device.get(0x10, 4), 0xFEB00000u);
}

TEST_F(KernelConfigTest, CFG4_ABarOf64BitsHasItsSizeInBothHalves) {
  write(0x18, 4, 0xFFFFFFFF);
  write(0x1C, 4, 0xFFFFFFFF);
  EXPECT_EQ(read(0x18, 4), 0x0000000Cu);
  EXPECT_EQ(read(0x1C, 4), 0xFFFFFFFEu);
}

TEST_F(KernelConfigTest, CFG4_AnIoBarKeepsItsFlag) {
  write(0x24, 4, 0xFFFFFFFF);
  EXPECT_EQ(read(0x24, 4), 0xFFFFFFE1u);
}

TEST_F(KernelConfigTest, CFG4_ABarThatTheHostHasNotAssignedReadsZero) {
  write(0x14, 4, 0xFFFFFFFF);
  EXPECT_EQ(read(0x14, 4), 0u);
}

TEST_F(KernelConfigTest, CFG4_TheFirstValueIsTheHostsAddress) { EXPECT_EQ(read(0x10, 4), 0xFEB00000u); }

TEST_F(KernelConfigTest, CFG4_TheRomKeepsItsEnableBit) {
  write(0x30, 4, 0xFFFFFFFF);
  EXPECT_EQ(read(0x30, 4), 0xFFFF0001u);
}

TEST_F(KernelConfigTest, CFG4_WithoutARomItReadsZero) {
  create({.base_sizes = {}, .size = 4096});
  write(0x30, 4, 0xFFFFFFFF);
  EXPECT_EQ(read(0x30, 4), 0u);
}

TEST_F(KernelConfigTest, CFG5_WithoutAnInterruptThePinReadsZero) {
  create({.base_sizes = {}, .intx = false, .size = 4096});
  EXPECT_EQ(read(0x3D, 1), 0u);
}

// Capabilities that act

TEST_F(KernelConfigTest, CFG6_StateBitsAreTheHandlersAlone) {
  write(D::power + 4, 2, 0x0003);
  EXPECT_EQ(device.states, (std::vector{3u}));
  EXPECT_EQ(device.decoding, (std::vector{false}));
  EXPECT_FALSE(config->memory_enabled());
  EXPECT_EQ(device.get(D::power + 4, 2), 0u) << "the kernel's own transition writes them";
  write(D::power + 4, 2, 0x0000);
  EXPECT_EQ(device.states, (std::vector{3u, 0u}));
  EXPECT_TRUE(config->memory_enabled());
}

TEST_F(KernelConfigTest, CFG6_AWriteThatDoesNotBeginAtTheControlRegisterMovesNothing) {
  write(D::power + 5, 1, 0x03);
  EXPECT_TRUE(device.states.empty());
}

TEST_F(KernelConfigTest, CFG7_ReadsAndThenSetsTheFlag) {
  write(D::vpd + 2, 2, 0x0004);
  EXPECT_EQ(read(D::vpd + 2, 2), 0x8004u);
  EXPECT_EQ(read(D::vpd + 4, 4), 0x22222222u);
}

TEST_F(KernelConfigTest, CFG7_WritesAndThenClearsTheFlag) {
  write(D::vpd + 4, 4, 0xCAFE);
  write(D::vpd + 2, 2, 0x8008);
  EXPECT_EQ(read(D::vpd + 2, 2), 0x0008u);
  EXPECT_EQ(device.product_data[2], 0xCAFEu);
}

TEST_F(KernelConfigTest, CFG7_OutOfRangeLeavesTheFlagAsWritten) {
  write(D::vpd + 2, 2, 0x0100);
  EXPECT_EQ(read(D::vpd + 2, 2), 0x0100u);
  write(D::vpd + 2, 2, 0x8100);
  EXPECT_EQ(read(D::vpd + 2, 2), 0x8100u);
}

TEST_F(KernelConfigTest, CFG7_ActsOnlyWhenTheFlagsByteIsWritten) {
  write(D::vpd + 2, 1, 0x04);
  EXPECT_EQ(read(D::vpd + 2, 2), 0x0004u);
}

TEST_F(KernelConfigTest, CFG8_ConfigCanSwitchItOffAndNeverOn) {
  write(D::msi + 2, 2, 0x0001);
  EXPECT_EQ(read(D::msi + 2, 1) & 1, 0u);
  config->set_msi_vectors(4);
  write(D::msi + 2, 2, 0x0071);
  EXPECT_EQ(read(D::msi + 2, 1), 0x21u) << "no more messages than were granted";
  EXPECT_EQ(device.get(D::msi + 2, 1), 0x21u);
  write(D::msi + 2, 2, 0x0000);
  EXPECT_EQ(device.get(D::msi + 2, 1) & 1, 0u);
}

TEST_F(KernelConfigTest, CFG10_FunctionLevelResetIsIntercepted) {
  write(D::express + 8, 2, 0x8000);
  EXPECT_EQ(device.resets, 1u);
  EXPECT_EQ(read(D::express + 8, 2) & 0x8000, 0u);
  device.put(D::express + 4, 4, 0);
  write(D::express + 8, 2, 0x8000);
  EXPECT_EQ(device.resets, 1u) << "a device that has none";
}

TEST_F(KernelConfigTest, CFG10_PayloadSizeIsVirtualAndReadRequestsAreNotSmaller) {
  device.put(D::express + 8, 2, 0x0020);  // payloads of 256 bytes
  write(D::express + 8, 2, 0x00E0);
  EXPECT_EQ(read(D::express + 8, 2) & 0x70E0, 0x00E0u);
  EXPECT_EQ(device.get(D::express + 8, 2), 0x1020u);
  write(D::express + 8, 2, 0x3000);
  EXPECT_EQ(device.get(D::express + 8, 2), 0x3020u);
}

TEST_F(KernelConfigTest, CFG10_PhantomFunctionsAreBlocked) {
  write(D::express + 8, 2, 0x0200);
  EXPECT_EQ(device.get(D::express + 8, 2) & 0x0200, 0u);
}

TEST_F(KernelConfigTest, CFG11_FunctionLevelResetNeedsBothBits) {
  write(D::features + 4, 1, 1);
  EXPECT_EQ(device.resets, 1u);
  EXPECT_EQ(read(D::features + 4, 1), 0u);
  device.put(D::features + 3, 1, 0x02);
  write(D::features + 4, 1, 1);
  EXPECT_EQ(device.resets, 1u);
}

TEST_F(KernelConfigTest, CFG13_IsReadAndWrittenAsItIs) {
  write(D::vendor + 4, 4, 0x12345678);
  EXPECT_EQ(device.get(D::vendor + 4, 4), 0x12345678u);
  device.put(D::vendor + 4, 4, 0x9ABCDEF0);
  EXPECT_EQ(read(D::vendor + 4, 4), 0x9ABCDEF0u);
}

TEST_F(KernelConfigTest, CFG13_DvsecIsReadAndWrittenAsItIs) {
  write(D::designated + 8, 4, 0x12345678);
  EXPECT_EQ(device.get(D::designated + 8, 4), 0x12345678u);
}

// The lists

TEST_F(KernelConfigTest, CFG14_CapabilitiesAreUnlinkedAndTheirBytesStayReachable) {
  EXPECT_EQ(read(D::vendor + 1, 1), 0u) << "the last one that is shown";
  EXPECT_EQ(read(D::hidden, 1), 0x14u);
  write(D::hidden + 4, 4, 0xFEEDF00D);
  EXPECT_EQ(device.get(D::hidden + 4, 4), 0xFEEDF00Du);
  EXPECT_EQ(read(D::errors, 4) >> 20, unsigned{D::serial}) << "PASID is left out";
}

TEST_F(KernelConfigTest, CFG14_AFirstExtendedCapabilityLeavesAnEmptyOneThatLeadsOn) {
  device.put(D::errors, 4, 0x0001001B | D::serial << 20);
  create();
  EXPECT_EQ(read(D::errors, 4), std::uint32_t{D::serial} << 20);
}

TEST_F(KernelConfigTest, CFG14_WhenNoneIsLeftTheFirstHeaderIsZero) {
  device.put(D::errors, 4, 0x0001001B);
  create();
  EXPECT_EQ(read(D::errors, 4), 0u);
}

TEST_F(KernelConfigTest, CFG15_BytesAreTheDevices) {
  write(D::gap, 4, 0x01020304);
  EXPECT_EQ(device.get(D::gap, 4), 0x01020304u);
  device.put(D::gap_extended, 2, 0x5555);
  EXPECT_EQ(read(D::gap_extended, 2), 0x5555u);
}

// Accesses are cut; and what the kernel gets wrong

TEST_F(KernelConfigTest, CFG17_AnAccessIsCutAtDwordsAndCapabilities) {
  device.writes.clear();
  std::array<std::byte, 7> bytes{};
  ASSERT_TRUE(config->write(D::gap + 1, bytes));
  ASSERT_EQ(device.writes.size(), 3u);
  EXPECT_EQ(device.writes[0], (D::Access{D::gap + 1, 1, 0}));
  EXPECT_EQ(device.writes[1], (D::Access{D::gap + 2, 2, 0}));
  EXPECT_EQ(device.writes[2], (D::Access{D::gap + 4, 4, 0}));
}

TEST_F(KernelConfigTest, CFG17_WhatIsAllVirtualDoesNotAskTheDevice) {
  device.reads = 0;
  read(D::msi + 4, 4);
  EXPECT_EQ(device.reads, 0u);
}

TEST_F(KernelConfigTest, CFG18_ADwordWriteOfCommandWritesTheStatusBackAsItWasRead) {
  device.put(0x06, 2, 0x4010);
  device.writes.clear();
  write(0x04, 4, 0x00000003);
  ASSERT_FALSE(device.writes.empty());
  EXPECT_EQ(device.writes.back(), (D::Access{0x04, 4, 0x40100003})) << "a one that clears it, in real hardware";
  device.writes.clear();
  write(0x06, 2, 0x4000);
  EXPECT_TRUE(device.writes.empty()) << "and the word alone is dropped";
}

TEST_F(KernelConfigTest, CFG18_ReadOnlyBitsOfMsiControlCanBeOverwritten) {
  write(D::msi + 2, 2, 0x000E);
  EXPECT_EQ(read(D::msi + 2, 1), 0x0Eu);
}

TEST_F(KernelConfigTest, CFG18_ThePowerBudgetSelectorCannotBeWritten) {
  device.put(D::serial, 4, 0x00010004 | D::designated << 20);
  create();
  write(D::serial + 4, 1, 0x05);
  EXPECT_EQ(device.get(D::serial + 4, 1), 0xEFu);
  write(D::serial + 8, 1, 0x05);
  EXPECT_EQ(device.get(D::serial + 8, 1), 0x05u);
}

}  // namespace
}  // namespace outboard::pci
