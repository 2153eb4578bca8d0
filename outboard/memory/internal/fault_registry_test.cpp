#include <outboard/memory/internal/fault_registry.hpp>

#include <array>
#include <vector>

#include <gtest/gtest.h>

namespace outboard::memory {
namespace {

std::uintptr_t address_of(const std::byte& at) { return reinterpret_cast<std::uintptr_t>(&at); }

TEST(FaultSlot, SaysAllThatIsKnownOfItsRange) {
  std::array<std::byte, 64> memory{};
  FaultSlot slot;
  slot.set({.begin = memory.data(), .length = 32, .page_size = 8, .protection = 3, .ones = 7});
  GuardedRange found;
  ASSERT_TRUE(slot.holds(address_of(memory[31]), found));
  EXPECT_EQ(found.begin, memory.data());
  EXPECT_EQ(found.length, 32U);
  EXPECT_EQ(found.page_size, 8U);
  EXPECT_EQ(found.protection, 3);
  EXPECT_EQ(found.ones, 7);
  EXPECT_FALSE(slot.holds(address_of(memory[32]), found)) << "the first byte behind it";
}

TEST(FaultSlot, EndsBeforeItsRange) {
  std::array<std::byte, 64> memory{};
  FaultSlot slot;
  slot.set({.begin = &memory[8], .length = 8});
  GuardedRange found;
  EXPECT_TRUE(slot.holds(address_of(memory[8]), found));
  EXPECT_FALSE(slot.holds(address_of(memory[7]), found));
  slot.clear();
  EXPECT_FALSE(slot.holds(address_of(memory[8]), found));
}

TEST(FaultSlot, WhatWasLostStaysLostUntilItHoldsAnotherRange) {
  std::array<std::byte, 64> memory{};
  FaultSlot slot;
  slot.set({.begin = memory.data(), .length = 64});
  EXPECT_EQ(slot.mark().load(), nullptr);
  slot.poison(&memory[16]);
  slot.poison(&memory[32]);
  EXPECT_EQ(slot.mark().load(), &memory[16]);
  slot.poison(&memory[8]);
  EXPECT_EQ(slot.mark().load(), &memory[8]);
  slot.set({.begin = memory.data(), .length = 64});
  EXPECT_EQ(slot.mark().load(), nullptr);
}

TEST(FaultRegistryTest, FindsEachOfMoreRangesThanABlockHolds) {
  constexpr std::size_t many = 600;
  static std::array<std::byte, many> memory{};
  FaultRegistry& registry = FaultRegistry::instance();
  std::vector<FaultSlot*> slots;
  for (std::byte& each : memory) slots.push_back(&registry.add({.begin = &each, .length = 1}));
  GuardedRange found;
  for (std::size_t i = 0; i < many; ++i) EXPECT_EQ(registry.find(address_of(memory[i]), found), slots[i]);
  for (FaultSlot* const slot : slots) registry.remove(*slot);
  for (std::byte& each : memory) EXPECT_EQ(registry.find(address_of(each), found), nullptr);
}

}  // namespace
}  // namespace outboard::memory
