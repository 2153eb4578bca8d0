// What reaches a storage whose units are larger than sectors, in which order, and what becomes of it when that fails.

#include <outboard/storage/internal/aligned_engine.hpp>

#include <cerrno>
#include <deque>
#include <memory>
#include <random>
#include <string>
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
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Field;

constexpr std::uint64_t disk_size = UINT64_C(8) << 20;
constexpr DirectRules rules{.memory = 512, .unit = 4096};

auto is(Kind kind, std::uint64_t offset, std::uint64_t length) {
  return AllOf(Field(&Seen::kind, kind), Field(&Seen::offset, offset), Field(&Seen::length, length));
}

/// A transfer, and the memory of it.
struct Transfer final : FileOp {
  explicit Transfer(Kind of, std::uint64_t at, std::size_t size, char with, std::size_t misaligned = 0)
      : memory(size + 8192, with) {
    kind = of;
    offset = at;
    void* place = memory.data();
    std::size_t room = memory.size();
    piece = {static_cast<char*>(std::align(4096, size, place, room)) + misaligned, size};
    pieces = &piece;
    piece_count = 1;
  }
  std::vector<char> memory;
  iovec piece;
  bool has_ended = false;
};

/// One queue's way to the disk.
class Queue final : public FileEngine::Client {
 public:
  Queue(Loop& loop, FaultyStorage& storage, int fd, std::shared_ptr<RangeLock> lock)
      : engine_(std::make_unique<AlignedEngine>(loop, *this, rules, std::move(lock))) {
    engine_->set_engine(storage.factory()(loop, *engine_, fd, fd).value());
  }
  Transfer& start(Kind kind, std::uint64_t offset, std::size_t size, char with = 'n', std::size_t misaligned = 0) {
    Transfer& made = transfers_.emplace_back(kind, offset, size, with, misaligned);
    engine_->start(made);
    return made;
  }
  Transfer& zero(std::uint64_t offset, std::uint64_t length) {
    Transfer& made = transfers_.emplace_back(Kind::allocate, offset, 0, 'z');
    made.mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
    made.length = length;
    engine_->start(made);
    return made;
  }
  void submit() { engine_->submit(); }
  void go() { engine_.reset(); }

 private:
  void ended(FileOp& op) override {
    auto& transfer = static_cast<Transfer&>(op);
    EXPECT_FALSE(transfer.has_ended) << "ended twice";
    transfer.has_ended = true;
  }
  std::deque<Transfer> transfers_;
  std::unique_ptr<AlignedEngine> engine_;
};

class AStorageOfLargeUnits : public ::testing::Test {
 protected:
  void SetUp() override {
    file_ = dir_.make_file("disk.raw", disk_size);
    const std::vector<char> old(disk_size, 'o');
    ASSERT_EQ(::pwrite(file_.get(), old.data(), old.size(), 0), static_cast<ssize_t>(old.size()));
    for (auto* queue : {&first_, &second_}) *queue = std::make_unique<Queue>(loop_, storage_, file_.get(), lock_);
  }
  void run() {
    for (auto* queue : {&first_, &second_}) (*queue)->submit();
    loop_.run_until_idle();
  }
  std::string on_disk(std::uint64_t offset, std::size_t size) const {
    std::string bytes(size, '?');
    EXPECT_EQ(::pread(file_.get(), bytes.data(), size, static_cast<off_t>(offset)), static_cast<ssize_t>(size));
    return bytes;
  }
  Transfer& write(std::uint64_t offset, std::size_t size, char with = 'n') {
    return first_->start(Kind::write, offset, size, with);
  }

  outboard::testing::TempDir dir_;
  UniqueFd file_;
  outboard::testing::ManualLoop loop_;
  FaultyStorage storage_;
  std::shared_ptr<RangeLock> lock_ = std::make_shared<RangeLock>();
  std::unique_ptr<Queue> first_;
  std::unique_ptr<Queue> second_;
};

