// What a function says of itself for another process, as sections.

#include <outboard/pci/emulated_function.hpp>

#include <gtest/gtest.h>

#include <outboard/testing/manual_loop.hpp>
#include <tests/support/plain_function.hpp>

namespace outboard::pci {
namespace {

using testing::PlainFunction;

constexpr std::uint16_t command_at = 4;

std::vector<std::byte> bytes_of(const EmulatedFunction& function) {
  StateWriter writer;
  function.save(writer);
  return std::move(writer).finish().value();
}

class SavedFunction : public ::testing::Test {
 protected:
  void write(unsigned region, std::uint64_t offset, std::uint32_t value) {
    const le32 field = value;
    EXPECT_TRUE(function_->write_region(region, offset, as_bytes_of(field)));
  }
  void SetUp() override { write(region::config, command_at, 6); }

  testing::ManualLoop loop_;
  std::unique_ptr<PlainFunction> function_ = PlainFunction::create(loop_).value();
};

TEST_F(SavedFunction, HasItsConfigurationItsInterruptsAndItsAreas) {
  write(0, PlainFunction::msix_table_at + 8, 0x1234);
  write(0, PlainFunction::intx_at, 1);
  write(0, PlainFunction::area_at + 4, 0xabcd);
  const auto bytes = bytes_of(*function_);

  auto whole = StateReader::open(bytes, state_tag("FUNC"), 1).value();
  auto config = whole.section(state_tag("CONF"), 1).value();
  const Bytes registers = config.get_bytes(4096).value();
  EXPECT_EQ(registers.size(), 4096U);
  EXPECT_EQ(registers[command_at], std::byte{6});
  EXPECT_TRUE(config.end());

  auto interrupts = whole.section(state_tag("INTR"), 1).value();
  EXPECT_TRUE(interrupts.get_flag().value()) << "the line is up";
  EXPECT_FALSE(interrupts.get_flag().value());
  EXPECT_TRUE(interrupts.get_flag().value()) << "the table has been written";
  const Bytes table = interrupts.get_bytes(4096).value();
  EXPECT_EQ(table.size(), 4U * 16);
  EXPECT_EQ(table[8], std::byte{0x34});
  EXPECT_EQ(interrupts.get_bytes(4096).value().size(), 8U);
  EXPECT_EQ(interrupts.get<std::uint32_t>().value(), 0U);
  EXPECT_TRUE(interrupts.end());

  EXPECT_EQ(whole.get<std::uint32_t>().value(), 1U);
  auto area = whole.section(state_tag("AREA"), 1).value();
  EXPECT_EQ(area.get<std::uint8_t>().value(), 0U);
  EXPECT_EQ(area.get<std::uint64_t>().value(), PlainFunction::area_at);
  const Bytes memory = area.get_bytes(PlainFunction::area_size).value();
  EXPECT_EQ(memory[4], std::byte{0xcd});
  EXPECT_TRUE(area.end());
  EXPECT_TRUE(whole.end());
}

TEST_F(SavedFunction, OfOneStateIsAlwaysTheSame) {
  const auto before = bytes_of(*function_);
  EXPECT_EQ(bytes_of(*function_), before);
  write(0, PlainFunction::intx_at, 1);
  EXPECT_NE(bytes_of(*function_), before);
  write(0, PlainFunction::intx_at, 0);
  EXPECT_EQ(bytes_of(*function_), before);
}

}  // namespace
}  // namespace outboard::pci
