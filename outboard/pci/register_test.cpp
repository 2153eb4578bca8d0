#include <outboard/pci/register.hpp>

#include <gtest/gtest.h>

#include <string_view>

namespace outboard::pci {
namespace {

struct Sample : Register<std::uint16_t> {
  using Register::Register;
  static constexpr Flag<0> on{"On"};
  static constexpr Field<4, 6> kind{};
  static constexpr Flag<15> late{"Late"};
};

TEST(Register, FieldsAreReadWhereTheyLie) {
  static constexpr Sample sample(0x8050);
  EXPECT_EQ(sample.get(Sample::on), 0);
  EXPECT_EQ(sample.get(Sample::kind), 5);
  EXPECT_EQ(sample.get(Sample::late), 1);
}

TEST(Register, AFieldIsChangedAloneAndCutToItsWidth) {
  EXPECT_EQ(with(Sample(0xFFFF), Sample::kind, 0).value(), 0xFF8F);
  EXPECT_EQ(with(Sample(), Sample::kind, 0xFF).value(), 0x0070);
  EXPECT_EQ(with(Sample(), Sample::late, 1).value(), 0x8000);
}

TEST(Register, AFlagHasAName) { EXPECT_EQ(std::string_view(Sample::late.name), "Late"); }

TEST(Register, AMaskHasTheBitsOfAllItsFields) {
  static_assert(mask_of(Sample::on) == 1);
  EXPECT_EQ(mask_of(Sample::on, Sample::kind, Sample::late), 0x8071u);
}

}  // namespace
}  // namespace outboard::pci
