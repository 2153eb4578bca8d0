#include <gtest/gtest.h>

#include <outboard/testing/manual_loop.hpp>
#include <outboard/virtio/internal/request_slot.hpp>

namespace outboard::virtio {
namespace {

class Chains : public ::testing::Test {
 protected:
  void fill(std::uint32_t count) {
    Chain::Sum sum;
    for (std::uint32_t i = 0; i < count; ++i) EXPECT_EQ(chain.add(sum, i, 1, false, 100'000, memory), nullptr);
    chain.set(sum);
  }
  void expect(std::uint32_t count) {
    ASSERT_EQ(chain.count(), count);
    for (std::uint32_t i = 0; i < count; ++i) ASSERT_EQ(chain[i].address, memory::Iova{i});
  }

  testing::ManualLoop loop;
  memory::AddressMap map{loop};
  MemoryView memory{map};
  Chain chain;
};

TEST_F(Chains, AreShortAgainOnceALongOneHasBeenGivenBack) {
  for (const std::uint32_t length : {5U, 256U, 257U, 5000U}) {
    fill(length);
    expect(length);
    EXPECT_TRUE(chain.is_long());
    EXPECT_EQ(chain.spilled(), length);
    chain.trim();
    fill(4);
    expect(4);
    EXPECT_FALSE(chain.is_long()) << "after " << length;
    EXPECT_EQ(chain.spilled(), 0U);
    chain.trim();
    fill(6);
    expect(6);
    chain.trim();
  }
}

}  // namespace
}  // namespace outboard::virtio
