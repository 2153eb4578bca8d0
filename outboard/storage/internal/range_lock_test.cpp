// Who waits for whom.

#include <outboard/storage/internal/range_lock.hpp>

#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace outboard::storage {
namespace {

using ::testing::ElementsAre;
using Mode = RangeLock::Mode;
using Ticket = RangeLock::Ticket;

class Somebody final : public RangeLock::Owner {
 public:
  std::atomic<unsigned> woken{0};

 private:
  void wake() override { ++woken; }
};

class ARangeLock : public ::testing::Test {
 protected:
  Ticket ticket(std::uint64_t begin, std::uint64_t end, Mode mode) {
    Ticket made;
    made.owner = &owner_;
    made.begin = begin;
    made.end = end;
    made.lock_mode = mode;
    return made;
  }
  auto granted() { return lock_.take_granted(owner_); }

  RangeLock lock_;
  Somebody owner_;
};

TEST_F(ARangeLock, SharesWhatIsSharedAndWhatDoesNotOverlap) {
  auto first = ticket(0, 8192, Mode::shared);
  auto second = ticket(4096, 16384, Mode::shared);
  auto third = ticket(16384, 20480, Mode::exclusive);
  auto fourth = ticket(20480, 24576, Mode::exclusive);
  for (Ticket* each : {&first, &second, &third, &fourth}) EXPECT_TRUE(lock_.acquire(*each));
  for (Ticket* each : {&second, &first, &fourth, &third}) lock_.release(*each);
  EXPECT_EQ(owner_.woken, 0U);
}

TEST_F(ARangeLock, HasOneExclusiveHolderAtATimeInTheOrderOfAsking) {
  std::array<Ticket, 3> tickets;
  for (Ticket& each : tickets) each = ticket(0, 4096, Mode::exclusive);
  EXPECT_TRUE(lock_.acquire(tickets[0]));
  EXPECT_FALSE(lock_.acquire(tickets[1]));
  EXPECT_FALSE(lock_.acquire(tickets[2]));
  lock_.release(tickets[0]);
  EXPECT_EQ(owner_.woken, 1U);
  EXPECT_TRUE(owner_.has_granted());
  EXPECT_THAT(granted(), ElementsAre(&tickets[1]));
  EXPECT_FALSE(owner_.has_granted());
  lock_.release(tickets[1]);
  EXPECT_THAT(granted(), ElementsAre(&tickets[2]));
  lock_.release(tickets[2]);
}

TEST_F(ARangeLock, LetsNobodyOvertakeWhoWaits) {
  auto writing = ticket(0, 4096, Mode::shared);
  auto unit = ticket(0, 8192, Mode::exclusive);
  auto late = ticket(4096, 8192, Mode::shared);
  EXPECT_TRUE(lock_.acquire(writing));
  EXPECT_FALSE(lock_.acquire(unit));
  EXPECT_FALSE(lock_.acquire(late)) << "or a stream of these would keep the unit waiting for ever";
  lock_.release(writing);
  EXPECT_THAT(granted(), ElementsAre(&unit));
  lock_.release(unit);
  EXPECT_THAT(granted(), ElementsAre(&late));
  lock_.release(late);
}

TEST_F(ARangeLock, GivesARangeOnceEverythingInItIsFree) {
  auto first = ticket(0, 4096, Mode::shared);
  auto second = ticket(4096, 8192, Mode::exclusive);
  auto both = ticket(0, 8192, Mode::exclusive);
  EXPECT_TRUE(lock_.acquire(first));
  EXPECT_TRUE(lock_.acquire(second));
  EXPECT_FALSE(lock_.acquire(both));
  lock_.release(second);
  EXPECT_FALSE(owner_.has_granted());
  lock_.release(first);
  EXPECT_THAT(granted(), ElementsAre(&both));
  lock_.release(both);
}

TEST_F(ARangeLock, ForgetsWhoGoesWhileItWaitsOrHasBeenGrantedAndNotTakenIt) {
  Somebody other;
  auto holder = ticket(0, 4096, Mode::exclusive);
  auto waits = ticket(0, 4096, Mode::exclusive);
  auto next = ticket(0, 4096, Mode::exclusive);
  waits.owner = &other;
  EXPECT_TRUE(lock_.acquire(holder));
  EXPECT_FALSE(lock_.acquire(waits));
  EXPECT_FALSE(lock_.acquire(next));
  lock_.release(holder);
  EXPECT_EQ(other.woken, 1U);
  lock_.release(waits);
  EXPECT_THAT(lock_.take_granted(other), ElementsAre());
  EXPECT_THAT(granted(), ElementsAre(&next));
  auto gone = ticket(0, 4096, Mode::exclusive);
  auto last = ticket(0, 4096, Mode::exclusive);
  EXPECT_FALSE(lock_.acquire(gone));
  EXPECT_FALSE(lock_.acquire(last));
  lock_.release(gone);
  lock_.release(next);
  EXPECT_THAT(granted(), ElementsAre(&last));
  lock_.release(last);
}

TEST_F(ARangeLock, IsOneForManyThreads) {
  unsigned long long counter = 0;  // guarded by the range
  constexpr unsigned rounds = 2000;
  const auto count = [&] {
    Somebody self;
    for (unsigned i = 0; i < rounds; ++i) {
      auto own = ticket(0, 4096, Mode::exclusive);
      own.owner = &self;
      if (!lock_.acquire(own)) {
        while (lock_.take_granted(self).empty()) std::this_thread::yield();
      }
      ++counter;
      lock_.release(own);
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 4; ++i) threads.emplace_back(count);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counter, 4ULL * rounds);
}

}  // namespace
}  // namespace outboard::storage
