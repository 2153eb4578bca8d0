// What the room does on a kernel that lacks a system call, and under a seccomp filter that denies it.

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>

#include <gtest/gtest.h>

#include <outboard/base/internal/attribute_file.hpp>
#include <outboard/base/internal/peers_eventfd.hpp>
#include <outboard/base/reactor.hpp>
#include <tests/support/denied_calls.hpp>
#include <tests/support/hostile_eventfd.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard {
namespace {

using namespace std::chrono_literals;

/// ENOSYS: an older kernel. EPERM: a container's filter.
class Denied : public ::testing::TestWithParam<int> {
 protected:
  void without(long call, const std::function<void()>& body) { testing::with_calls_denied({call}, GetParam(), body); }
};
INSTANTIATE_TEST_SUITE_P(, Denied, ::testing::Values(ENOSYS, EPERM),
                         [](const auto& denied) { return std::string(denied.param == ENOSYS ? "ENOSYS" : "EPERM"); });

Registration stop_when_signalled(Reactor& loop, const EventFd& event, bool& seen) {
  return loop
      .watch(event.get(), Ready::readable,
             [&](Ready) {
               seen = event.drain() != 0;
               loop.stop();
             })
      .value();
}

TEST_P(Denied, LoopSleepsAndIsWokenWithoutEpollPwait2) {
  without(SYS_epoll_pwait2, [] {
    const auto event = EventFd::create().value();
    const auto loop = Reactor::create().value();
    bool seen = false;
    const auto watch = stop_when_signalled(*loop, event, seen);
    event.signal();
    EXPECT_TRUE(loop->run_once(10s).value());
    EXPECT_TRUE(seen);
  });
}

TEST_P(Denied, RunServesDescriptorsWithoutEpollPwait2) {
  without(SYS_epoll_pwait2, [] {
    const auto event = EventFd::create().value();
    const auto loop = Reactor::create().value();
    bool seen = false;
    const auto watch = stop_when_signalled(*loop, event, seen);
    const auto give_up = loop->after(10s, [&] { loop->stop(); });
    event.signal();
    EXPECT_TRUE(loop->run().has_value());
    EXPECT_TRUE(seen);
  });
}

TEST_P(Denied, LimitOfAWaitIsKeptWithoutEpollPwait2) {
  without(SYS_epoll_pwait2, [] {
    const auto loop = Reactor::create().value();
    EXPECT_FALSE(loop->run_once(1ms).value());
    EXPECT_FALSE(loop->run_once(1ns).value());
  });
}

TEST_P(Denied, EventFdIsDrainedWithoutPreadv2) {
  without(SYS_preadv2, [] {
    const auto event = EventFd::create().value();
    EXPECT_EQ(event.drain(), 0U);
    EXPECT_EQ(errno, EAGAIN);
    event.signal();
    event.signal();
    EXPECT_EQ(event.drain(), 2U);
    EXPECT_EQ(event.drain(), 0U);
  });
}

TEST_P(Denied, EventFdThatThePeerMadeBlockingIsDrainedWithoutPreadv2) {
  without(SYS_preadv2, [] {
    UniqueFd raw(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    const UniqueFd the_peers = raw.duplicate().value();
    const auto event = EventFd::adopt(std::move(raw)).value();
    ASSERT_EQ(::fcntl(the_peers.get(), F_SETFL, 0), 0);
    EXPECT_EQ(event.drain(), 0U);
    event.signal();
    EXPECT_EQ(event.drain(), 1U);
  });
}

TEST_P(Denied, WithoutOneOfItsCallsThereIsNoAsynchronousIo) {
  const auto event = EventFd::create().value();
  for (const long call : {SYS_memfd_create, SYS_io_setup, SYS_io_submit, SYS_io_getevents})
    without(call, [] { EXPECT_FALSE(AsyncSignal::create()); });
  EXPECT_EQ(AsyncSignal::create().value()->signal(event.get()), true);
  EXPECT_EQ(event.drain(), 1U);
}

TEST_P(Denied, APeersEventFdIsSignalledWithoutAsynchronousIo) {
  without(SYS_io_submit, [] {
    const testing::HostileEventFd full;
    const EventFd hostile = full.give();
    EXPECT_TRUE(full.does_not_block([&hostile] { hostile.signal(); }));
    EXPECT_EQ(hostile.drain(), UINT64_MAX - 1);
    for (int i = 0; i < 3; ++i) hostile.signal();
    EXPECT_EQ(hostile.drain(), 3U);
    EXPECT_FALSE(signal_peers_eventfd(-1));
  });
}

TEST_P(Denied, TwoDescriptorsOfOneEventFdAreTheSameWithoutProc) {
  without(SYS_openat, [] {
    const auto event = EventFd::create().value();
    const auto copy = EventFd::adopt(event.fd().duplicate().value()).value();
    const auto other = EventFd::create().value();
    EXPECT_TRUE(event.same_as(copy));
    EXPECT_FALSE(event.same_as(other));
    EXPECT_FALSE(event.same_as(EventFd()));
  });
}

TEST_P(Denied, PipeInPlaceOfAnEventFdIsNotReadWithoutPreadv2) {
  without(SYS_preadv2, [] {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const UniqueFd in(ends[1]);
    const auto event = EventFd::adopt(UniqueFd(ends[0])).value();
    ASSERT_EQ(::write(in.get(), "a peer's", 8), 8);
    EXPECT_EQ(event.drain(), 0U);
    EXPECT_EQ(errno, EINVAL);
  });
}

TEST_P(Denied, WriteThatDoesNotComeBackIsLeftAloneWithoutPidfdOpen) {
  without(SYS_pidfd_open, [] {
    const testing::TempDir folder;
    (void)folder.make_file("bind", 0);
    EXPECT_TRUE(write_attribute_apart(folder.path("bind"), "x", 60s));

    ASSERT_EQ(::mkfifo(folder.path("unbind").c_str(), 0600), 0);
    const UniqueFd reader(::open(folder.path("unbind").c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    const std::array<char, 4096> full{};
    while (::write(reader.get(), full.data(), full.size()) > 0) {
    }
    const auto written = write_attribute_apart(folder.path("unbind"), "x", 1ms);
    ASSERT_FALSE(written.has_value());
    EXPECT_EQ(written.error().code(), ETIMEDOUT);
  });
}

TEST(Reactor, LoopWhoseDescriptorIsGoneEndsWithTheError) {
  const auto loop = Reactor::create().value();
  const auto other = EventFd::create().value();
  ASSERT_GE(::dup3(other.get(), loop->fd(), O_CLOEXEC), 0);

  const auto give_up = loop->after(10s, [&] { loop->stop(); });
  const auto ran = loop->run();
  ASSERT_FALSE(ran.has_value());
  EXPECT_EQ(ran.error().code(), EINVAL);
  EXPECT_NE(ran.error().what().find("the event loop cannot wait"), std::string::npos) << ran.error().what();
  EXPECT_EQ(loop->run_once(10s).error().code(), EINVAL);
}

}  // namespace
}  // namespace outboard