TEST_F(AStorageOfLargeUnits, IsGivenWholeUnitsByODirectOnly) {
  const Transfer& whole = write(0, 8192);
  const Transfer& sector = write(8192 + 512, 512);
  const Transfer& across = write(16384 + 512, 8192);
  const Transfer& misaligned = first_->start(Kind::write, 32768, 4096, 'n', 1);
  const Transfer& odd = first_->start(Kind::read, 8192 + 512, 1024, '?', 64);
  run();
  for (const Seen& op : storage_.seen) {
    EXPECT_TRUE(op.direct);
    EXPECT_EQ(op.offset % 4096, 0U);
    EXPECT_EQ(op.length % 4096, 0U);
  }
  EXPECT_EQ(whole.result, 8192);
  EXPECT_EQ(sector.result, 512);
  EXPECT_EQ(across.result, 8192);
  EXPECT_EQ(misaligned.result, 4096);
  EXPECT_EQ(odd.result, 1024);
  EXPECT_EQ(on_disk(0, 12288),
            std::string(8192, 'n') + std::string(512, 'o') + std::string(512, 'n') + std::string(3072, 'o'));
  EXPECT_EQ(on_disk(16384, 12288), std::string(512, 'o') + std::string(8192, 'n') + std::string(3584, 'o'));
  EXPECT_EQ(on_disk(32768, 8192), std::string(4096, 'n') + std::string(4096, 'o'));
}

TEST_F(AStorageOfLargeUnits, ReadsTheUnitsAtBothEndsAndWritesOnce) {
  write(4096 + 512, 8192);
  run();
  EXPECT_THAT(storage_.seen,
              ElementsAre(is(Kind::read, 4096, 4096), is(Kind::read, 12288, 4096), is(Kind::write, 4096, 12288)));
  storage_.seen.clear();
  write(4096, 4096 + 512);
  run();
  EXPECT_THAT(storage_.seen, ElementsAre(is(Kind::read, 8192, 4096), is(Kind::write, 4096, 8192)));
}

TEST_F(AStorageOfLargeUnits, KeepsAllSectorsOfAUnitThatAreWrittenAtOnceByTwoQueues) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    std::minstd_rand random(seed);
    storage_.newest_first = seed % 2 == 0;
    storage_.plan = [&random](const Seen&) {
      Fault fault;
      fault.late = static_cast<unsigned>(random() % 3);
      return fault;
    };
    std::string expected;
    for (unsigned i = 0; i < 16; ++i) {
      const char with = static_cast<char>('a' + (i + seed) % 26);
      (i % 2 == 0 ? *first_ : *second_).start(Kind::write, i * 512, 512, with);
      expected += std::string(512, with);
    }
    run();
    ASSERT_EQ(on_disk(0, 8192), expected) << "seed " << seed;
  }
}

TEST_F(AStorageOfLargeUnits, APartOfAUnitWaitsForAWriteOfTheWholeAndTheOtherWayRound) {
  storage_.plan = [](const Seen& op) { return op.length == 8192 ? Fault::hang() : Fault(); };
  const Transfer& whole = write(0, 8192, 'w');
  const Transfer& part = second_->start(Kind::write, 512, 512, 'p');
  const Transfer& beside = second_->start(Kind::write, 8192 + 512, 512, 'b');
  run();
  EXPECT_FALSE(whole.has_ended);
  EXPECT_FALSE(part.has_ended);
  EXPECT_TRUE(beside.has_ended) << "another unit";
  storage_.release();
  run();
  EXPECT_TRUE(part.has_ended);
  EXPECT_EQ(on_disk(0, 4096), std::string(512, 'w') + std::string(512, 'p') + std::string(3072, 'w'));

  storage_.plan = [](const Seen& op) { return op.kind == Kind::read ? Fault::hang() : Fault(); };
  const Transfer& reading = write(512, 512, 'q');
  const Transfer& late = second_->start(Kind::write, 0, 8192, 'l');
  run();
  EXPECT_FALSE(late.has_ended);
  storage_.release();
  run();
  EXPECT_TRUE(reading.has_ended);
  EXPECT_EQ(on_disk(0, 8192), std::string(8192, 'l'));
}

