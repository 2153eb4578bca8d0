#include <outboard/base/budget.hpp>

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/base/fd.hpp>
#include <outboard/testing/vfio_user_peer.hpp>

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

TEST(Budget, OfTheProcessHasTheAddressSpaceThatItMayUse) {
  constexpr std::uint64_t gibibyte = UINT64_C(1) << 30;
  std::uint64_t pages = 0;
  ASSERT_TRUE(std::ifstream("/proc/self/statm") >> pages);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_AS, &before), 0);
  const rlimit low{.rlim_cur = pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) + gibibyte,
                   .rlim_max = before.rlim_max};
  if (before.rlim_cur < low.rlim_cur) GTEST_SKIP() << "there is less already";
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &low), 0);
  const auto share = *Budget::of_this_process()->join(0);
  EXPECT_EQ(share->take_mapping(gibibyte).error().code(), ENOSPC);
  EXPECT_TRUE(share->take_mapping(gibibyte / 4));
  share->give_mapping(gibibyte / 4);
  EXPECT_EQ(::setrlimit(RLIMIT_AS, &before), 0);
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
