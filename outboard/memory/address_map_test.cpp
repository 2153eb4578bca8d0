#include <outboard/memory/address_map.hpp>

#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <vector>

#include <outboard/testing/manual_loop.hpp>
#include <tests/support/dead_port.hpp>

namespace outboard::memory {
namespace {

constexpr std::uint64_t page = 4096;

/// A user that lets go at once, or keeps what it is told to release.
struct FakeUser final : MapUser {
  explicit FakeUser(Loop& its_loop) : loop(its_loop) {}
  Loop& map_loop() override { return loop; }
  void map_changed(IovaRange removed, Loop::Task released) override {
    seen.push_back(removed);
    if (when_told) when_told();
    if (keep) {
      kept.push_back(std::move(released));
    } else {
      released();
    }
  }
  Loop& loop;
  bool keep = false;
  std::vector<IovaRange> seen;
  std::vector<Loop::Task> kept;
  std::function<void()> when_told;
};

class AddressMapTest : public ::testing::Test {
 protected:
  int map(std::uint64_t start, std::uint64_t size) {
    const auto done = map_->map({.range = {Iova{start}, size}, .memory = memory_});
    return done ? 0 : done.error().code();
  }
  /// The answer's errno value, 0, or nothing while it is waited for.
  std::shared_ptr<std::optional<int>> unmap(std::uint64_t start, std::uint64_t size) {
    auto answer = std::make_shared<std::optional<int>>();
    map_->unmap({Iova{start}, size}, keep(answer));
    return answer;
  }
  std::shared_ptr<std::optional<int>> clear() {
    auto answer = std::make_shared<std::optional<int>>();
    map_->clear(keep(answer));
    return answer;
  }
  AddressMap::Completion keep(std::shared_ptr<std::optional<int>> answer) {
    return [answer](Status status) {
      EXPECT_FALSE(answer->has_value()) << "answered twice";
      *answer = status ? 0 : status.error().code();
    };
  }
  std::size_t count() const { return map_->current()->mapping_count(); }

