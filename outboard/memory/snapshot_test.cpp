#include <gtest/gtest.h>

#include <iterator>
#include <map>
#include <random>
#include <vector>

#include <outboard/memory/address_map.hpp>
#include <outboard/testing/manual_loop.hpp>
#include <tests/support/dead_port.hpp>

namespace outboard::memory {
namespace {

constexpr std::uint64_t page = 4096;

class SnapshotTest : public ::testing::Test {
 protected:
  int map(std::uint64_t start, std::uint64_t size, Access access = Access::read_write, std::uint64_t offset = 0) {
    const auto done = map_.map({.range = {Iova{start}, size}, .access = access, .memory = memory_, .offset = offset});
    return done ? 0 : done.error().code();
  }
  int map_port(std::uint64_t start, std::uint64_t size) {
    auto port = std::make_shared<testing::DeadPort>();
    const auto done = map_.map({.range = {Iova{start}, size}, .port = std::move(port)});
    return done ? 0 : done.error().code();
  }
  int unmap(std::uint64_t start, std::uint64_t size) {
    int code = -1;
    map_.unmap({Iova{start}, size}, [&](Status status) { code = status ? 0 : status.error().code(); });
    return code;
  }
  /// The pieces behind a range, as offsets in the memory.
  struct Found {
    Lookup lookup;
    std::vector<std::pair<std::uint64_t, std::uint64_t>> pieces;
    friend bool operator==(const Found&, const Found&) = default;
  };
  Found translate(std::uint64_t start, std::uint64_t size, Access access = Access::read) {
    Found found{};
    found.lookup = map_.current()->translate({Iova{start}, size}, access, &hint_, [&](Segment segment) {
      found.pieces.emplace_back(segment.data - memory_->data(), segment.size);
    });
    return found;
  }