TEST_F(AStorageOfLargeUnits, ZeroingAUnitWaitsUntilAPartOfItHasBeenWritten) {
  storage_.plan = [](const Seen& op) { return op.kind == Kind::read ? Fault::hang() : Fault(); };
  write(512, 512, 'p');
  Transfer& zeroing = second_->zero(0, 4096);
  run();
  EXPECT_FALSE(zeroing.has_ended);
  storage_.release();
  run();
  EXPECT_EQ(zeroing.result, 0);
  EXPECT_EQ(on_disk(0, 4096), std::string(4096, '\0')) << "no byte that was read before comes back";
}

TEST_F(AStorageOfLargeUnits, ReadsWaitForNobody) {
  storage_.plan = [](const Seen& op) { return op.kind == Kind::write ? Fault::hang() : Fault(); };
  const Transfer& part = write(512, 512);
  const Transfer& read = second_->start(Kind::read, 0, 4096, '?');
  run();
  EXPECT_FALSE(part.has_ended);
  EXPECT_EQ(read.result, 4096);
  storage_.release();
  run();
}

TEST_F(AStorageOfLargeUnits, AFailureOfAnyStepEndsTheWriteAndFreesItsUnits) {
  for (unsigned step = 0; step < 3; ++step) {
    unsigned count = 0;
    storage_.plan = [&](const Seen&) { return count++ == step ? Fault::fails(EIO) : Fault(); };
    const Transfer& failed = write(512, 4096);
    run();
    EXPECT_TRUE(failed.has_ended);
    EXPECT_EQ(failed.result, -EIO);
    EXPECT_EQ(count, step + 1) << "nothing is written after a failure";
    EXPECT_EQ(on_disk(0, 8192), std::string(8192, 'o'));
    const Transfer& next = second_->start(Kind::write, 512, 512, 'o');
    run();
    EXPECT_EQ(next.result, 512);
  }
}

TEST_F(AStorageOfLargeUnits, NothingIsToldOfPartsOfUnits) {
  // The client would go on in the middle of a unit.
  for (const std::uint64_t bytes : {100U, 4096U, 5000U}) {
    for (const std::size_t misaligned : {std::size_t{0}, std::size_t{1}}) {
      storage_.plan = [bytes](const Seen& op) { return op.kind == Kind::write ? Fault::part(bytes) : Fault(); };
      const Transfer& whole = first_->start(Kind::write, 65536, 8192, 'n', misaligned);
      run();
      EXPECT_EQ(whole.result, bytes < 4096 ? -EAGAIN : 4096);
      const Transfer& odd = write(512, 8192);
      run();
      EXPECT_EQ(odd.result, bytes < 4096 ? -EAGAIN : 4096 - 512);
    }
  }
}

TEST_F(AStorageOfLargeUnits, AUnitThatCanOnlyBeReadInPartIsNotWritten) {
  storage_.plan = [](const Seen& op) { return op.kind == Kind::read ? Fault::part(1000) : Fault(); };
  const Transfer& part = write(512, 512);
  run();
  EXPECT_EQ(part.result, -EAGAIN);
  EXPECT_THAT(storage_.seen, ElementsAre(is(Kind::read, 0, 4096)));
}

