#include <outboard/base/internal/budget.hpp>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/base/fd.hpp>
#include <tests/support/scarce_memory.hpp>
#include <tests/support/vfio_user_peer.hpp>

namespace outboard {
namespace {

constexpr ProcessLimits small{.descriptors = 100, .mappings = 90, .address_space = 9000};

std::uint64_t take_all(Budget::Share& share, std::uint64_t bytes = 1) {
  std::uint64_t taken = 0;
  while (share.take_mapping(bytes)) ++taken;
  return taken;
}

TEST(Budget, WhoTakesAllThereIsLeavesTheOthersTheirShare) {
  const auto budget = Budget::with(small);
  const auto greedy = *budget->join(0);
  const auto other = *budget->join(0);
  EXPECT_EQ(greedy->guaranteed_mappings(), 30u);
  EXPECT_EQ(take_all(*greedy), 60u) << "its own share, and the one that nobody owns";
  EXPECT_EQ(greedy->take_mapping(1).error().code(), ENOSPC);
  EXPECT_EQ(take_all(*other), 30u);
}

TEST(Budget, AddressSpaceIsSharedInTheSameWay) {
  const auto budget = Budget::with(small);
  const auto greedy = *budget->join(0);
  const auto other = *budget->join(0);
  EXPECT_FALSE(greedy->take_mapping(6001));
  EXPECT_FALSE(greedy->take_mapping(UINT64_MAX));
  EXPECT_TRUE(greedy->take_mapping(6000));
  EXPECT_FALSE(other->take_mapping(3001));
  EXPECT_TRUE(other->take_mapping(3000));
}

TEST(Budget, WhatIsGivenBackCanBeTakenAgain) {
  const auto budget = Budget::with(small);
  const auto share = *budget->join(0);
  const auto all = take_all(*share, 10);
  EXPECT_EQ(all, 90u);
  for (std::uint64_t i = 0; i < all; ++i) share->give_mapping(10);
  EXPECT_EQ(take_all(*share, 10), all);
}

TEST(Budget, DescriptorsAreSetAsideWhenAPartJoins) {
  const auto budget = Budget::with(small);
  auto first = budget->join(60);
  ASSERT_TRUE(first);
  EXPECT_EQ(budget->join(41).error().code(), EMFILE);
  EXPECT_TRUE(budget->join(40)) << "a part that is gone needs none";
  first->reset();
  EXPECT_TRUE(budget->join(100));
}

/// Leaves the process room for so many further descriptors.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t further) {
    ::getrlimit(RLIMIT_NOFILE, &saved_);
    rlimit tight = saved_;
    tight.rlim_cur = static_cast<rlim_t>(testing::open_fds()) - 1 + further;  // the one that lists them is gone
    ::setrlimit(RLIMIT_NOFILE, &tight);
  }
  ~DescriptorLimit() { ::setrlimit(RLIMIT_NOFILE, &saved_); }

 private:
  rlimit saved_{};
};

TEST(Budget, DescriptorsThatAPartHasOpenAreCountedOnce) {
  const DescriptorLimit limit(32 + 100);  // 32 are left to the program
  const auto budget = Budget::of_this_process();
  const auto busy = *budget->join(60);
  std::vector<UniqueFd> of_its_client;
  for (int i = 0; i < 60; ++i) of_its_client.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_FALSE(budget->join(40)) << "they could be anybody's";

  Budget::OpenDescriptors open(busy, 10);
  open.set(60);
  EXPECT_TRUE(budget->join(40));
  EXPECT_EQ(budget->join(41).error().code(), EMFILE);
  of_its_client.clear();
  open.set(0);
  EXPECT_TRUE(budget->join(40));
  EXPECT_EQ(budget->join(41).error().code(), EMFILE);
}

TEST(Budget, DescriptorsThatAreOpenBeyondWhatWasSetAsideCountAsAnyOther) {
  const DescriptorLimit limit(32 + 100);
  const auto budget = Budget::of_this_process();
  const auto busy = *budget->join(60);
  std::vector<UniqueFd> of_its_client;
  for (int i = 0; i < 70; ++i) of_its_client.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const Budget::OpenDescriptors open(busy, 70);
  EXPECT_TRUE(budget->join(30));
  EXPECT_EQ(budget->join(31).error().code(), EMFILE);
}

TEST(Budget, OfTheProcessLeavesRoomForTheProgram) {
  const auto share = *Budget::of_this_process()->join(0);
  EXPECT_GT(share->guaranteed_mappings(), 100u);
  EXPECT_LT(share->guaranteed_mappings(), UINT64_C(1) << 31);
}

constexpr std::uint64_t gibibyte = UINT64_C(1) << 30;

/// Takes so much address space, as long as it lives.
class Reserved {
 public:
  explicit Reserved(std::size_t bytes)
      : bytes_(bytes), start_(::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    EXPECT_NE(start_, MAP_FAILED);
  }
  ~Reserved() { ::munmap(start_, bytes_); }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;

 private:
  std::size_t bytes_;
  void* start_;
};

TEST(Budget, OfTheProcessHasThreeQuartersOfTheFreeAddressSpace) {
  const Reserved in_use(gibibyte);
  const testing::AddressSpaceLimit limit(gibibyte);
  if (!limit.is_set()) GTEST_SKIP() << "there is less already";
  const auto share = *Budget::of_this_process()->join(0);
  EXPECT_FALSE(share->take_mapping(gibibyte / 8 * 7));
  EXPECT_TRUE(share->take_mapping(gibibyte / 8 * 5));
  share->give_mapping(gibibyte / 8 * 5);
}

TEST(Budget, AddressSpaceThatAPartHasTakenIsCountedOnce) {
  const testing::AddressSpaceLimit limit(gibibyte);
  if (!limit.is_set()) GTEST_SKIP() << "there is less already";
  const auto budget = Budget::of_this_process();
  const auto first = *budget->join(0);
  ASSERT_TRUE(first->take_mapping(gibibyte / 2));
  const Reserved taken(gibibyte / 2);
  const auto second = *budget->join(0);
  EXPECT_FALSE(second->take_mapping(gibibyte / 16 * 5));
  EXPECT_TRUE(second->take_mapping(gibibyte / 16 * 3)) << "of the quarter that is its share";
  second->give_mapping(gibibyte / 16 * 3);
  first->give_mapping(gibibyte / 2);
}

// A client that truncates each of its files has each of their mappings split by the fault guard.
TEST(Budget, OfTheProcessHasRoomForEachMappingToBecomeTwo) {
  std::ifstream file("/proc/sys/vm/max_map_count");
  std::uint64_t limit = 0;
  ASSERT_TRUE(file >> limit);
  const auto share = *Budget::of_this_process()->join(0);
  std::uint64_t taken = 0;
  while (share->take_mapping(1)) ++taken;
  EXPECT_LT(2 * taken, limit);
  for (; taken != 0; --taken) share->give_mapping(1);
}

}  // namespace
}  // namespace outboard
