#include <outboard/memory/internal/shared.hpp>

#include <array>

#include <gtest/gtest.h>

namespace outboard::memory {
namespace {

TEST(Shared, FieldsLieInTheOrderOfTheirType) {
  alignas(8) std::array<std::byte, 8> bytes{};
  const Shared<le16> little(bytes.data());
  const Shared<be32> big(bytes.data() + 4);
  little.store(0x0102, std::memory_order_release);
  big.store(0x03040506, std::memory_order_relaxed);
  EXPECT_EQ(bytes[0], std::byte{2});
  EXPECT_EQ(bytes[4], std::byte{3});
  EXPECT_EQ(little.load(std::memory_order_acquire), 0x0102);
  EXPECT_EQ(big.load(std::memory_order_relaxed), 0x03040506U);
}

TEST(Shared, SixteenBytesGoInAndComeOutWhole) {
  struct Descriptor {
    le64 addr;
    le32 len;
    le16 flags;
    le16 next;
  };
  alignas(8) std::array<std::byte, 16> bytes{};
  store16(bytes.data(), Descriptor{.addr = 0x1122334455667788, .len = 7, .flags = 1, .next = 0xffff});
  EXPECT_EQ(bytes[0], std::byte{0x88});
  EXPECT_EQ(bytes[15], std::byte{0xff});
  const auto copy = load16<Descriptor>(bytes.data());
  EXPECT_EQ(copy.addr, 0x1122334455667788U);
  EXPECT_EQ(copy.next, 0xffff);
}

}  // namespace
}  // namespace outboard::memory