  testing::ManualLoop loop_;
  AddressMap map_{loop_};
  std::shared_ptr<HostMemory> memory_ = *HostMemory::anonymous(64 * page);
  std::size_t hint_ = 0;
};

TEST_F(SnapshotTest, RangeMayRunOnThroughAdjacentMappings) {
  ASSERT_EQ(map(0x1000, page, Access::read_write, 0), 0);
  ASSERT_EQ(map(0x2000, page, Access::read_write, 8 * page), 0);
  ASSERT_EQ(map(0x3000, page, Access::read_write, 4 * page), 0);
  EXPECT_EQ(translate(0x1800, 0x2000), (Found{Lookup::ok, {{0x800, 0x800}, {8 * page, page}, {4 * page, 0x800}}}));
  EXPECT_EQ(translate(0x1000, 0x3000).pieces.size(), 3U);
}

TEST_F(SnapshotTest, RangeStopsAtTheFirstHole) {
  ASSERT_EQ(map(0x1000, page), 0);
  ASSERT_EQ(map(0x3000, page), 0);
  EXPECT_EQ(translate(0x1800, 0x2000), (Found{Lookup::hole, {{0x800, 0x800}}}));
  EXPECT_EQ(translate(0x0, 8).lookup, Lookup::hole);
  EXPECT_EQ(translate(0xfff, 1).lookup, Lookup::hole);
  EXPECT_EQ(translate(0x2000, 1).lookup, Lookup::hole);
  EXPECT_EQ(translate(0x4000, 1).lookup, Lookup::hole);
  EXPECT_EQ(translate(0x3fff, 2).lookup, Lookup::hole);
}

TEST_F(SnapshotTest, NoBytesAreAlwaysThere) { EXPECT_EQ(translate(0x1234, 0), (Found{Lookup::ok, {}})); }

TEST_F(SnapshotTest, RangeThatWrapsIsAHole) {
  ASSERT_EQ(map(UINT64_MAX - page + 1, page), 0);
  ASSERT_EQ(map(0, page), 0);
  EXPECT_EQ(translate(UINT64_MAX - 3, 8), (Found{Lookup::hole, {}}));
  EXPECT_EQ(translate(2, UINT64_MAX).lookup, Lookup::hole);
}

TEST_F(SnapshotTest, MappingMayEndWithTheLastAddress) {
  ASSERT_EQ(map(UINT64_MAX - page + 1, page), 0);
  EXPECT_EQ(translate(UINT64_MAX - 3, 4), (Found{Lookup::ok, {{page - 4, 4}}}));
  EXPECT_EQ(translate(UINT64_MAX, 1), (Found{Lookup::ok, {{page - 1, 1}}}));
  EXPECT_NE(map_.current()->find(Iova{UINT64_MAX}), nullptr);
  EXPECT_EQ(unmap(UINT64_MAX - page + 1, page), 0);
  EXPECT_EQ(translate(UINT64_MAX, 1).lookup, Lookup::hole);
}

TEST_F(SnapshotTest, PermissionIsThatOfEachMappingOnTheWay) {
  ASSERT_EQ(map(0x1000, page, Access::read_write), 0);
  ASSERT_EQ(map(0x2000, page, Access::read), 0);
  ASSERT_EQ(map(0x3000, page, Access::write), 0);
  EXPECT_EQ(translate(0x1000, 0x2000, Access::read).lookup, Lookup::ok);
  EXPECT_EQ(translate(0x1000, 0x2000, Access::write), (Found{Lookup::denied, {{0, page}}}));
  EXPECT_EQ(translate(0x3000, 1, Access::read).lookup, Lookup::denied);
  EXPECT_EQ(translate(0x3000, 1, Access::write).lookup, Lookup::ok);
  EXPECT_EQ(translate(0x2000, 1, Access::read_write).lookup, Lookup::denied);
}

TEST_F(SnapshotTest, MemoryBehindAPortIsRemote) {
  ASSERT_EQ(map(0x1000, page), 0);
  ASSERT_EQ(map_port(0x2000, page), 0);
  EXPECT_EQ(translate(0x1000, page).lookup, Lookup::ok);
  EXPECT_EQ(translate(0x1000, 2 * page), (Found{Lookup::remote, {{0, page}}}));
  EXPECT_EQ(map_.current()->check({Iova{0x1000}, 2 * page}, Access::read), Lookup::remote);
  EXPECT_EQ(map_.current()->check({Iova{0x1000}, 3 * page}, Access::read), Lookup::hole);
  EXPECT_EQ(map_.current()->contiguous({Iova{0x2000}, 8}, Access::read), nullptr);
}

TEST_F(SnapshotTest, PortMayStandBehindAllOfTheUpperHalf) {
  ASSERT_EQ(map_port(UINT64_C(1) << 63, UINT64_C(1) << 63), 0);
  EXPECT_EQ(map_.current()->check({Iova{UINT64_C(1) << 63}, UINT64_C(1) << 63}, Access::read), Lookup::remote);
}

TEST_F(SnapshotTest, ContiguousStaysInsideOneMapping) {
  ASSERT_EQ(map(0x1000, page), 0);
  ASSERT_EQ(map(0x2000, page, Access::read, page), 0);
  const auto snapshot = map_.current();
  EXPECT_EQ(snapshot->contiguous({Iova{0x1010}, 16}, Access::read_write), memory_->data() + 0x10);
  EXPECT_EQ(snapshot->contiguous({Iova{0x1ff8}, 16}, Access::read), nullptr);
  EXPECT_EQ(snapshot->contiguous({Iova{0x2000}, 16}, Access::write), nullptr);
  EXPECT_EQ(snapshot->contiguous({Iova{0x5000}, 16}, Access::read), nullptr);
  EXPECT_EQ(snapshot->contiguous({Iova{0x1000}, 0}, Access::read), nullptr);
}

TEST_F(SnapshotTest, HintOfAnotherSnapshotDoesNoHarm) {
  for (std::uint64_t i = 0; i < 500; ++i) ASSERT_EQ(map(i * page, page), 0);
  EXPECT_EQ(translate(499 * page, 8).lookup, Lookup::ok);
  EXPECT_NE(hint_, 0U);
  ASSERT_EQ(unmap(0, 499 * page), 0);
  EXPECT_EQ(translate(499 * page, 8).lookup, Lookup::ok);
  for (const std::size_t wild : {std::size_t{63}, std::size_t{1000}, SIZE_MAX}) {
    hint_ = wild;
    EXPECT_EQ(translate(499 * page, 8).lookup, Lookup::ok);
  }
}

TEST_F(SnapshotTest, JoiningChunksWhereARangeWasRemovedLosesNoMapping) {
  // Full chunks, then two of them made short, with full ones between and behind: a removal where two full ones meet takes
  // the short neighbours along, and has more to put back than two chunks hold.
  constexpr std::uint64_t chunk = 64;
  for (std::uint64_t i = 0; i < 6 * chunk; ++i) ASSERT_EQ(map(i * page, page), 0);
  ASSERT_EQ(unmap(0, (chunk - 10) * page), 0);
  ASSERT_EQ(unmap(3 * chunk * page, (chunk - 10) * page), 0);
  ASSERT_EQ(unmap((2 * chunk - 1) * page, 2 * page), 0);
  for (std::uint64_t i = 0; i < 6 * chunk; ++i) {
    const bool gone = i < chunk - 10 || (i >= 3 * chunk && i < 4 * chunk - 10) || i == 2 * chunk - 1 || i == 2 * chunk;
    const Mapping* found = map_.current()->find(Iova{i * page});
    ASSERT_EQ(found != nullptr, !gone) << i;
    if (!gone) {
      ASSERT_EQ(raw(found->range.start), i * page);
    }
  }
}

/// The map against a plain std::map, with a fixed seed: chunks are split, joined and shared in all ways.
TEST_F(SnapshotTest, AgreesWithASimpleModelOverRandomChanges) {
  std::mt19937_64 random(20240607);
  std::map<std::uint64_t, std::uint64_t> model;  // first page to number of pages
  const std::uint64_t pages = 3000;
  for (int step = 0; step < 6000; ++step) {
    const std::uint64_t first = random() % pages;
    const std::uint64_t count = 1 + random() % (random() % 10 == 0 ? 400 : 3);
    std::vector<std::uint64_t> inside;
    bool overlaps = false;
    bool cut = false;
    for (const auto& [start, size] : model) {
      if (start + size <= first || start >= first + count) continue;
      overlaps = true;
      (start >= first && start + size <= first + count) ? inside.push_back(start) : void(cut = true);
    }
    if (random() % 3 != 0) {
      const std::uint64_t small = std::min<std::uint64_t>(count, 64);
      const auto next = model.lower_bound(first);
      const bool blocked = (next != model.end() && next->first < first + small) ||
                           (next != model.begin() && std::prev(next)->first + std::prev(next)->second > first);
      ASSERT_EQ(map(first * page, small * page), blocked ? EEXIST : 0) << step;
      if (!blocked) model.emplace(first, small);
    } else {
      ASSERT_EQ(unmap(first * page, count * page), cut ? EINVAL : overlaps ? 0 : ENOENT) << step;
      for (const auto start : cut ? std::vector<std::uint64_t>{} : inside) model.erase(start);
    }
    const auto snapshot = map_.current();
    ASSERT_EQ(snapshot->mapping_count(), model.size());
    const std::uint64_t probe = random() % pages;
    const auto after = model.upper_bound(probe);
    const bool there = after != model.begin() && std::prev(after)->first + std::prev(after)->second > probe;
    const Mapping* found = snapshot->find(Iova{probe * page + 17});
    ASSERT_EQ(found != nullptr, there) << step;
    if (there) {
      ASSERT_EQ(raw(found->range.start), std::prev(after)->first * page);
    }
  }
  auto expected = model.begin();
  map_.current()->for_each([&](const Mapping& mapping) {
    EXPECT_EQ(raw(mapping.range.start), expected->first * page);
    EXPECT_EQ(mapping.range.size, expected++->second * page);
  });
  EXPECT_EQ(expected, model.end());
}

}  // namespace
}  // namespace outboard::memory
