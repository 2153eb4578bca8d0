#include <outboard/base/fd.hpp>

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include <gtest/gtest.h>

#include <outboard/base/bytes.hpp>
#include <outboard/base/log.hpp>
#include <tests/support/hostile_eventfd.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard {
namespace {

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

TEST(UniqueFd, ClosesOnceAndOnlyWhatItHas) {
  int number = -1;
  {
    UniqueFd first(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    number = first.get();
    UniqueFd second = std::move(first);
    EXPECT_FALSE(first.valid());  // NOLINT(bugprone-use-after-move): that is the point
    EXPECT_TRUE(is_open(number));
    UniqueFd& itself = second;
    second = std::move(itself);
    EXPECT_EQ(second.get(), number);
  }
  EXPECT_FALSE(is_open(number));
}

TEST(UniqueFd, ReleaseHandsTheDescriptorOver) {
  UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const UniqueFd other(fd.release());
  EXPECT_FALSE(fd.valid());
  EXPECT_TRUE(is_open(other.get()));
}

TEST(UniqueFd, DuplicateIsCloseOnExecAndKeepsTheFileOpen) {
  UniqueFd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const auto copy = fd.duplicate();
  ASSERT_TRUE(copy.has_value());
  fd.reset();
  EXPECT_EQ(::fcntl(copy->get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  EXPECT_EQ(fd.duplicate().error().code(), EBADF);
}

TEST(EventFd, CountsUntilItIsDrained) {
  const auto event = *EventFd::create();
  EXPECT_EQ(event.drain(), 0U);
  event.signal();
  event.signal();
  EXPECT_EQ(event.drain(), 2U);
  EXPECT_EQ(event.drain(), 0U);
}

TEST(EventFd, VU49_SaturatedEventFdOfAPeerDropsTheEventInsteadOfBlocking) {
  UniqueFd raw(::eventfd(0, EFD_CLOEXEC));  // blocking, as a peer may send it
  const std::uint64_t max_count = UINT64_MAX - 1;
  ASSERT_EQ(::write(raw.get(), &max_count, sizeof max_count), static_cast<ssize_t>(sizeof max_count));
  const auto event = EventFd::adopt(std::move(raw));
  ASSERT_TRUE(event.has_value());
  event->signal();
  EXPECT_GE(event->drain(), max_count) << "the peer finds an event";
}

TEST(EventFd, VU49_SignalDoesNotWaitWhenThePeerMakesTheEventFdBlocking) {
  const testing::HostileEventFd peer;
  const EventFd event = peer.give();
  EXPECT_TRUE(peer.does_not_block([&] { event.signal(); }));
  EXPECT_GE(event.drain(), UINT64_MAX - 1) << "the peer finds an event";
}

TEST(EventFd, SignalsOfAChildThatWasForkedArrive) {
  const auto event = EventFd::adopt(EventFd::create().value().fd().duplicate().value()).value();
  event.signal();
  const pid_t child = ::fork();
  if (child == 0) {
    event.signal();
    ::_exit(0);
  }
  EXPECT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_EQ(event.drain(), 2U);
}

TEST(EventFd, ManySignalsOfAPeersEventFdAreAllCounted) {
  const auto event = EventFd::adopt(EventFd::create().value().fd().duplicate().value()).value();
  for (int i = 0; i < 1000; ++i) event.signal();
  EXPECT_EQ(event.drain(), 1000U);
}

TEST(EventFd, SignalSaysWhatCannotBeSignalled) {
  const UniqueFd nowhere(::open("/", O_PATH | O_CLOEXEC));
  for (const auto owner : {EventFd::Owner::us, EventFd::Owner::peer}) {
    EXPECT_FALSE(signal_eventfd(-1, owner));
    EXPECT_FALSE(signal_eventfd(nowhere.get(), owner));
    EXPECT_TRUE(signal_eventfd(EventFd::create().value().get(), owner));
  }
}

TEST(EventFd, ADuplicateIsOfTheSameOwner) {
  const auto own = EventFd::create().value();
  const auto theirs = EventFd::adopt(own.fd().duplicate().value()).value();
  EXPECT_EQ(own.duplicate().value().owner(), EventFd::Owner::us);
  EXPECT_EQ(theirs.duplicate().value().owner(), EventFd::Owner::peer);
  EXPECT_TRUE(theirs.duplicate().value().same_as(own));
  EXPECT_FALSE(EventFd().duplicate().value().valid());
}

TEST(EventFd, DrainDoesNotWaitEvenWhenThePeerMadeTheEventFdBlockingAgain) {
  UniqueFd raw(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const UniqueFd the_peers = raw.duplicate().value();  // one open file: its flags are the peer's too
  const auto event = EventFd::adopt(std::move(raw));
  ASSERT_TRUE(event.has_value());
  ASSERT_EQ(::fcntl(the_peers.get(), F_SETFL, 0), 0);
  EXPECT_EQ(event->drain(), 0U);
  event->signal();
  EXPECT_EQ(event->drain(), 1U);
}

TEST(EventFd, TwoDescriptorsOfOneEventFdAreTheSame) {
  const auto event = EventFd::create().value();
  const auto copy = EventFd::adopt(event.fd().duplicate().value()).value();
  const auto other = EventFd::create().value();
  EXPECT_TRUE(event.same_as(event));
  EXPECT_TRUE(event.same_as(copy));
  EXPECT_FALSE(event.same_as(other));
  EXPECT_FALSE(event.same_as(EventFd()));
}

TEST(EventFd, VU49_FullPipeInPlaceOfAnEventFdDoesNotBlock) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd out(ends[0]);
  const auto event = EventFd::adopt(UniqueFd(ends[1]));
  ASSERT_TRUE(event.has_value());
  for (int i = 0; i < 10'000; ++i) event->signal();
  EXPECT_EQ(event->drain(), 0U);
}

TEST(EventFd, WhatIsNoDescriptorIsNotAdopted) { EXPECT_EQ(EventFd::adopt(UniqueFd()).error().code(), EBADF); }

TEST(Log, DefaultIsSilentAndNamesAreNested) {
  Log().error("nobody hears {}", "this");
  std::string seen;
  const Log log([&](Level level, std::string_view line) {
    EXPECT_EQ(level, Level::warning);
    seen = line;
  });
  log.debug("below the threshold");
  log.named("server").named("queue 1").warning("{} heads", 3);
  EXPECT_EQ(seen, "server: queue 1: 3 heads");
}

TEST(TempDir, IsRemovedWithWhatIsInIt) {
  std::string path;
  {
    const testing::TempDir dir;
    path = dir.path("file");
    EXPECT_TRUE(dir.make_file("file", 10).valid());
    EXPECT_EQ(::access(path.c_str(), F_OK), 0);
  }
  EXPECT_NE(::access(path.c_str(), F_OK), 0);
}

}  // namespace
}  // namespace outboard
