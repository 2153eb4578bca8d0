// What a disk does when the kernel's calls do not: short, torn, interrupted, refused, late, never.

#include <outboard/storage/raw_file.hpp>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <vector>

#include <linux/falloc.h>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <outboard/testing/manual_loop.hpp>
#include <tests/support/faulty_engine.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::storage {
namespace {

using Kind = FileOp::Kind;
using outboard::testing::Fault;
using outboard::testing::FaultyStorage;
using Seen = FaultyStorage::Seen;

constexpr std::uint64_t disk_size = 4 << 20;

bool is_transfer(const Seen& op) { return op.kind == Kind::read || op.kind == Kind::write; }

class ADiskWithFaults : public ::testing::Test {
 protected:
  void SetUp() override {
    file_ = dir_.make_file("disk.raw", disk_size);
    std::vector<char> old(disk_size, 'o');
    ASSERT_EQ(::pwrite(file_.get(), old.data(), old.size(), 0), static_cast<ssize_t>(old.size()));
    ASSERT_TRUE(open(false));
  }
  bool open(bool direct) {
    disk_.reset();
    auto opened = RawFile::open(
        loop_, {.path = dir_.path("disk.raw"), .direct = direct, .make_engine = storage_.factory()}, Log());
    EXPECT_TRUE(opened) << opened.error().message();
    if (opened) disk_ = std::move(*opened);
    return disk_ != nullptr;
  }
  template <typename Start>
  std::optional<int> run(Start&& start) {
    std::optional<int> result;
    start([&result](int error) { result = error; });
    disk_->submit();
    loop_.run_until_idle();
    return result;
  }
  std::optional<int> write(std::uint64_t offset, std::span<const iovec> pieces) {
    return run([&](auto done) { disk_->write(offset, pieces, done); });
  }
  std::optional<int> write(std::uint64_t offset, std::vector<char>& bytes) {
    const iovec piece{bytes.data(), bytes.size()};
    return write(offset, std::span(&piece, 1));
  }
  std::vector<char> on_disk(std::uint64_t offset, std::size_t size) const {
    std::vector<char> bytes(size);
    EXPECT_EQ(::pread(file_.get(), bytes.data(), size, static_cast<off_t>(offset)), static_cast<ssize_t>(size));
    return bytes;
  }
  std::size_t count(Kind kind) const {
    return static_cast<std::size_t>(
        std::ranges::count_if(storage_.seen, [kind](const Seen& op) { return op.kind == kind; }));
  }