  testing::ManualLoop loop_;
  std::unique_ptr<AddressMap> map_ = std::make_unique<AddressMap>(loop_, AddressMap::Limits{.max_mappings = 8});
  std::shared_ptr<HostMemory> memory_ = *HostMemory::anonymous(16 * page);
  FakeUser user_{loop_};
};

TEST_F(AddressMapTest, RangesThatAreNoneAreRefused) {
  EXPECT_EQ(map(0x1000, 0), EINVAL);
  EXPECT_EQ(map(UINT64_MAX - page + 1, page + 1), EINVAL);
  EXPECT_EQ(map(0x1000, 16 * page + 1), EINVAL) << "larger than the memory";
  const Mapping beyond{.range = {Iova{0}, 2 * page}, .memory = memory_, .offset = 15 * page};
  EXPECT_EQ(map_->map(beyond).error().code(), EINVAL);
  const Mapping wraps{.range = {Iova{0}, 2 * page}, .memory = memory_, .offset = UINT64_MAX - page + 1};
  EXPECT_EQ(map_->map(wraps).error().code(), EINVAL);
  EXPECT_EQ(map_->map({.range = {Iova{0}, page}}).error().code(), EINVAL) << "nothing behind it";
  EXPECT_EQ(map_->generation(), 0U);
}

TEST_F(AddressMapTest, VU30_AnOverlappingMappingIsRefusedAndTheOldOneStays) {
  ASSERT_EQ(map(0x3000, 2 * page), 0);
  for (const auto& [start, size] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{{0x3000, 2 * page},
                                                                                        {0x3000, page},
                                                                                        {0x4000, page},
                                                                                        {0x2000, 2 * page},
                                                                                        {0x4000, 2 * page},
                                                                                        {0x2000, 4 * page}}) {
    EXPECT_EQ(map(start, size), EEXIST) << std::hex << start;
  }
  EXPECT_EQ(count(), 1U);
  EXPECT_EQ(map(0x2000, page), 0);
  EXPECT_EQ(map(0x5000, page), 0);
}

TEST_F(AddressMapTest, VU31_TooManyMappingsAreRefused) {
  for (std::uint64_t i = 0; i < 8; ++i) ASSERT_EQ(map(i * page, page), 0);
  EXPECT_EQ(map(8 * page, page), ENOSPC);
  EXPECT_EQ(map(0, page), EEXIST);
  EXPECT_EQ(*unmap(0, page), 0);
  EXPECT_EQ(map(8 * page, page), 0);
}

TEST_F(AddressMapTest, VU37_PartOfAMappingCannotBeUnmapped) {
  ASSERT_EQ(map(0x1000, 4 * page), 0);
  ASSERT_EQ(map(0x6000, page), 0);
  EXPECT_EQ(*unmap(0x1000, page), EINVAL);
  EXPECT_EQ(*unmap(0x4000, page), EINVAL);
  EXPECT_EQ(*unmap(0x2000, page), EINVAL);
  EXPECT_EQ(*unmap(0x4000, 3 * page), EINVAL) << "one whole, one cut: neither goes";
  EXPECT_EQ(*unmap(0x0, 2 * page), EINVAL);
  EXPECT_EQ(count(), 2U);
}

TEST_F(AddressMapTest, VU38_SeveralWholeMappingsGoTogether) {
  for (std::uint64_t i = 1; i < 8; i += 2) ASSERT_EQ(map(i * page, page), 0);
  EXPECT_EQ(*unmap(2 * page, 4 * page), 0);
  EXPECT_EQ(count(), 2U);
  EXPECT_NE(map_->current()->find(Iova{page}), nullptr);
  EXPECT_NE(map_->current()->find(Iova{7 * page}), nullptr);
}

TEST_F(AddressMapTest, VU39_UnknownRangeCannotBeUnmapped) {
  EXPECT_EQ(*unmap(0x1000, page), ENOENT);
  ASSERT_EQ(map(0x1000, page), 0);
  EXPECT_EQ(*unmap(0x2000, page), ENOENT);
  EXPECT_EQ(*unmap(0x1000, 0), EINVAL);
  EXPECT_EQ(*unmap(UINT64_MAX, 2), EINVAL);
}

TEST_F(AddressMapTest, SnapshotsDoNotChange) {
  ASSERT_EQ(map(0x1000, page), 0);
  const auto before = map_->current();
  ASSERT_EQ(map(0x2000, page), 0);
  ASSERT_EQ(*unmap(0x1000, page), 0);
  EXPECT_EQ(before->mapping_count(), 1U);
  EXPECT_NE(before->find(Iova{0x1000}), nullptr);
  EXPECT_EQ(before->find(Iova{0x2000}), nullptr);
  EXPECT_LT(before->generation(), map_->generation());
  EXPECT_EQ(map_->current()->generation(), map_->generation());
}

TEST_F(AddressMapTest, RemovedMemoryStaysForAsLongAsASnapshotKnowsIt) {
  ASSERT_EQ(map(0x1000, page), 0);
  const std::weak_ptr<HostMemory> watched = memory_;
  auto snapshot = map_->current();
  memory_.reset();
  ASSERT_EQ(*clear(), 0);
  EXPECT_FALSE(watched.expired());
  snapshot.reset();
  EXPECT_TRUE(watched.expired());
}

TEST_F(AddressMapTest, UserIsToldOfNewMappings) {
  map_->add_user(user_);
  user_.when_told = [&] { EXPECT_NE(map_->current()->find(Iova{0x1000}), nullptr); };
  ASSERT_EQ(map(0x1000, page), 0);
  EXPECT_EQ(user_.seen, (std::vector<IovaRange>{{}}));
  map_->remove_user(user_);
}

TEST_F(AddressMapTest, VU41_UnmapIsAnsweredWhenEveryUserHasLetGo) {
  FakeUser other(loop_);
  ASSERT_EQ(map(0x1000, page), 0);
  map_->add_user(user_);
  map_->add_user(other);
  user_.keep = other.keep = true;
  const auto answer = unmap(0x1000, page);
  EXPECT_EQ(user_.seen, (std::vector<IovaRange>{{Iova{0x1000}, page}}));
  EXPECT_EQ(map_->current()->find(Iova{0x1000}), nullptr) << "new accesses do not find it already";
  user_.kept.at(0)();
  loop_.run_until_idle();
  EXPECT_FALSE(answer->has_value());
  other.kept.at(0)();
  loop_.run_until_idle();
  EXPECT_EQ(*answer, 0);
  map_->remove_user(user_);
  map_->remove_user(other);
}

TEST_F(AddressMapTest, SeveralUnmapsWaitIndependently) {
  ASSERT_EQ(map(0x1000, page), 0);
  ASSERT_EQ(map(0x2000, page), 0);
  map_->add_user(user_);
  user_.keep = true;
  const auto first = unmap(0x1000, page);
  const auto second = unmap(0x2000, page);
  user_.kept.at(1)();
  loop_.run_until_idle();
  EXPECT_TRUE(second->has_value());
  EXPECT_FALSE(first->has_value());
  user_.kept.at(0)();
  loop_.run_until_idle();
  EXPECT_TRUE(first->has_value());
  map_->remove_user(user_);
}

TEST_F(AddressMapTest, RangeMayBeMappedAgainWhileItsUnmapIsWaitedFor) {
  ASSERT_EQ(map(0x1000, page), 0);
  map_->add_user(user_);
  user_.keep = true;
  const auto answer = unmap(0x1000, page);
  EXPECT_EQ(map(0x1000, page), 0);
  EXPECT_FALSE(answer->has_value());
  user_.kept.at(0)();
  loop_.run_until_idle();
  EXPECT_EQ(*answer, 0);
  map_->remove_user(user_);
}

TEST_F(AddressMapTest, UserThatIsRemovedIsNotWaitedFor) {
  ASSERT_EQ(map(0x1000, page), 0);
  map_->add_user(user_);
  user_.keep = true;
  const auto answer = unmap(0x1000, page);
  map_->remove_user(user_);
  loop_.run_until_idle();
  EXPECT_EQ(*answer, 0);
  user_.kept.at(0)();  // late, and nothing happens twice
  loop_.run_until_idle();
}

TEST_F(AddressMapTest, UserThatIsNotThereCanBeRemoved) {
  FakeUser other(loop_);
  map_->remove_user(other);  // there are none at all
  map_->add_user(user_);
  map_->remove_user(other);
  ASSERT_EQ(map(0x1000, page), 0);
  EXPECT_EQ(user_.seen.size(), 1U);
  map_->remove_user(user_);
  map_->remove_user(user_);
}

TEST_F(AddressMapTest, UserThatDropsItsReleaseIsNotWaitedFor) {
  ASSERT_EQ(map(0x1000, page), 0);
  map_->add_user(user_);
  user_.keep = true;
  const auto answer = unmap(0x1000, page);
  user_.kept.clear();
  loop_.run_until_idle();
  EXPECT_EQ(*answer, 0);
  map_->remove_user(user_);
}

TEST_F(AddressMapTest, UserMayRemoveItselfOrAnotherWhenItIsTold) {
  FakeUser other(loop_);
  ASSERT_EQ(map(0x1000, page), 0);
  map_->add_user(user_);
  map_->add_user(other);
  other.keep = true;
  user_.when_told = [&] {
    map_->remove_user(other);
    map_->remove_user(user_);
  };
  EXPECT_EQ(*unmap(0x1000, page), 0);
  EXPECT_TRUE(other.seen.empty());
}

TEST_F(AddressMapTest, ClearRemovesEverythingAndWaitsToo) {
  ASSERT_EQ(map(0x1000, page), 0);
  ASSERT_EQ(map(0x9000, page), 0);
  map_->add_user(user_);
  user_.keep = true;
  const auto answer = clear();
  EXPECT_EQ(count(), 0U);
  EXPECT_EQ(user_.seen, (std::vector<IovaRange>{{Iova{0x1000}, 0x9000}}));
  EXPECT_FALSE(answer->has_value());
  user_.kept.at(0)();
  loop_.run_until_idle();
  EXPECT_EQ(*answer, 0);
  map_->remove_user(user_);
  EXPECT_EQ(*clear(), 0) << "an empty map";
}

TEST_F(AddressMapTest, ClearOfAllAddressesTellsARangeThatIsOne) {
  const auto port = std::make_shared<testing::DeadPort>();
  ASSERT_TRUE(map_->map({.range = {Iova{0}, UINT64_C(1) << 63}, .port = port}).has_value());
  ASSERT_TRUE(map_->map({.range = {Iova{UINT64_C(1) << 63}, UINT64_C(1) << 63}, .port = port}).has_value());
  map_->add_user(user_);
  EXPECT_EQ(*clear(), 0);
  EXPECT_TRUE(user_.seen.at(0).well_formed());
  map_->remove_user(user_);
}

TEST_F(AddressMapTest, MapThatGoesAwayAnswersWhatIsWaitedFor) {
  ASSERT_EQ(map(0x1000, page), 0);
  map_->add_user(user_);
  user_.keep = true;
  const auto answer = unmap(0x1000, page);
  map_.reset();
  EXPECT_EQ(*answer, ECANCELED);
  user_.kept.at(0)();
}

TEST_F(AddressMapTest, NoAnswerComesInsideTheCallOfAUserThatLetsGo) {
  const std::function<void()> ways[] = {[&] { user_.kept.back()(); }, [&] { user_.kept.clear(); },
                                        [&] { map_->remove_user(user_); }};
  user_.keep = true;
  for (const auto& let_go : ways) {
    ASSERT_EQ(map(0x1000, page), 0);
    map_->add_user(user_);
    const auto answer = unmap(0x1000, page);
    let_go();
    EXPECT_FALSE(answer->has_value()) << "the user goes on, and an answer may destroy it";
    loop_.run_until_idle();
    EXPECT_EQ(*answer, 0);
    map_->remove_user(user_);
  }
}

TEST_F(AddressMapTest, AnAnswerThatIsOnItsWayComesNoLaterThanTheEndOfTheMap) {
  ASSERT_EQ(map(0x1000, page), 0);
  map_->add_user(user_);
  user_.keep = true;
  const auto answer = unmap(0x1000, page);
  user_.kept.at(0)();
  map_.reset();
  EXPECT_EQ(*answer, ECANCELED);
  loop_.run_until_idle();
}

TEST_F(AddressMapTest, CompletionMayDestroyTheMap) {
  ASSERT_EQ(map(0x1000, page), 0);
  map_->unmap({Iova{0x1000}, page}, [&](Status) { map_.reset(); });
  EXPECT_EQ(map_, nullptr);
}

/// A resolver that knows the first `pages` pages, one by one.
class ResolverTest : public AddressMapTest {
 protected:
  void know(std::uint64_t pages, Access access = Access::read_write) {
    map_->set_resolver([this, pages, access](IovaRange range, Access) -> std::optional<Mapping> {
      asked_.push_back(raw(range.start));
      const std::uint64_t index = raw(range.start) / page;
      if (index >= pages) return std::nullopt;
      return Mapping{.range = {Iova{index * page}, page}, .access = access, .memory = memory_, .offset = index * page};
    });
  }
  bool resolve(std::uint64_t start, std::uint64_t size) { return map_->resolve({Iova{start}, size}, Access::read); }
  std::vector<std::uint64_t> asked_;
};

TEST_F(ResolverTest, WithoutOneAHoleStaysAHole) { EXPECT_FALSE(resolve(0x1000, 1)); }

TEST_F(ResolverTest, WhatItKnowsIsInTheMapAfterwards) {
  know(8);
  EXPECT_TRUE(resolve(0x1008, 16));
  EXPECT_EQ(map_->current()->contiguous({Iova{0x1008}, 16}, Access::read), memory_->data() + 0x1008);
  EXPECT_EQ(map_->current()->generation(), map_->generation());
}

TEST_F(ResolverTest, IsAskedOnceForEachPieceThatIsMissing) {
  know(8);
  ASSERT_EQ(map(0x2000, page), 0);
  EXPECT_TRUE(resolve(0x1800, 3 * page));
  EXPECT_TRUE(resolve(0x1800, 3 * page));
  EXPECT_EQ(asked_, (std::vector<std::uint64_t>{0x1800, 0x3000, 0x4000}));
}

TEST_F(ResolverTest, AHoleBehindWhatItKnowsIsAHole) {
  know(2);
  EXPECT_FALSE(resolve(0x1000, 2 * page));
  EXPECT_FALSE(resolve(UINT64_MAX, 2));
  EXPECT_FALSE(resolve(0x1000, 0));
}

TEST_F(ResolverTest, APermissionThatIsLackingIsNotAskedForAgain) {
  know(8, Access::write);
  EXPECT_FALSE(resolve(0x1000, 8));
  EXPECT_EQ(asked_.size(), 1U);
}

TEST_F(ResolverTest, AnAnswerThatDoesNotFitIsAHole) {
  Mapping answer{.range = {Iova{0x9000}, page}, .memory = memory_};
  map_->set_resolver([&](IovaRange, Access) { return std::optional(answer); });
  EXPECT_FALSE(resolve(0x1000, 8)) << "another place";
  answer.range = {Iova{0}, 17 * page};
  EXPECT_FALSE(resolve(0x1000, 8)) << "larger than its memory";
  ASSERT_EQ(map(0x2000, page), 0);
  answer.range = {Iova{0x1000}, 2 * page};
  EXPECT_FALSE(resolve(0x1000, 8)) << "over another mapping";
  EXPECT_EQ(count(), 1U);
}

TEST_F(ResolverTest, CannotPassTheLimit) {
  know(16);
  EXPECT_FALSE(resolve(0, 9 * page));
  EXPECT_EQ(count(), 8U);
}

}  // namespace
}  // namespace outboard::memory
