#include <gtest/gtest.h>

#include <array>
#include <ostream>

#include <outboard/base/endian.hpp>
#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/config_walk.hpp>
#include <outboard/pci/emulated_function.hpp>
#include <outboard/pci/registers.hpp>
#include <outboard/testing/manual_loop.hpp>

// Configuration space of a function made in software, row by row: what the specifications let be written.

namespace outboard::pci {
namespace {

/// A function with every capability there is.
class FullFunction final : public EmulatedFunction {
 public:
  class ProductData final : public VitalProductData {
   public:
    explicit ProductData(std::array<std::uint32_t, 4>& words) : words_(words) {}
    std::optional<std::uint32_t> read(std::uint16_t address) override {
      if (address / 4u >= words_.size()) return std::nullopt;
      return words_[address / 4u];
    }
    bool write(std::uint16_t address, std::uint32_t value) override {
      if (address / 4u >= words_.size()) return false;
      words_[address / 4u] = value;
      return true;
    }

   private:
    std::array<std::uint32_t, 4>& words_;
  };

  FullFunction(Loop& loop, bool express, bool no_soft_reset)
      : EmulatedFunction(loop, Log(),
                         {.vendor = 0x1234, .device = 0x5678, .express = express, .no_soft_reset = no_soft_reset}) {
    const std::array<ConfigSpace::Row, 1> own{{{.offset = 4, .width = 4, .writable = 0x00FF00FF}}};
    EXPECT_TRUE(add_bar(0, {.size = 0x100000, .areas = {}}));
    EXPECT_TRUE(add_bar(2, {.size = UINT64_C(1) << 33, .is_64bit = true, .prefetchable = true, .areas = {}}));
    config().add_expansion_rom(0x10000);
    EXPECT_TRUE(add_intx());
    EXPECT_TRUE(add_msi(8));
    EXPECT_TRUE(add_msix(8, 0, 0x1000, 0x2000));
    EXPECT_TRUE(add_vital_product_data(std::make_unique<ProductData>(product_data)));
    EXPECT_TRUE(add_advanced_features());
    const auto vendor = config().add_capability(capability_id::vendor_specific, 8, own);
    EXPECT_TRUE(vendor);
    config().on_write(*vendor + 4, 4, [this](std::uint32_t, std::uint32_t now) { vendor_writes.push_back(now); });
    if (!express) return;
    EXPECT_TRUE(
        add_error_reporting({.uncorrectable = 0x00062031, .fatal = 0x2031, .correctable = 0x31C1, .ecrc = true}));
    EXPECT_TRUE(config().add_extended_capability(extended_capability_id::designated_vendor_specific, 1, 12, {}));
  }
  using EmulatedFunction::config;

  std::array<std::uint32_t, 4> product_data{0x11111111, 0x22222222, 0x33333333, 0x44444444};
  std::vector<std::uint32_t> vendor_writes;
  unsigned resets = 0;

 protected:
  void read_bar(unsigned, std::uint64_t, MutableBytes into) override { std::ranges::fill(into, std::byte{0x55}); }
  void write_bar(unsigned, std::uint64_t, Bytes) override {}
  void reset_device(Loop::Task done) override {
    ++resets;
    done();
  }
};

class EmulatedConfig : public ::testing::Test {
 protected:
  void make(bool express = true, bool no_soft_reset = false) {
    function.emplace(loop, express, no_soft_reset);
    std::vector<std::byte> image(function->region(region::config).size);
    EXPECT_TRUE(function->read_region(region::config, 0, image));
    places.clear();
    for (const FoundCapability& found : walk_capabilities(image).found) places.push_back(found);
  }
  void SetUp() override { make(); }

  /// Where a register lies: offsets of the header stay as they are.
  std::uint16_t place(ConfigStructure structure, std::uint16_t offset) const {
    if (structure == ConfigStructure{}) return offset;
    for (const FoundCapability& found : places) {
      if (found.structure == structure) return static_cast<std::uint16_t>(found.at + offset);
    }
    ADD_FAILURE() << "no such capability";
    return 0;
  }
  static constexpr ConfigStructure standard(std::uint16_t id) { return {ConfigPart::capability, id}; }
  static constexpr ConfigStructure extended(std::uint16_t id) { return {ConfigPart::extended_capability, id}; }

  std::uint32_t read(std::uint16_t at, unsigned width) {
    le32 value = 0;
    EXPECT_TRUE(function->read_region(region::config, at, as_writable_bytes_of(value).first(width)));
    return value;
  }
  void write(std::uint16_t at, unsigned width, std::uint32_t bits) {
    const le32 value = bits;
    EXPECT_TRUE(function->write_region(region::config, at, as_bytes_of(value).first(width)));
  }