  outboard::testing::TempDir dir_;
  UniqueFd file_;
  outboard::testing::ManualLoop loop_;
  FaultyStorage storage_;
  std::unique_ptr<RawFile> disk_;
};

TEST_F(ADiskWithFaults, GoesOnBehindAShortTransferWhereverThatEndedInsideAPiece) {
  // Pieces of odd sizes, and every transfer ends after 1000 bytes: in the middle of one, and across several.
  storage_.plan = [](const Seen& op) { return is_transfer(op) && op.length > 1000 ? Fault::part(1000) : Fault(); };
  std::vector<char> bytes(7000);
  std::iota(bytes.begin(), bytes.end(), '\0');
  const std::array pieces = {iovec{bytes.data(), 300}, iovec{bytes.data() + 300, 100}, iovec{bytes.data() + 400, 5000},
                             iovec{bytes.data() + 5400, 0}, iovec{bytes.data() + 5400, 1600}};
  EXPECT_EQ(write(512, pieces), 0);
  EXPECT_EQ(on_disk(512, 7000), bytes);
  EXPECT_EQ(on_disk(7512, 512), std::vector<char>(512, 'o'));
  std::vector<char> back(7000);
  const std::array into = {iovec{back.data(), 2999}, iovec{back.data() + 2999, 4001}};
  EXPECT_EQ(run([&](auto done) { disk_->read(512, into, done); }), 0);
  EXPECT_EQ(back, bytes);
}

TEST_F(ADiskWithFaults, TriesAgainWhatWasInterrupted) {
  for (const int error : {EINTR, EAGAIN}) {
    for (const Kind kind : {Kind::read, Kind::write, Kind::sync, Kind::allocate}) {
      unsigned left = 20;
      storage_.plan = [&](const Seen& op) {
        return op.kind == kind && left != 0 && left-- != 0 ? Fault::fails(error) : Fault();
      };
      std::vector<char> bytes(1024, 'n');
      const iovec piece{bytes.data(), bytes.size()};
      EXPECT_EQ(run([&](auto done) {
                  if (kind == Kind::read) return disk_->read(0, std::span(&piece, 1), done);
                  if (kind == Kind::write) return disk_->write(0, std::span(&piece, 1), done);
                  if (kind == Kind::sync) return disk_->flush(done);
                  disk_->discard(8192, 4096, done);
                }),
                0);
      EXPECT_EQ(left, 0U);
    }
  }
}

TEST_F(ADiskWithFaults, GivesUpWhatIsInterruptedForEver) {
  storage_.plan = [](const Seen&) { return Fault::fails(EAGAIN); };
  std::vector<char> bytes(512, 'n');
  EXPECT_EQ(write(0, bytes), EAGAIN);
}

TEST_F(ADiskWithFaults, PassesErrorsOn) {
  for (const int error : {ENOSPC, EIO, EFBIG}) {
    storage_.plan = [error](const Seen&) { return Fault::fails(error); };
    std::vector<char> bytes(1024, 'n');
    EXPECT_EQ(write(0, bytes), error);
    EXPECT_EQ(run([&](auto done) { disk_->discard(0, 4096, done); }), error);
    EXPECT_EQ(run([&](auto done) { disk_->write_zeroes(0, 4096, true, done); }), error);
  }
}

TEST_F(ADiskWithFaults, ATornWriteIsAnErrorAndNotDoneAgain) {
  storage_.plan = [](const Seen&) { return Fault::torn(700, EIO); };
  std::vector<char> bytes(2048, 'n');
  EXPECT_EQ(write(0, bytes), EIO);
  EXPECT_EQ(count(Kind::write), 1U);
  EXPECT_EQ(on_disk(700, 1348), std::vector<char>(1348, 'o'));
}

TEST_F(ADiskWithFaults, AWriteOfNothingIsAnError) {
  storage_.plan = [](const Seen&) { return Fault::part(0); };
  std::vector<char> bytes(512, 'n');
  EXPECT_EQ(write(0, bytes), EIO);
}

TEST_F(ADiskWithFaults, WhatODirectRefusesNeverGoesThroughThePageCache) {
  ASSERT_TRUE(open(true));
  if (disk_->description().find("O_DIRECT") == std::string::npos) GTEST_SKIP() << "this file system has no O_DIRECT";
  std::vector<char> bytes(8192 + 1, 'n');
  const std::array pieces = {iovec{bytes.data() + 1, 448}, iovec{bytes.data() + 449, 8192 - 448}};
  EXPECT_EQ(write(4096, pieces), 0);
  storage_.plan = [](const Seen& op) { return op.in_pages ? Fault() : Fault::fails(EINVAL); };
  std::unique_ptr<char, decltype(&std::free)> memory(static_cast<char*>(std::aligned_alloc(4096, 8192)), &std::free);
  std::fill_n(memory.get(), 8192, 'm');
  const std::array halves = {iovec{memory.get(), 512}, iovec{memory.get() + 512, 8192 - 512}};
  EXPECT_EQ(write(16384, halves), 0);
  EXPECT_EQ(on_disk(4096, 8192), std::vector<char>(8192, 'n'));
  EXPECT_EQ(on_disk(16384, 8192), std::vector<char>(8192, 'm'));
  storage_.plan = [](const Seen& op) { return is_transfer(op) ? Fault::fails(EINVAL) : Fault(); };
  EXPECT_EQ(write(4096, pieces), EINVAL);
  EXPECT_EQ(run([&](auto done) { disk_->read(4096, halves, done); }), EINVAL);
  for (const Seen& op : storage_.seen) EXPECT_EQ(op.direct, is_transfer(op));
}

TEST_F(ADiskWithFaults, ARangeThatIsRefusedSaysNothingOfTheNextOne) {
  for (const int refusal : {EINVAL, EOPNOTSUPP}) {
    storage_.seen.clear();
    storage_.plan = [refusal](const Seen& op) {
      return op.kind == Kind::allocate && op.length < 4096 ? Fault::fails(refusal) : Fault();
    };
    EXPECT_EQ(run([&](auto done) { disk_->discard(512, 512, done); }), 0);
    EXPECT_EQ(run([&](auto done) { disk_->write_zeroes(1024, 512, true, done); }), 0);
    EXPECT_EQ(on_disk(1024, 512), std::vector<char>(512, '\0')) << "zeros are written where they cannot be made";
    storage_.seen.clear();
    EXPECT_EQ(run([&](auto done) { disk_->discard(65536, 65536, done); }), 0);
    EXPECT_EQ(run([&](auto done) { disk_->write_zeroes(131072, 65536, true, done); }), 0);
    ASSERT_EQ(storage_.seen.size(), 2U);
    EXPECT_EQ(storage_.seen[0].mode, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE);
    EXPECT_EQ(storage_.seen[1].mode, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE);
    EXPECT_EQ(on_disk(65536, 131072), std::vector<char>(131072, '\0'));
  }
}

TEST_F(ADiskWithFaults, WhatTheStorageDoesNotDoInOneWayIsDoneInTheNext) {
  storage_.plan = [](const Seen& op) { return op.kind == Kind::allocate ? Fault::fails(EOPNOTSUPP) : Fault(); };
  EXPECT_EQ(run([&](auto done) { disk_->write_zeroes(512, (2 << 20) + 512, true, done); }), 0);
  EXPECT_EQ(on_disk(512, (2 << 20) + 512), std::vector<char>((2 << 20) + 512, '\0'));
  EXPECT_EQ(on_disk(0, 512), std::vector<char>(512, 'o'));
  EXPECT_EQ(on_disk((2 << 20) + 1024, 512), std::vector<char>(512, 'o'));
}

TEST_F(ADiskWithFaults, WhatHangsKeepsNothingElseWaiting) {
  storage_.plan = [](const Seen& op) { return op.offset == 0 ? Fault::hang() : Fault(); };
  std::vector<char> bytes(512, 'n');
  const iovec piece{bytes.data(), bytes.size()};
  std::optional<int> stuck;
  disk_->write(0, std::span(&piece, 1), [&](int error) { stuck = error; });
  EXPECT_EQ(write(4096, bytes), 0);
  EXPECT_FALSE(stuck);
  storage_.release();
  loop_.run_until_idle();
  EXPECT_EQ(stuck, 0);
}

TEST_F(ADiskWithFaults, WhatEndsInAnyOrderEndsForWhoeverStartedIt) {
  constexpr std::size_t count = 64;
  std::vector<std::vector<char>> bytes;
  std::vector<iovec> pieces;
  for (std::size_t i = 0; i < count; ++i) bytes.emplace_back(4096, static_cast<char>('a' + i % 26));
  for (auto& each : bytes) pieces.push_back({each.data(), each.size()});
  for (unsigned seed = 1; seed <= 20; ++seed) {
    storage_.be_difficult(seed);
    std::size_t ended = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t at = (i + seed) % count;
      disk_->write(at * 4096, std::span(&pieces[i], 1), [&](int error) { ended += error == 0 ? 1U : 0U; });
    }
    disk_->submit();
    loop_.run_until_idle();
    ASSERT_EQ(ended, count) << "seed " << seed;
    for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(on_disk((i + seed) % count * 4096, 4096), bytes[i]);
  }
}

}  // namespace
}  // namespace outboard::storage
