#include <outboard/storage/unseen_requests.hpp>

#include <string>
#include <utility>

#include <unistd.h>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <outboard/testing/temp_dir.hpp>

namespace outboard::storage {
namespace {

/// What may have been begun on a disk whose figures a test says.
class UnseenRequestsTest : public ::testing::Test {
 protected:
  UnseenRequestsTest() { say(1000, 500, 0); }
  void say(unsigned reads, unsigned writes, unsigned in_flight) const {
    const std::string text = fmt::format("{:8} 7 7 7 {:8} 7 7 7 {:8} 7 7 7 0 0 0 0 0\n", reads, writes, in_flight);
    EXPECT_EQ(::pwrite(file_.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }
  /// What is left of 30 that were noted, once it has been looked.
  unsigned left(unsigned reads, unsigned writes, unsigned in_flight) const {
    say(1000, 500, 0);
    UnseenRequests unseen(file_.duplicate().value());
    unseen.note(10), unseen.note(20);
    say(reads, writes, in_flight);
    EXPECT_EQ(unseen.count(), 30U);
    unseen.look(room);
    return unseen.count();
  }
  static constexpr unsigned room = 48;

  outboard::testing::TempDir dir_;
  UniqueFd file_ = dir_.make_file("stat", 0);
};

TEST_F(UnseenRequestsTest, HaveEndedWhenTheDiskIsIdle) { EXPECT_EQ(left(1001, 500, 0), 0U); }

TEST_F(UnseenRequestsTest, AreAllThereWhileTheDiskEndsNothing) { EXPECT_EQ(left(1000, 500, 32), 30U); }

TEST_F(UnseenRequestsTest, HaveEndedAsManyAsTheDiskHas) {
  EXPECT_EQ(left(1005, 506, 32), 19U);
  EXPECT_EQ(left(2000, 500, 32), 0U);
  EXPECT_EQ(left(999, 500, 32), 30U) << "figures of several processors are not read at one moment";
}

TEST_F(UnseenRequestsTest, AreNoMoreThanTheDiskHasWhereNoneWaitForIt) {
  EXPECT_EQ(left(1000, 500, 5), 5U);
  EXPECT_EQ(left(1000, 500, room / 2), 30U) << "more may wait in the scheduler";
}

TEST_F(UnseenRequestsTest, CountFromOneLookToTheNext) {
  UnseenRequests unseen(file_.duplicate().value());
  unseen.note(30);
  say(1010, 500, 32);
  unseen.look(room);
  unseen.look(room);
  EXPECT_EQ(unseen.count(), 20U);
}

TEST_F(UnseenRequestsTest, OfADiskThatSaysNothingAreForgotten) {
  EXPECT_EQ(::ftruncate(file_.get(), 0), 0);
  UnseenRequests cut(file_.duplicate().value());
  UnseenRequests none;
  for (UnseenRequests* unseen : {&cut, &none}) {
    unseen->note(30);
    unseen->look(room);
    EXPECT_EQ(unseen->count(), 0U);
  }
}

}  // namespace
}  // namespace outboard::storage