  testing::ManualLoop loop;
  std::optional<FullFunction> function;
  std::vector<FoundCapability> places;
};

struct WriteRow {
  const char* name;
  ConfigStructure structure;
  std::uint16_t offset;
  unsigned width;
  std::uint32_t write, clears;
  friend std::ostream& operator<<(std::ostream& out, const WriteRow& row) { return out << row.name; }
};

class EmulatedConfigRow : public EmulatedConfig, public ::testing::WithParamInterface<WriteRow> {};

constexpr ConfigStructure header{};
constexpr ConfigStructure cap(std::uint16_t id) { return {ConfigPart::capability, id}; }
constexpr ConfigStructure aer{ConfigPart::extended_capability, 1};

constexpr WriteRow write_rows[] = {
    {"Row00_VendorId", header, 0x00, 2, 0, 0},
    {"Row02_DeviceId", header, 0x02, 2, 0, 0},
    {"Row04_Command", header, 0x04, 2, 0x0546, 0},
    {"Row06_Status", header, 0x06, 2, 0, 0xF900},
    {"Row08_RevisionAndClass", header, 0x08, 4, 0, 0},
    {"Row0C_CacheLineSize", header, 0x0C, 1, 0xFF, 0},
    {"Row0D_LatencyTimer", header, 0x0D, 1, 0, 0},
    {"Row0E_HeaderType", header, 0x0E, 1, 0, 0},
    {"Row0F_Bist", header, 0x0F, 1, 0, 0},
    {"Row10_Bar0", header, 0x10, 4, 0xFFF00000, 0},
    {"Row14_Bar1", header, 0x14, 4, 0, 0},
    {"Row18_Bar2Lower", header, 0x18, 4, 0, 0},
    {"Row1C_Bar2Upper", header, 0x1C, 4, 0xFFFFFFFE, 0},
    {"Row28_CisPointer", header, 0x28, 4, 0, 0},
    {"Row2C_SubsystemIds", header, 0x2C, 4, 0, 0},
    {"Row30_ExpansionRom", header, 0x30, 4, 0xFFFF0001, 0},
    {"Row34_CapabilitiesPointer", header, 0x34, 1, 0, 0},
    {"Row35_Reserved", header, 0x35, 1, 0, 0},
    {"Row3C_InterruptLine", header, 0x3C, 1, 0xFF, 0},
    {"Row3D_InterruptPin", header, 0x3D, 1, 0, 0},
    {"Row3E_MinGntMaxLat", header, 0x3E, 2, 0, 0},
    {"RowPm_Capabilities", cap(0x01), 2, 2, 0, 0},
    {"RowMsi_Control", cap(0x05), 2, 2, 0x0031, 0},  // three bits for a number of vectors that is at most 8
    {"RowMsi_Address", cap(0x05), 4, 4, 0xFFFFFFFC, 0},
    {"RowMsi_UpperAddress", cap(0x05), 8, 4, 0xFFFFFFFF, 0},
    {"RowMsi_Data", cap(0x05), 0xC, 2, 0xFFFF, 0},
    {"RowMsi_Mask", cap(0x05), 0x10, 4, 0x000000FF, 0},
    {"RowMsi_Pending", cap(0x05), 0x14, 4, 0, 0},
    {"RowMsix_Control", cap(0x11), 2, 2, 0xC000, 0},
    {"RowMsix_Table", cap(0x11), 4, 4, 0, 0},
    {"RowMsix_PendingBits", cap(0x11), 8, 4, 0, 0},
    {"RowExpress_Capabilities", cap(0x10), 2, 2, 0, 0},
    {"RowExpress_DeviceCapabilities", cap(0x10), 4, 4, 0, 0},
    {"RowExpress_DeviceStatus", cap(0x10), 0xA, 2, 0, 0x000F},
    {"RowExpress_LinkControl", cap(0x10), 0x10, 2, 0x00C8, 0},
    {"RowExpress_DeviceControl2", cap(0x10), 0x28, 2, 0, 0},
    {"RowVpd_Data", cap(0x03), 4, 4, 0xFFFFFFFF, 0},
    {"RowAf_Capabilities", cap(0x13), 3, 1, 0, 0},
    {"RowVendor_Own", cap(0x09), 4, 4, 0x00FF00FF, 0},
    {"RowAer_UncorrectableStatus", aer, 0x04, 4, 0, 0x00062031},
    {"RowAer_UncorrectableMask", aer, 0x08, 4, 0x00062031, 0},
    {"RowAer_UncorrectableSeverity", aer, 0x0C, 4, 0x00062031, 0},
    {"RowAer_CorrectableStatus", aer, 0x10, 4, 0, 0x31C1},
    {"RowAer_CorrectableMask", aer, 0x14, 4, 0x31C1, 0},
    {"RowAer_Control", aer, 0x18, 4, 0x0140, 0},
    {"RowAer_HeaderLog", aer, 0x1C, 4, 0, 0},
};

TEST_P(EmulatedConfigRow, OnlyTheBitsOfTheTableCanBeWritten) {
  const WriteRow& row = GetParam();
  const std::uint16_t at = place(row.structure, row.offset);
  const std::uint32_t before = read(at, row.width);
  write(at, row.width, UINT32_MAX);
  EXPECT_EQ(read(at, row.width), (before & ~row.clears) | row.write);
  write(at, row.width, 0);
  EXPECT_EQ(read(at, row.width), before & ~row.write & ~row.clears);
}

TEST_P(EmulatedConfigRow, OnesClearTheBitsThatTheyClearAndNoOthers) {
  const WriteRow& row = GetParam();
  const std::uint16_t at = place(row.structure, row.offset);
  const ConfigOffset place{at};
  const auto width = static_cast<std::uint8_t>(row.width);
  function->config().set(place, width, function->config().get(place, width) | row.clears);
  const std::uint32_t before = read(at, row.width);
  write(at, row.width, before & ~row.clears);
  EXPECT_EQ(read(at, row.width) & row.clears, row.clears);
  const std::uint32_t lowest = row.clears & (~row.clears + 1);
  write(at, row.width, lowest);
  EXPECT_EQ(read(at, row.width) & row.clears, row.clears & ~lowest);
}

INSTANTIATE_TEST_SUITE_P(, EmulatedConfigRow, ::testing::ValuesIn(write_rows),
                         [](const auto& each) { return std::string(each.param.name); });

TEST_F(EmulatedConfig, CFG3_StatusShowsTheCapabilities) { EXPECT_EQ(read(0x06, 2), 0x0010u); }

TEST_F(EmulatedConfig, CFG1_AConventionalFunctionHasALatencyTimer) {
  make(false);
  write(0x0D, 1, 0x40);
  EXPECT_EQ(read(0x0D, 1), 0x40u);
}

TEST_F(EmulatedConfig, CFG1_HeadersCannotBeWritten) {
  for (const FoundCapability& found : places) {
    const unsigned width = found.structure.part == ConfigPart::capability ? 2 : 4;
    const std::uint32_t before = read(found.at, width);
    write(found.at, width, ~before);
    EXPECT_EQ(read(found.at, width), before) << found.at;
  }
}

TEST_F(EmulatedConfig, CFG6_OnlyD0AndD3hotAreTaken) {
  const auto at = place(standard(0x01), 4);
  write(at, 2, 0xFFFF);
  EXPECT_EQ(read(at, 2), 0x0003u) << "no PME";
  write(at, 2, 0x0001);
  EXPECT_EQ(read(at, 2), 0x0003u) << "D1 is not there";
  write(at, 2, 0x0000);
  EXPECT_EQ(function->resets, 1u);
}

TEST_F(EmulatedConfig, CFG6_NoSoftResetKeepsEverythingThroughD3hot) {
  make(true, true);
  const auto at = place(standard(0x01), 4);
  write(0x10, 4, 0xFEB00000);
  write(0x04, 2, 0x0006);
  write(at, 2, 0x000B);
  EXPECT_EQ(read(at, 2), 0x000Bu);
  write(at, 2, 0x0008);
  EXPECT_EQ(function->resets, 0u);
  EXPECT_EQ(read(0x04, 2), 0x0006u);
  EXPECT_EQ(read(0x10, 4), 0xFEB00000u);
}

TEST_F(EmulatedConfig, CFG10_DeviceControlTakesWhatIsAdvertised) {
  const auto at = place(standard(0x10), 8);
  write(at, 2, 0x7FFF);
  EXPECT_EQ(read(at, 2), 0x791Fu) << "no phantom functions, no larger payloads, no auxiliary power";
}

TEST_F(EmulatedConfig, CFG10_BitFifteenResetsTheFunctionAndItsBars) {
  write(0x10, 4, 0xFEB00000);
  write(0x04, 2, 0x0406);
  write(place(standard(0x10), 8), 2, 0x8000);
  EXPECT_EQ(function->resets, 1u);
  EXPECT_EQ(read(0x10, 4), 0u);
  EXPECT_EQ(read(0x04, 2), 0u);
  EXPECT_EQ(read(place(standard(0x10), 8), 2) & 0x8000, 0u);
}

TEST_F(EmulatedConfig, CFG11_BitZeroResetsTheFunctionAndItsBars) {
  write(0x10, 4, 0xFEB00000);
  const auto at = place(standard(0x13), 4);
  write(at, 1, 0xFE);
  EXPECT_EQ(function->resets, 0u);
  write(at, 1, 0x01);
  EXPECT_EQ(function->resets, 1u);
  EXPECT_EQ(read(at, 1), 0u);
  EXPECT_EQ(read(0x10, 4), 0u);
}

TEST_F(EmulatedConfig, CFG11_ANonExpressFunctionCanBeResetToo) {
  make(false);
  write(place(standard(0x13), 4), 1, 1);
  EXPECT_EQ(function->resets, 1u);
}

TEST_F(EmulatedConfig, CFG7_AnAddressIsReadAndTheFlagSet) {
  const auto at = place(standard(0x03), 2);
  write(at, 2, 0x0008);
  EXPECT_EQ(read(at, 2), 0x8008u);
  EXPECT_EQ(read(place(standard(0x03), 4), 4), 0x33333333u);
}

TEST_F(EmulatedConfig, CFG7_DataAreWrittenAndTheFlagCleared) {
  write(place(standard(0x03), 4), 4, 0xABCD);
  const auto at = place(standard(0x03), 2);
  write(at, 2, 0x8004);
  EXPECT_EQ(read(at, 2), 0x0004u);
  EXPECT_EQ(function->product_data[1], 0xABCDu);
}

TEST_F(EmulatedConfig, CFG7_OutOfRangeLeavesTheFlagAsWritten) {
  const auto at = place(standard(0x03), 2);
  for (const std::uint32_t command : {0x0010u, 0x8010u, 0x0002u, 0xFFFFu}) {
    write(at, 2, command);
    EXPECT_EQ(read(at, 2), command);
  }
}

TEST_F(EmulatedConfig, CFG7_OnlyTheByteWithTheFlagStartsATransfer) {
  const auto at = place(standard(0x03), 2);
  write(at, 1, 0x04);
  EXPECT_EQ(read(at, 2), 0x0004u);
  write(static_cast<std::uint16_t>(at + 1), 1, 0x00);
  EXPECT_EQ(read(at, 2), 0x8004u);
}

TEST_F(EmulatedConfig, CFG12_StaysThroughAResetOfTheFunction) {
  const auto status = place(extended(1), 4), mask = place(extended(1), 8);
  function->config().set(ConfigOffset{status}, 4, 0x2010);
  write(mask, 4, 0x0031);
  write(place(standard(0x10), 8), 2, 0x8000);
  EXPECT_EQ(read(status, 4), 0x2010u);
  EXPECT_EQ(read(mask, 4), 0x0031u);
}

TEST_F(EmulatedConfig, CFG13_TheDeviceIsToldOfWrites) {
  write(place(standard(0x09), 4), 4, 0xFFFFFFFF);
  EXPECT_EQ(function->vendor_writes, (std::vector{0x00FF00FFu}));
}

TEST_F(EmulatedConfig, VFIO45_GapsReadZeroAndDropWrites) {
  for (const std::uint16_t at : {0xF0, 0xFC, 0x200, 0xFFC}) {
    write(at, 4, UINT32_MAX);
    EXPECT_EQ(read(at, 4), 0u) << at;
  }
}

TEST_F(EmulatedConfig, CFG18_ADwordWriteOfCommandLeavesTheStatusAlone) {
  function->config().set(StatusRegister::offset, 2, 0x4010);
  write(0x04, 4, 0x00000002);
  EXPECT_EQ(read(0x06, 2), 0x4010u);
}

TEST_F(EmulatedConfig, CFG19_AResetReturnsToPowerOn) {
  write(0x04, 2, 0x0546);
  write(0x10, 4, 0xFEB00000);
  write(0x30, 4, 0xFEA00001);
  write(place(standard(0x05), 2), 2, 1);
  write(place(standard(0x11), 2), 2, 0xC000);
  function->reset([](const Status& status) { EXPECT_TRUE(status); });
  EXPECT_EQ(read(0x04, 2), 0u);
  EXPECT_EQ(read(0x10, 4), 0u);
  EXPECT_EQ(read(0x30, 4), 0u);
  EXPECT_EQ(read(place(standard(0x05), 2), 2) & 1, 0u);
  EXPECT_EQ(read(place(standard(0x11), 2), 2) & 0xC000, 0u);
}

}  // namespace
}  // namespace outboard::pci
