#include <outboard/pci/internal/config_space.hpp>

#include <random>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/base/endian.hpp>
#include <outboard/pci/capability_ids.hpp>
#include <outboard/pci/registers.hpp>

namespace outboard::pci {
namespace {

using Row = ConfigSpace::Row;

constexpr FunctionIdentity identity{.vendor = 0x1234,
                                    .device = 0x5678,
                                    .subsystem_vendor = 0x9ABC,
                                    .subsystem = 0xDEF0,
                                    .class_code = 0x010802,
                                    .revision = 7};

class ConfigSpaceTest : public testing::Test {
 protected:
  template <typename T>
  std::uint32_t read(std::uint64_t offset) {
    EndianInteger<T, std::endian::little> value;
    config.read(offset, as_writable_bytes_of(value));
    return value;
  }
  template <typename T>
  void write(std::uint64_t offset, T value) {
    config.write(offset, as_bytes_of(EndianInteger<T, std::endian::little>(value)));
  }
  std::uint32_t read8(std::uint64_t offset) { return read<std::uint8_t>(offset); }
  std::uint32_t read16(std::uint64_t offset) { return read<std::uint16_t>(offset); }
  std::uint32_t read32(std::uint64_t offset) { return read<std::uint32_t>(offset); }

  ConfigSpace config{identity};
};

TEST_F(ConfigSpaceTest, HeaderShowsTheIdentity) {
  EXPECT_EQ(read16(0x00), 0x1234);
  EXPECT_EQ(read16(0x02), 0x5678);
  EXPECT_EQ(read32(0x08), 0x01080207u);
  EXPECT_EQ(read16(0x2C), 0x9ABC);
  EXPECT_EQ(read16(0x2E), 0xDEF0);
  EXPECT_EQ(read8(0x0E), 0);
}

TEST_F(ConfigSpaceTest, SizeFollowsExpress) {
  EXPECT_EQ(config.size(), 4096u);
  EXPECT_EQ(ConfigSpace({.express = false}).size(), 256u);
}

TEST_F(ConfigSpaceTest, IdentityCannotBeWritten) {
  write<std::uint32_t>(0x00, 0xFFFFFFFF);
  write<std::uint32_t>(0x08, 0);
  write<std::uint32_t>(0x2C, 0);
  EXPECT_EQ(read32(0x00), 0x56781234u);
  EXPECT_EQ(read32(0x08), 0x01080207u);
  EXPECT_EQ(read32(0x2C), 0xDEF09ABCu);
}

TEST_F(ConfigSpaceTest, CommandTakesOnlyTheBitsThatAreThere) {
  write<std::uint16_t>(0x04, 0xFFFF);
  EXPECT_EQ(read16(0x04), 0x0544);  // no BAR: neither I/O nor memory space
}

TEST_F(ConfigSpaceTest, InterruptLineAndCacheLineSizeAreScratch) {
  write<std::uint8_t>(0x3C, 0xA5);
  write<std::uint8_t>(0x0C, 0x10);
  write<std::uint8_t>(0x0D, 0x40);
  EXPECT_EQ(read8(0x3C), 0xA5);
  EXPECT_EQ(read8(0x0C), 0x10);
  EXPECT_EQ(read8(0x0D), 0) << "the latency timer is hardwired to 0 on PCI Express";
}

TEST_F(ConfigSpaceTest, ReservedAndAbsentRegistersReadZeroAndDropWrites) {
  for (const std::uint64_t offset : {0x0Cu + 3, 0x28u, 0x30u, 0x38u, 0x3Eu, 0x80u, 0x100u, 0xFFCu}) {
    write<std::uint8_t>(offset, 0xFF);
    EXPECT_EQ(read8(offset), 0) << offset;
  }
}

TEST_F(ConfigSpaceTest, StatusErrorBitsAreClearedByOnes) {
  config.set(StatusRegister::offset, 2, 0xF900);
  write<std::uint16_t>(0x06, 0x8100);
  EXPECT_EQ(read16(0x06), 0x7800);
  write<std::uint16_t>(0x06, 0x0000);
  EXPECT_EQ(read16(0x06), 0x7800);
}

TEST_F(ConfigSpaceTest, OnlyTheBytesWrittenAreCleared) {
  config.set(StatusRegister::offset, 2, 0xF900);
  write<std::uint8_t>(0x06, 0xFF);
  EXPECT_EQ(read16(0x06), 0xF900);
  write<std::uint8_t>(0x07, 0xFF);
  EXPECT_EQ(read16(0x06), 0);
}

TEST_F(ConfigSpaceTest, BarSizingReadsBackTheSize) {
  config.add({.offset = 0x10, .width = 4, .writable = ~UINT32_C(0xFFFFF)});
  write<std::uint32_t>(0x10, 0xFFFFFFFF);
  EXPECT_EQ(read32(0x10), 0xFFF00000u);
  write<std::uint32_t>(0x10, 0xDEADBEEF);
  EXPECT_EQ(read32(0x10), 0xDEA00000u);
}

TEST_F(ConfigSpaceTest, BarTakesByteWrites) {
  config.add({.offset = 0x10, .width = 4, .value = 0xC, .writable = ~UINT32_C(0xFFFF)});
  write<std::uint8_t>(0x13, 0xFE);
  write<std::uint8_t>(0x12, 0xDC);
  write<std::uint8_t>(0x11, 0xBA);
  write<std::uint8_t>(0x10, 0xFF);
  EXPECT_EQ(read32(0x10), 0xFEDC000Cu);
}

TEST_F(ConfigSpaceTest, AnyWidthAndAlignmentIsServed) {
  std::byte all[4096];
  config.read(0, all);
  EXPECT_EQ(all[0], std::byte{0x34});
  EXPECT_EQ(all[3], std::byte{0x56});
  EXPECT_EQ(read16(0x01), 0x7812);
  const std::byte three[] = {std::byte{1}, std::byte{2}, std::byte{3}};
  config.write(0x3B, three);
  EXPECT_EQ(read8(0x3C), 2);
}

TEST_F(ConfigSpaceTest, OutsideReadsZeroAndDropsWrites) {
  std::byte bytes[8];
  std::ranges::fill(bytes, std::byte{0xFF});
  config.read(4092, bytes);
  EXPECT_EQ(bytes[4], std::byte{0});
  config.write(4092, bytes);
  config.write(UINT64_MAX, bytes);
  config.read(UINT64_MAX - 2, bytes);
  EXPECT_EQ(bytes[0], std::byte{0});
  config.read(4096, {});
}

TEST_F(ConfigSpaceTest, WithoutCapabilitiesStatusSaysSo) {
  EXPECT_EQ(read16(0x06) & 0x10, 0);
  EXPECT_EQ(read8(0x34), 0);
}

TEST_F(ConfigSpaceTest, CapabilitiesFormAListInOrder) {
  const Row scratch[] = {{.offset = 2, .width = 2, .value = 0x1111, .writable = 0x00FF}};
  const auto first = config.add_capability(0x09, 7, scratch);
  const auto second = config.add_capability(0x11, 12, {});
  ASSERT_TRUE(first && second);
  EXPECT_EQ(raw(*first), 0x40);
  EXPECT_EQ(raw(*second), 0x48) << "dword-aligned";
  EXPECT_EQ(read16(0x06) & 0x10, 0x10);
  EXPECT_EQ(read8(0x34), 0x40);
  EXPECT_EQ(read16(0x40), 0x4809);
  EXPECT_EQ(read16(0x48), 0x0011);
  EXPECT_EQ(read16(0x42), 0x1111);

  write<std::uint32_t>(0x40, 0xFFFFFFFF);
  EXPECT_EQ(read32(0x40), 0x11FF4809u) << "id and next pointer are read-only";
}

TEST_F(ConfigSpaceTest, TheFirst256BytesCanBeFullOfCapabilities) {
  for (unsigned i = 0; i < 12; ++i) EXPECT_TRUE(config.add_capability(0x09, 16, {})) << i;
  const auto one_more = config.add_capability(0x09, 2, {});
  ASSERT_FALSE(one_more);
  EXPECT_EQ(one_more.error().code(), ENOSPC);
  EXPECT_EQ(read8(0xF1), 0) << "the list still ends";
}

TEST_F(ConfigSpaceTest, RowsStayInTheirCapability) {
  const Row outside[] = {{.offset = 6, .width = 4}};
  const Row over_the_header[] = {{.offset = 0, .width = 4}};
  EXPECT_EQ(config.add_capability(0x09, 8, outside).error().code(), EINVAL);
  EXPECT_EQ(config.add_capability(0x09, 8, over_the_header).error().code(), EINVAL);
  EXPECT_EQ(config.add_capability(0x09, 1, {}).error().code(), EINVAL);
}

TEST_F(ConfigSpaceTest, ExtendedCapabilitiesFormAListFrom0x100) {
  EXPECT_EQ(read32(0x100), 0u) << "none: the first header is 0";
  const Row serial[] = {{.offset = 4, .width = 4, .value = 0x01020304}};
  ASSERT_TRUE(config.add_extended_capability(0x0003, 1, 12, serial));
  ASSERT_TRUE(config.add_extended_capability(0x000B, 2, 9, {}));
  EXPECT_EQ(read32(0x100), 0x10C10003u);
  EXPECT_EQ(read32(0x104), 0x01020304u);
  EXPECT_EQ(read32(0x10C), 0x0002000Bu);
  EXPECT_EQ(config.add_extended_capability(0x000B, 1, 4000, {}).error().code(), ENOSPC);
}

TEST_F(ConfigSpaceTest, ConventionalSpaceHasNoExtendedCapabilities) {
  ConfigSpace conventional({.express = false});
  EXPECT_EQ(conventional.add_extended_capability(3, 1, 12, {}).error().code(), ENOSPC);
}

TEST_F(ConfigSpaceTest, AHandlerIsToldTheWholeRegisterBeforeAndAfter) {
  config.add({.offset = 0x80, .width = 4, .value = 0x11223344, .writable = 0xFFFFFF00});
  std::vector<std::pair<std::uint32_t, std::uint32_t>> calls;
  config.on_write(ConfigOffset{0x80}, 4, [&](auto before, auto now) { calls.emplace_back(before, now); });

  write<std::uint8_t>(0x81, 0xAA);
  write<std::uint8_t>(0x84, 0xFF);
  write<std::uint8_t>(0x7F, 0xFF);
  write<std::uint32_t>(0x7E, 0xFFFF0000);

  ASSERT_EQ(calls.size(), 2u) << "a write beside the register is none of its business";
  EXPECT_EQ(calls[0], std::pair(0x11223344u, 0x1122AA44u));
  EXPECT_EQ(calls[1], std::pair(0x1122AA44u, 0x1122FF44u));
}

TEST_F(ConfigSpaceTest, HandlersRunWhenTheWholeWriteHasBeenTaken) {
  config.add({.offset = 0x80, .width = 4, .writable = 0xFFFFFFFF});
  std::uint32_t seen = 0;
  config.on_write(ConfigOffset{0x80}, 2, [&](auto, auto) { seen = config.get(ConfigOffset{0x82}, 2); });
  write<std::uint32_t>(0x80, 0xABCD0001);
  EXPECT_EQ(seen, 0xABCDu);
}

TEST_F(ConfigSpaceTest, AHandlerMayChangeTheRegisterAndReset) {
  config.add({.offset = 0x80, .width = 1, .writable = 0xFF});
  config.add({.offset = 0x81, .width = 1, .writable = 0xFF});
  std::uint32_t later = 0xFF;
  config.on_write(ConfigOffset{0x80}, 1, [&](auto, auto) { config.reset(); });
  config.on_write(ConfigOffset{0x81}, 1, [&](auto, auto now) { later = now; });
  write<std::uint16_t>(0x80, 0x2211);
  EXPECT_EQ(read16(0x80), 0);
  EXPECT_EQ(later, 0u) << "the second handler is told what is there now";
}

TEST_F(ConfigSpaceTest, AReadHandlerBringsTheRegisterUpToDate) {
  unsigned reads = 0;
  config.on_read(ConfigOffset{0x80}, 4, [&] { config.set(ConfigOffset{0x80}, 4, ++reads); });
  EXPECT_EQ(read32(0x80), 1u);
  EXPECT_EQ(read8(0x83), 0u);
  EXPECT_EQ(read8(0x84), 0u);
  EXPECT_EQ(reads, 2u);
}

TEST_F(ConfigSpaceTest, ResetReturnsToPowerOnButKeepsStickyBits) {
  config.add({.offset = 0x80, .width = 4, .value = 0x0000FF00, .writable = 0xFFFFFFFF, .sticky = 0x000000FF});
  write<std::uint16_t>(0x04, 0xFFFF);
  write<std::uint8_t>(0x3C, 0x55);
  write<std::uint32_t>(0x80, 0x12345678);
  config.reset();
  EXPECT_EQ(read16(0x04), 0);
  EXPECT_EQ(read8(0x3C), 0);
  EXPECT_EQ(read32(0x80), 0x0000FF78u);
  EXPECT_EQ(read16(0x00), 0x1234);
}

TEST_F(ConfigSpaceTest, DescribedTwiceTheLaterDescriptionCounts) {
  config.add({.offset = 0x80, .width = 1, .value = 0xFF, .writable = 0xFF});
  config.add({.offset = 0x80, .width = 1, .value = 0x01});
  write<std::uint8_t>(0x80, 0xF0);
  EXPECT_EQ(read8(0x80), 1);
  config.add({.offset = 4095, .width = 4, .value = 1});  // does not fit
  EXPECT_EQ(read8(4095), 0);
}

/// What each byte may become, by a model of one line: against any sequence of accesses.
TEST_F(ConfigSpaceTest, RandomAccessesKeepTheMasks) {
  const Row rows[] = {{.offset = 2, .width = 2, .value = 0x00F0, .writable = 0xC00F, .write_one_clears = 0x00F0},
                      {.offset = 4, .width = 4, .value = 0xFFFFFFFF, .writable = 0x0F0F0F0F}};
  ASSERT_TRUE(config.add_capability(0x09, 8, rows));
  config.set(StatusRegister::offset, 2, 0xF910);
  std::vector<std::byte> model(4096);
  config.read(0, model);
  const auto masks = [](std::size_t at) -> std::pair<unsigned, unsigned> {
    switch (at) {
      case 0x04:
        return {0x44, 0};
      case 0x05:
        return {0x05, 0};
      case 0x07:
        return {0, 0xF9};
      case 0x0C:
      case 0x3C:
        return {0xFF, 0};
      case 0x42:
        return {0x0F, 0xF0};
      case 0x43:
        return {0xC0, 0};
      case 0x44:
      case 0x45:
      case 0x46:
      case 0x47:
        return {0x0F, 0};
      default:
        return {0, 0};
    }
  };
  constexpr unsigned seed = 20261121;
  std::mt19937 random(seed);
  for (int step = 0; step < 20'000; ++step) {
    const std::uint64_t offset = random() % (step % 4 == 0 ? 4110 : 0x50);
    std::vector<std::byte> bytes(random() % 9);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random());
    config.write(offset, bytes);
    for (std::size_t i = 0; i < bytes.size() && offset + i < model.size(); ++i) {
      const auto [writable, clears] = masks(offset + i);
      const auto value = std::to_integer<unsigned>(model[offset + i]), data = std::to_integer<unsigned>(bytes[i]);
      model[offset + i] = static_cast<std::byte>(((value & ~writable) | (data & writable)) & ~(data & clears));
    }
    std::vector<std::byte> now(4096);
    config.read(0, now);
    ASSERT_EQ(now, model) << "seed " << seed << " step " << step;
  }
}

}  // namespace
}  // namespace outboard::pci