TEST_F(AStorageOfLargeUnits, ALargeTransferGoesInStepsThatFitTheMemory) {
  constexpr std::size_t max_steps = AlignedEngine::budget / AlignedEngine::max_step;
  storage_.plan = [](const Seen&) { return Fault::hang(); };
  std::vector<Transfer*> large;
  for (unsigned i = 0; i < max_steps + 3; ++i)
    large.push_back(
        &first_->start(Kind::write, i * (AlignedEngine::max_step + 4096), AlignedEngine::max_step + 4096, 'n', 1));
  run();
  EXPECT_EQ(storage_.seen.size(), max_steps);
  EXPECT_THAT(storage_.seen, Each(Field(&Seen::length, AlignedEngine::max_step)));
  const Transfer& aligned = write(disk_size - 4096, 4096);
  run();
  EXPECT_EQ(storage_.seen.size(), max_steps + 1) << "which needs no memory";
  storage_.plan = [](const Seen&) { return Fault(); };
  storage_.release();
  run();
  EXPECT_EQ(storage_.seen.size(), max_steps + 1 + 3);
  for (const Transfer* each : large) EXPECT_EQ(each->result, static_cast<ssize_t>(AlignedEngine::max_step));
  EXPECT_EQ(aligned.result, 4096);
}

TEST_F(AStorageOfLargeUnits, WhatItRefusesGoesThroughMemoryOfPages) {
  storage_.plan = [](const Seen& op) { return op.in_pages ? Fault() : Fault::fails(EINVAL); };
  const Transfer& refused = first_->start(Kind::write, 4096, 4096, 'n', 512);
  const Transfer& read = second_->start(Kind::read, 8192, 4096, '?', 512);
  run();
  EXPECT_EQ(refused.result, 4096);
  EXPECT_EQ(read.result, 4096);
  EXPECT_THAT(storage_.seen, Each(Field(&Seen::direct, true)));
  EXPECT_EQ(on_disk(4096, 4096), std::string(4096, 'n'));
  storage_.plan = [](const Seen&) { return Fault::fails(EINVAL); };
  const Transfer& never = write(4096, 4096);
  run();
  EXPECT_EQ(never.result, -EINVAL);
}

TEST_F(AStorageOfLargeUnits, AQueueThatGoesInTheMiddleOfAWriteLetsOthersGoOn) {
  storage_.plan = [](const Seen& op) { return op.kind == Kind::read ? Fault::hang() : Fault(); };
  const Transfer& reading = write(512, 512, 'x');   // has its unit
  const Transfer& waits = write(1024, 512, 'x');  // waits for it
  run();
  const Transfer& next = second_->start(Kind::write, 0, 4096);
  run();
  EXPECT_FALSE(next.has_ended);
  first_->go();
  EXPECT_FALSE(reading.has_ended || waits.has_ended) << "nobody is told";
  second_->submit();
  loop_.run_until_idle();
  EXPECT_TRUE(next.has_ended);
  EXPECT_EQ(on_disk(0, 4096), std::string(4096, 'n'));
  first_ = std::make_unique<Queue>(loop_, storage_, file_.get(), lock_);
}

TEST_F(AStorageOfLargeUnits, AQueueThatGoesBeforeItHearsOfItsUnitIsNotToldAnyMore) {
  storage_.plan = [](const Seen& op) { return op.length == 8192 ? Fault::hang() : Fault(); };
  write(0, 8192);
  second_->start(Kind::write, 512, 512, 'x');
  run();
  storage_.release();
  first_->submit();
  second_->go();
  loop_.run_until_idle();
  EXPECT_EQ(on_disk(0, 8192), std::string(8192, 'n'));
  second_ = std::make_unique<Queue>(loop_, storage_, file_.get(), lock_);
}

TEST_F(AStorageOfLargeUnits, AWriteOfPartsOfSectorsIsRefused) {
  EXPECT_EQ(write(1, 512).result, -EINVAL);
  EXPECT_EQ(write(0, 511).result, -EINVAL);
  const Transfer& read = first_->start(Kind::read, 3, 5, '?');
  run();
  EXPECT_EQ(read.result, 5);
}

}  // namespace
}  // namespace outboard::storage
