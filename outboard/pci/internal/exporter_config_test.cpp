#include <outboard/pci/internal/exporter_config.hpp>

#include <ostream>

#include <gtest/gtest.h>

#include <outboard/base/endian.hpp>
#include <outboard/testing/fake_handle.hpp>

// What the client of a re-exported function sees of configuration space, and what of its writes reaches the device.

namespace outboard::pci {
namespace {

using testing::FakeHandle;
using D = testing::ConfigDevice;

class ExporterConfigTest : public ::testing::Test {
 protected:
  void create() {
    auto made = ExporterConfig::create(handle);
    ASSERT_TRUE(made) << made.error().message();
    config = std::move(*made);
    device.writes.clear();
    handle.calls.clear();
  }
  void SetUp() override { create(); }

  std::uint32_t read(std::uint16_t at, unsigned width) {
    le32 value = 0;
    EXPECT_TRUE(config->read(at, as_writable_bytes_of(value).first(width)));
    return value;
  }
  void write(std::uint16_t at, unsigned width, std::uint32_t bits) {
    const le32 value = bits;
    const auto written = config->write(at, as_bytes_of(value).first(width));
    EXPECT_TRUE(written) << written.error().message();
  }

  FakeHandle handle;
  D& device = handle.config_space;
  std::unique_ptr<ExporterConfig> config;
};

struct MaskRow {
  const char* name;
  std::uint16_t at;
  unsigned width;
  std::uint32_t virt, write;  ///< ours; what a write changes
  friend std::ostream& operator<<(std::ostream& out, const MaskRow& row) { return out << row.name; }
};

class ExporterConfigRow : public ExporterConfigTest, public ::testing::WithParamInterface<MaskRow> {
 protected:
  std::uint32_t ones() const {
    return GetParam().width == 4 ? UINT32_MAX : (UINT32_C(1) << (8 * GetParam().width)) - 1;
  }
};

constexpr std::uint32_t all = UINT32_MAX;

constexpr MaskRow mask_rows[] = {
    {"Row00_VendorId", 0x00, 2, 0, 0},
    {"Row02_DeviceId", 0x02, 2, 0, 0},
    {"Row08_RevisionAndClass", 0x08, 4, 0, 0},
    {"Row0C_CacheLineSize", 0x0C, 1, 0, 0xFF},
    {"Row0D_LatencyTimer", 0x0D, 1, 0, 0xFF},
    {"Row0E_HeaderType", 0x0E, 1, 0x80, 0},
    {"Row0F_Bist", 0x0F, 1, 0, 0},
    {"Row2C_SubsystemIds", 0x2C, 4, 0, 0},
    {"Row34_CapabilitiesPointer", 0x34, 1, 0xFF, 0},
    {"Row3C_InterruptLine", 0x3C, 1, 0xFF, 0xFF},
    {"Row3D_InterruptPin", 0x3D, 1, 0xFF, 0},
    {"RowAnyCapability_Next", D::power + 1, 1, 0xFF, 0},
    {"RowPm_Capabilities", D::power + 2, 2, 0xF800, 0},
    {"RowPm_ControlStatus", D::power + 4, 2, 0x8100, 0x0003},
    {"RowVpd_Address", D::vpd + 2, 2, 0, 0xFFFF},
    {"RowVpd_Data", D::vpd + 4, 4, 0, all},
    {"RowMsi_Control", D::msi + 2, 2, 0xFFFF, 0x0031},  // no more than 8 messages
    {"RowMsi_Address", D::msi + 4, 4, all, 0xFFFFFFFC},
    {"RowMsi_UpperAddress", D::msi + 8, 4, all, all},
    {"RowMsi_Data", D::msi + 0xC, 2, 0xFFFF, 0xFFFF},
    {"RowMsi_Mask", D::msi + 0x10, 4, 0, all},
    {"RowMsi_Pending", D::msi + 0x14, 4, 0, 0},
    {"RowMsix_Control", D::msix + 2, 2, 0xC000, 0xC000},
    {"RowMsix_Table", D::msix + 4, 4, 0, 0},
    {"RowExpress_LinkControl", D::express + 0x10, 2, 0, 0},
    {"RowExpress_DeviceControl2", D::express + 0x28, 2, 0, 0xFFDF},
    {"RowAer_UncorrectableMask", D::errors + 8, 4, 0, 0x03FFF031},
    {"RowAer_UncorrectableSeverity", D::errors + 0xC, 4, 0, 0x03FFF031},
    {"RowAer_CorrectableMask", D::errors + 0x14, 4, 0, 0x0000F1C1},
    {"RowAer_Control", D::errors + 0x18, 4, 0, 0x00000140},
    {"RowAer_HeaderLog", D::errors + 0x1C, 4, 0, 0},
    {"RowExtended_Header", D::serial, 4, all, 0},
    {"RowVendor_Own", D::vendor + 4, 4, 0, all},
    {"RowDvsec_Own", D::designated + 8, 4, 0, all},
    {"RowHidden_Standard", D::hidden, 4, all, 0},
    {"RowHidden_ProcessAddressSpaceId", D::hidden_extended, 4, all, 0},
    {"RowHidden_AddressTranslation", D::translation, 4, all, 0},
    {"RowGap_Standard", D::gap, 4, all, 0},
    {"RowGap_Extended", D::gap_extended, 4, all, 0},
};

TEST_P(ExporterConfigRow, BitsThatAreNotVirtualAreTheDevices) {
  const auto& [name, at, width, virt, write_mask] = GetParam();
  const std::uint32_t before = read(at, width);
  const std::uint32_t flipped = ~device.get(at, width) & ones();
  device.put(at, width, flipped);
  EXPECT_EQ(read(at, width), (before & virt) | (flipped & ~virt & ones()));
}

TEST_P(ExporterConfigRow, OnesReachTheDeviceExceptInVirtualBits) {
  const auto& [name, at, width, virt, write_mask] = GetParam();
  const std::uint32_t before = read(at, width), hardware = device.get(at, width);
  write(at, width, ones());
  EXPECT_EQ(device.get(at, width), hardware | (write_mask & ~virt));
  EXPECT_EQ(read(at, width), before | write_mask);
}

INSTANTIATE_TEST_SUITE_P(, ExporterConfigRow, ::testing::ValuesIn(mask_rows),
                         [](const auto& each) { return std::string(each.param.name); });

// The header

TEST_F(ExporterConfigTest, CFG2_StartsWithNothingEnabled) {
  EXPECT_EQ(device.get(0x04, 2), 0u);
  EXPECT_EQ(read(0x04, 2), 0u);
  EXPECT_FALSE(config->decodes_memory());
}

TEST_F(ExporterConfigTest, CFG2_CommandIsForwardedAsSixteenBits) {
  write(0x04, 4, 0x00000402);
  ASSERT_FALSE(device.writes.empty());
  EXPECT_EQ(device.writes.front(), (D::Access{0x04, 2, 0x0402}));
  EXPECT_TRUE(config->decodes_memory());
  device.writes.clear();
  write(0x05, 1, 0x00);
  EXPECT_EQ(device.writes.front(), (D::Access{0x04, 2, 0x0002}));
}

TEST_F(ExporterConfigTest, CFG2_BusMasteringIsHeldBackUntilItIsAllowed) {
  write(0x04, 2, 0x0006);
  EXPECT_EQ(device.get(0x04, 2), 0x0002u);
  EXPECT_EQ(read(0x04, 2), 0x0006u) << "the client has it on";
  ASSERT_TRUE(config->allow_bus_master(true));
  EXPECT_EQ(device.get(0x04, 2), 0x0006u);
  write(0x05, 1, 0x04);
  EXPECT_EQ(device.get(0x04, 2), 0x0406u) << "the other byte does not change it";
  ASSERT_TRUE(config->allow_bus_master(false));
  EXPECT_EQ(device.get(0x04, 2), 0x0402u);
  EXPECT_EQ(read(0x04, 2), 0x0406u);
}

TEST_F(ExporterConfigTest, CFG2_BusMasteringThatCouldNotBeTakenAwayIsTriedAgain) {
  ASSERT_TRUE(config->allow_bus_master(true));
  write(0x04, 2, 0x0006);
  const auto size = std::exchange(handle.regions[region::config].size, 0);
  EXPECT_FALSE(config->allow_bus_master(false)) << "the device does not answer";
  handle.regions[region::config].size = size;
  EXPECT_EQ(device.get(0x04, 2), 0x0006u);
  EXPECT_TRUE(config->allow_bus_master(false));
  EXPECT_EQ(device.get(0x04, 2), 0x0002u);
}

TEST_F(ExporterConfigTest, CFG3_StatusBitsAreClearedOneByOneAndNeverByAWriteBeside) {
  device.put(0x06, 2, 0xF910);
  write(0x04, 4, 0x00000002);
  for (const auto& access : device.writes) {
    EXPECT_NE(access.at, 0x06);
    EXPECT_FALSE(access.at == 0x04 && access.size == 4);
  }
  device.writes.clear();
  write(0x06, 2, 0x8000);
  ASSERT_EQ(device.writes.size(), 1u);
  EXPECT_EQ(device.writes.front().value & 0xF900, 0x8000u);
}

TEST_F(ExporterConfigTest, CFG4_BarsBeginAtZeroAndAreSizedHere) {
  EXPECT_EQ(read(0x10, 4), 0u) << "not the host's address";
  EXPECT_EQ(read(0x18, 4), 0xCu);
  write(0x10, 4, all);
  EXPECT_EQ(read(0x10, 4), 0xFFF00000u);
  write(0x18, 4, all);
  write(0x1C, 4, all);
  EXPECT_EQ(read(0x18, 4), 0xFFFFC00Cu);
  EXPECT_EQ(read(0x1C, 4), 0xFFFFFFFFu);
  write(0x24, 4, all);
  EXPECT_EQ(read(0x24, 4), 0xFFFFFFE1u);
  write(0x14, 4, all);
  EXPECT_EQ(read(0x14, 4), 0u);
  EXPECT_TRUE(device.writes.empty());
}

TEST_F(ExporterConfigTest, CFG4_TheRomBeginsAtZeroAndIsSizedHere) {
  EXPECT_EQ(read(0x30, 4), 0u);
  write(0x30, 4, all);
  EXPECT_EQ(read(0x30, 4), 0xFFFF0001u);
  EXPECT_TRUE(device.writes.empty());
}

TEST_F(ExporterConfigTest, CFG1_TheFunctionIsTheOnlyOneOfItsDevice) {
  device.put(0x0E, 1, 0x80);
  create();
  EXPECT_EQ(read(0x0E, 1), 0u);
}

TEST_F(ExporterConfigTest, CFG5_WithoutIntxThePinReadsZero) {
  handle.irqs[0].count = 0;
  create();
  EXPECT_EQ(read(0x3D, 1), 0u);
}

// Power-on

TEST_F(ExporterConfigTest, CFG19_APowerOnTakesBackWhatAClientWroteToTheDevice) {
  device.put(D::hidden, 4, 0x00000007);  // PCI-X
  device.put(D::express + 8, 2, 0x2010);
  device.put(D::errors + 0xC, 4, 0x00062030);
  create();
  const std::vector<std::byte> before = device.bytes();
  write(0x0C, 2, 0x4010);
  write(D::hidden + 2, 2, 0x0013);
  write(D::express + 8, 2, 0x5937);
  write(D::express + 0x28, 2, 0x0009);
  for (const std::uint16_t at : {0x08, 0x0C, 0x14, 0x18}) write(D::errors + at, 4, all);
  write(D::msi + 0x10, 4, 0xFF);
  write(D::power + 4, 2, 0x0003);
  EXPECT_NE(device.bytes(), before);
  device.writes.clear();
  ASSERT_TRUE(config->power_on());
  EXPECT_EQ(device.bytes(), before);
  EXPECT_EQ(device.writes.front(), (D::Access{D::power + 4, 2, 0})) << "what sleeps may forget what it is told";
  EXPECT_EQ(device.writes.back(), (D::Access{0x04, 2, 0}));
  device.writes.clear();
  ASSERT_TRUE(config->power_on());
  EXPECT_EQ(device.writes, (std::vector{D::Access{0x04, 2, 0}})) << "what has not changed is left alone";
}

TEST_F(ExporterConfigTest, CFG19_APowerOnTouchesNoVendorsRegistersAndNoProductData) {
  write(D::vendor + 4, 4, 7);
  write(D::designated + 8, 4, 7);
  write(D::vpd + 2, 2, 4);
  write(D::vpd + 4, 4, 7);
  device.writes.clear();
  ASSERT_TRUE(config->power_on());
  EXPECT_EQ(device.writes, (std::vector{D::Access{0x04, 2, 0}}));
}

TEST_F(ExporterConfigTest, CFG19_APowerOnClearsNoErrorBits) {
  device.put(0x06, 2, 0xF910);
  device.put(D::express + 0xA, 2, 0x000F);
  device.put(D::errors + 4, 4, 0x00062031);
  write(D::express + 8, 2, 0x0010);
  device.writes.clear();
  ASSERT_TRUE(config->power_on());
  EXPECT_EQ(device.writes, (std::vector{D::Access{D::express + 8, 2, 0}, D::Access{0x04, 2, 0}}));
}

// The lists

TEST_F(ExporterConfigTest, CFG14_CapabilitiesAreNotInTheListAndCannotBeReached) {
  EXPECT_EQ(read(D::vendor + 1, 1), 0u);
  EXPECT_EQ(read(D::errors, 4) >> 20, unsigned{D::serial});
  EXPECT_EQ(read(D::designated, 4) >> 20, 0u) << "address translation is the host's";
  EXPECT_EQ(read(D::hidden, 4), 0u);
  EXPECT_EQ(read(D::translation, 4), 0u);
}

TEST_F(ExporterConfigTest, CFG15_RegistersInGapsAreOutOfReach) {
  device.put(D::gap, 4, 0xDEADBEEF);
  EXPECT_EQ(read(D::gap, 4), 0u);
  write(D::gap, 4, 1);
  EXPECT_TRUE(device.writes.empty());
}

TEST_F(ExporterConfigTest, CFG16_AListThatLoopsIsCut) {
  device.put(D::vendor + 1, 1, D::msi);
  create();
  EXPECT_TRUE(config->map().broken_list());
  EXPECT_EQ(read(D::vendor + 1, 1), 0u);
}

TEST_F(ExporterConfigTest, CFG16_AVendorCapabilityThatClaimsEverythingGetsWhatIsLeft) {
  device.put(D::vendor + 2, 1, 0xFF);
  create();
  write(D::power + 2, 2, 0);
  write(0xFC, 4, 5);
  EXPECT_EQ(device.get(0xFC, 4), 5u) << "it is the last one, and reaches to the end";
  EXPECT_EQ(read(0x100, 2), 1u) << "and no further";
}

// A device can have two capabilities of one id, the first of them cut off by the end of its space: the register is that of
// the one that was written.

TEST_F(ExporterConfigTest, CFG16_OfTwoPowerManagementsTheOneThatIsWrittenMoves) {
  device.put(0x34, 1, 0xFC);
  device.put(0xFC, 4, 0x00000001 | D::power << 8);
  device.put(D::power + 4, 2, 0x0008);
  create();
  write(D::power + 4, 2, 0x0003);
  EXPECT_EQ(device.get(D::power + 4, 2), 0x000Bu);
  write(0x04, 2, 0x0002);
  EXPECT_FALSE(config->decodes_memory());
  write(D::power + 4, 2, 0x0000);
  EXPECT_TRUE(config->decodes_memory());
}

TEST_F(ExporterConfigTest, CFG16_OfTwoExpressesTheOneThatIsWrittenResets) {
  device.put(0x34, 1, 0xFC);
  device.put(0xFC, 4, 0x00020010 | D::power << 8);
  create();
  unsigned restarts = 0;
  config->on_restart([&] { ++restarts; });
  write(D::express + 8, 2, 0x8000);
  EXPECT_NE(std::ranges::find(device.writes, D::Access{D::express + 8, 2, 0x8000}), device.writes.end());
  EXPECT_EQ(restarts, 1u);
}

TEST_F(ExporterConfigTest, CFG16_OfTwoAdvancedFeaturesTheOneThatIsWrittenResets) {
  device.put(0x34, 1, 0xFC);
  device.put(0xFC, 4, 0x03060013 | D::power << 8);
  create();
  write(D::features + 4, 1, 1);
  EXPECT_EQ(device.writes.back(), (D::Access{0x04, 2, 0}));
  EXPECT_NE(std::ranges::find(device.writes, D::Access{D::features + 4, 1, 1}), device.writes.end());
}

TEST_F(ExporterConfigTest, CFG16_OfTwoMsisTheOneThatIsWrittenIsClamped) {
  device.put(0x34, 1, 0xFC);
  device.put(0xFC, 4, 0x00060005 | D::power << 8);
  create();
  write(D::msi + 2, 2, 0x0071);
  EXPECT_EQ(read(D::msi + 2, 2), 0x01B7u);
  write(0xFE, 2, 0x0071);
  EXPECT_EQ(read(0xFE, 2), 0x0037u);
}

TEST_F(ExporterConfigTest, CFG13_AccessesKeepTheirWidth) {
  write(D::vendor + 4, 4, 0x01020304);
  write(D::vendor + 4, 2, 0x0506);
  write(D::vendor + 5, 1, 0x07);
  EXPECT_EQ(device.writes, (std::vector{D::Access{D::vendor + 4, 4, 0x01020304}, D::Access{D::vendor + 4, 2, 0x0506},
                                        D::Access{D::vendor + 5, 1, 0x07}}));
}

// Interrupts, reset, power

TEST_F(ExporterConfigTest, CFG8_ControlIsRememberedAndNeverForwarded) {
  write(D::msi + 2, 2, 0x0071);
  EXPECT_EQ(read(D::msi + 2, 2), 0x01B7u) << "no more messages than there are";
  write(D::msix + 2, 2, 0xC000);
  EXPECT_EQ(read(D::msix + 2, 2), 0xC007u);
  EXPECT_TRUE(device.writes.empty());
}

TEST_F(ExporterConfigTest, CFG8_WhetherVectorsHaveMaskBitsIsTheDevicesWord) {
  EXPECT_TRUE(config->msi_maskable());
  device.put(D::msi + 2, 2, 0x0086);
  create();
  EXPECT_FALSE(config->msi_maskable());
}

TEST_F(ExporterConfigTest, CFG10_FunctionLevelResetStopsDmaAndIsForwarded) {
  unsigned restarts = 0;
  config->on_restart([&] { ++restarts; });
  ASSERT_TRUE(config->allow_bus_master(true));
  write(0x04, 2, 0x0006);
  write(0x10, 4, 0xFEB00000);
  device.writes.clear();
  write(D::express + 8, 2, 0xA810);
  ASSERT_GE(device.writes.size(), 3u);
  const auto reset = std::ranges::find(device.writes, D::Access{D::express + 8, 2, 0xA810});
  ASSERT_NE(reset, device.writes.end());
  EXPECT_NE(std::find(device.writes.begin(), reset, D::Access{0x04, 2, 0x0002}), reset) << "bus mastering off first";
  EXPECT_EQ(device.writes.back(), (D::Access{0x04, 2, 0}));
  EXPECT_EQ(read(0x04, 2), 0u);
  EXPECT_EQ(read(0x10, 4), 0u);
  EXPECT_EQ(restarts, 1u);
}

TEST_F(ExporterConfigTest, CFG10_WithoutFunctionLevelResetTheBitIsDropped) {
  device.put(D::express + 4, 4, 0);
  write(D::express + 8, 2, 0x8000);
  EXPECT_EQ(device.get(D::express + 8, 2) & 0x8000, 0u);
}

TEST_F(ExporterConfigTest, CFG10_DeviceControlLeavesTheStatusBesideAlone) {
  device.put(D::express + 0xA, 2, 0x000F);
  write(D::express + 8, 4, 0x00002810);
  for (const auto& access : device.writes) {
    if (access.at >= D::express + 0xA) {
      EXPECT_EQ(access.value & 0xF, 0u);
    }
  }
  EXPECT_EQ(device.get(D::express + 8, 2), 0x2810u);
  device.writes.clear();
  write(D::express + 0xA, 2, 0x0004);
  ASSERT_EQ(device.writes.size(), 1u);
  EXPECT_EQ(device.writes.front().value & 0xF, 0x4u);
}

TEST_F(ExporterConfigTest, CFG11_FunctionLevelResetIsForwarded) {
  write(0x04, 2, 0x0002);
  write(D::features + 4, 1, 1);
  EXPECT_EQ(device.get(D::features + 4, 1), 1u);
  EXPECT_EQ(read(0x04, 2), 0u);
}

TEST_F(ExporterConfigTest, CFG6_InD3hotNothingIsDecoded) {
  device.put(D::power + 4, 2, 0x0008);  // no soft reset
  write(0x04, 2, 0x0002);
  write(D::power + 4, 2, 0x0003);
  EXPECT_EQ(device.get(D::power + 4, 2), 0x000Bu);
  EXPECT_FALSE(config->decodes_memory());
  write(D::power + 4, 2, 0x0000);
  EXPECT_TRUE(config->decodes_memory());
  EXPECT_EQ(read(0x04, 2), 0x0002u);
}

TEST_F(ExporterConfigTest, CFG6_TheWayBackFromD3hotIsAReset) {
  write(0x04, 2, 0x0002);
  write(D::power + 4, 2, 0x0003);
  write(D::power + 4, 2, 0x0000);
  EXPECT_FALSE(config->decodes_memory());
  EXPECT_EQ(read(0x04, 2), 0u);
}

TEST_F(ExporterConfigTest, CFG12_StatusBitsAreClearedOneByOne) {
  device.put(D::errors + 4, 4, 0x00062031);
  write(D::errors + 4, 4, 0x00002000);
  EXPECT_EQ(device.writes.back().value & 0x03FFF031, 0x00002000u);
}

TEST_F(ExporterConfigTest, CFG16_AFunctionThatDoesNotAnswerIsRefused) {
  std::ranges::fill(device.bytes(), std::byte{0xFF});
  EXPECT_EQ(ExporterConfig::create(handle).error().code(), ENODEV);
}

TEST_F(ExporterConfigTest, CFG16_ABarOfOddSizeIsRefused) {
  handle.regions[0].size = 0x3000;
  EXPECT_EQ(ExporterConfig::create(handle).error().code(), EPROTO);
}

}  // namespace
}  // namespace outboard::pci
