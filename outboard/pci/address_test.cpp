#include <outboard/pci/address.hpp>

#include <gtest/gtest.h>

namespace outboard::pci {
namespace {

TEST(Address, IsReadAndWrittenAsSysfsNamesIt) {
  const auto address = Address::parse("0000:3b:1f.7");
  ASSERT_TRUE(address.has_value());
  EXPECT_EQ(*address, (Address{0, 0x3b, 0x1f, 7}));
  EXPECT_EQ(address->text(), "0000:3b:1f.7");
}

TEST(Address, WithoutADomainIsInDomainZero) { EXPECT_EQ(Address::parse("00:04.0").value().text(), "0000:00:04.0"); }

TEST(Address, ADomainMayBeLongerThanFourDigits) {
  EXPECT_EQ(Address::parse("10000:e1:00.0").value().text(), "10000:e1:00.0");
}

TEST(Address, SortsAsTheMachineIsWired) {
  EXPECT_LT((Address{0, 1, 0, 0}), (Address{0, 1, 0, 1}));
  EXPECT_LT((Address{0, 0xff, 31, 7}), (Address{1, 0, 0, 0}));
}

class NotAnAddress : public testing::TestWithParam<const char*> {};

TEST_P(NotAnAddress, IsRefusedWithWhatOneLooksLike) {
  const auto address = Address::parse(GetParam());
  ASSERT_FALSE(address.has_value());
  EXPECT_EQ(address.error().code(), EINVAL);
  EXPECT_NE(address.error().cure().find("0000:00:04.0"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Texts, NotAnAddress,
                         testing::Values("", ".", ":", "04.0", "0000:00:04", "0000:00:20.0", "0000:00:04.8", "00:4.0",
                                         "0:00:04.0", "0000:00:04.0 ", " 0000:00:04.0", "0000:00:04.00", "0000:00:-4.0",
                                         "0x00:00:04.0", "000000000:00:04.0", "../0000:00:04.0", "0000:00:04.0/..",
                                         "0000::04.0", "0000:00.04:0", "0000:0000:00:04.0"));

}  // namespace
}  // namespace outboard::pci
