#include <outboard/base/reactor.hpp>

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/base/fd.hpp>
#include <outboard/testing/fake_clock.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard {
namespace {

using namespace std::chrono_literals;

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe(ends.data()), 0);
    out.reset(ends[0]);
    in.reset(ends[1]);
  }
  void put() const { EXPECT_EQ(::write(in.get(), "x", 1), 1); }
  void take() const {
    char byte = 0;
    EXPECT_EQ(::read(out.get(), &byte, 1), 1);
  }
  UniqueFd out;
  UniqueFd in;
};

bool is_readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  return ::poll(&entry, 1, 0) == 1;
}

class ReactorTest : public ::testing::Test {
 protected:
  std::unique_ptr<Reactor> make(Reactor::Options options = {}) {
    auto made = Reactor::create(options);
    EXPECT_TRUE(made.has_value());
    return std::move(*made);
  }
  /// As often as it takes until nothing is left to do.
  void drain(Reactor& reactor) {
    while (*reactor.run_once(0ns)) continue;
  }

  testing::FakeClock clock;
  std::unique_ptr<Reactor> loop = make();
};

TEST_F(ReactorTest, WatchIsLevelTriggered) {
  Pipe pipe;
  int calls = 0;
  auto watch = loop->watch(pipe.out.get(), Ready::readable, [&](Ready ready) {
    EXPECT_TRUE(has(ready, Ready::readable));
    ++calls;
  });
  ASSERT_TRUE(watch.has_value());
  EXPECT_FALSE(*loop->run_once(0ns));
  pipe.put();
  EXPECT_TRUE(*loop->run_once(0ns));
  EXPECT_TRUE(*loop->run_once(0ns));
  EXPECT_EQ(calls, 2);
  pipe.take();
  EXPECT_FALSE(*loop->run_once(0ns));
  EXPECT_EQ(calls, 2);
}

TEST_F(ReactorTest, EventfdIsToldOncePerWriteAndNeedsNoReading) {
  const auto event = EventFd::create().value();
  event.signal();
  int calls = 0;
  const auto watch = loop->watch_eventfd(event, [&] { ++calls; });
  ASSERT_TRUE(watch.has_value());
  EXPECT_TRUE(*loop->run_once(0ns));
  EXPECT_EQ(calls, 1) << "what was written before counts";
  EXPECT_FALSE(*loop->run_once(0ns));
  for (int i = 2; i < 5; ++i) {
    event.signal();
    EXPECT_TRUE(*loop->run_once(0ns));
    EXPECT_EQ(calls, i);
    EXPECT_FALSE(*loop->run_once(0ns));
  }
  EXPECT_EQ(loop->watch_eventfd(event, [] {}).error().code(), EEXIST);
}

TEST_F(ReactorTest, EventfdWrittenInItsOwnCallbackIsToldAgain) {
  const auto event = EventFd::create().value();
  int calls = 0;
  const auto watch = loop->watch_eventfd(event, [&] {
    if (++calls < 3) event.signal();
  });
  event.signal();
  drain(*loop);
  EXPECT_EQ(calls, 3);
}

TEST_F(ReactorTest, EndedEventfdWatchIsSilent) {
  const auto event = EventFd::create().value();
  int calls = 0;
  auto watch = loop->watch_eventfd(event, [&] { ++calls; });
  event.signal();
  watch->reset();
  EXPECT_FALSE(*loop->run_once(0ns));
  EXPECT_EQ(calls, 0);
  EXPECT_FALSE(is_readable(loop->fd()));
}

TEST_F(ReactorTest, HangupIsReportedWhateverTheInterest) {
  Pipe pipe;
  Ready seen = Ready::none;
  auto watch = loop->watch(pipe.in.get(), Ready::readable, [&](Ready ready) { seen = ready; });
  ASSERT_TRUE(watch.has_value());
  pipe.out.reset();
  EXPECT_TRUE(*loop->run_once(0ns));
  EXPECT_TRUE(has(seen, Ready::hangup));
}

TEST_F(ReactorTest, InterestNoneIsSilentEvenAboutAHangup) {
  Pipe pipe;
  int calls = 0;
  auto watch = loop->watch(pipe.out.get(), Ready::none, [&](Ready) { ++calls; });
  ASSERT_TRUE(watch.has_value());
  pipe.put();
  pipe.in.reset();
  EXPECT_FALSE(*loop->run_once(0ns));
  EXPECT_EQ(calls, 0);
  ASSERT_TRUE(loop->rewatch(*watch, Ready::readable).has_value());
  EXPECT_TRUE(*loop->run_once(0ns));
  EXPECT_EQ(calls, 1);
  ASSERT_TRUE(loop->rewatch(*watch, Ready::none).has_value());
  EXPECT_FALSE(*loop->run_once(0ns));
}

TEST_F(ReactorTest, RewatchChangesTheInterest) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
  const UniqueFd a(ends[0]);
  const UniqueFd b(ends[1]);
  Ready seen = Ready::none;
  auto watch = loop->watch(a.get(), Ready::readable, [&](Ready ready) { seen = ready; });
  EXPECT_FALSE(*loop->run_once(0ns));
  ASSERT_TRUE(loop->rewatch(*watch, Ready::writable).has_value());
  EXPECT_TRUE(*loop->run_once(0ns));
  EXPECT_EQ(seen, Ready::writable);
}

TEST_F(ReactorTest, RewatchOfAnEndedWatchIsAnError) {
  Pipe pipe;
  auto watch = loop->watch(pipe.out.get(), Ready::readable, [](Ready) {});
  const Registration stale = std::move(*watch);
  Registration other;
  // A second handle with the same id stands for one that has outlived its watch.
  other = Registration(*loop, stale.id());
  other.reset();
  EXPECT_EQ(loop->rewatch(stale, Ready::writable).error().code(), ENOENT);
}

TEST_F(ReactorTest, FileThatCannotBePolledGivesEperm) {
  const testing::TempDir dir;
  const UniqueFd file = dir.make_file("file", 16);
  const auto watch = loop->watch(file.get(), Ready::readable, [](Ready) {});
  ASSERT_FALSE(watch.has_value());
  EXPECT_EQ(watch.error().code(), EPERM);
}

TEST_F(ReactorTest, ClosedDescriptorGivesEbadf) {
  const auto watch = loop->watch(-1, Ready::readable, [](Ready) {});
  ASSERT_FALSE(watch.has_value());
  EXPECT_EQ(watch.error().code(), EBADF);
}

TEST_F(ReactorTest, WatchMayEndItselfInItsCallback) {
  Pipe pipe;
  auto alive = std::make_shared<int>(0);
  Registration watch;
  auto made = loop->watch(pipe.out.get(), Ready::readable, [&watch, alive](Ready) {
    watch.reset();
    ++*alive;  // what the callback owns is still there
  });
  watch = std::move(*made);
  pipe.put();
  EXPECT_TRUE(*loop->run_once(0ns));
  EXPECT_EQ(*alive, 1);
  EXPECT_EQ(alive.use_count(), 1);
  EXPECT_FALSE(*loop->run_once(0ns));
}

TEST_F(ReactorTest, EventOfAWatchThatAnotherCallbackEndedIsDropped) {
  Pipe first;
  Pipe second;
  int calls = 0;
  std::array<Registration, 2> watches;
  const auto end_the_other = [&](std::size_t other) {
    return [&, other](Ready) {
      ++calls;
      watches[other].reset();
    };
  };
  watches[0] = *loop->watch(first.out.get(), Ready::readable, end_the_other(1));
  watches[1] = *loop->watch(second.out.get(), Ready::readable, end_the_other(0));
  first.put();
  second.put();
  EXPECT_TRUE(*loop->run_once(0ns));
  EXPECT_EQ(calls, 1);
}

TEST_F(ReactorTest, NewWatchDoesNotGetTheEventOfTheOneItReplaced) {
  Pipe first;
  Pipe second;
  int wrong = 0;
  std::array<Registration, 2> watches;
  Registration replacement;
  Pipe idle;
  const auto replace_other = [&](std::size_t other) {
    return [&, other](Ready) {
      if (!watches[other].active()) return;
      watches[other].reset();
      replacement = *loop->watch(idle.out.get(), Ready::readable, [&](Ready) { ++wrong; });  // takes the freed slot
    };
  };
  watches[0] = *loop->watch(first.out.get(), Ready::readable, replace_other(1));
  watches[1] = *loop->watch(second.out.get(), Ready::readable, replace_other(0));
  first.put();
  second.put();
  EXPECT_TRUE(*loop->run_once(0ns));
  EXPECT_TRUE(replacement.active());
  EXPECT_EQ(wrong, 0);
}

TEST_F(ReactorTest, TasksRunInTheOrderOfPosting) {
  std::vector<int> order;
  for (int i = 0; i < 5; ++i) loop->post([&order, i] { order.push_back(i); });
  EXPECT_TRUE(order.empty());
  EXPECT_TRUE(*loop->run_once(0ns));
  EXPECT_EQ(order, (std::vector{0, 1, 2, 3, 4}));
}

TEST_F(ReactorTest, TaskThatPostsItselfDoesNotStarveWatches) {
  Pipe pipe;
  bool seen = false;
  auto watch = loop->watch(pipe.out.get(), Ready::readable, [&](Ready) { seen = true; });
  pipe.put();
  std::function<void()> again = [&] {
    if (!seen) loop->post([&] { again(); });
  };
  loop->post([&] { again(); });
  EXPECT_TRUE(*loop->run_once(0ns));
  EXPECT_TRUE(seen);
}

TEST_F(ReactorTest, TaskLeftOverIsDestroyedWithoutBeingRun) {
  auto owned = std::make_shared<int>(0);
  bool ran = false;
  loop->post([&ran, owned] { ran = true; });
  loop.reset();
  EXPECT_FALSE(ran);
  EXPECT_EQ(owned.use_count(), 1);
}

TEST_F(ReactorTest, TaskLeftOverMayPostAndEndRegistrationsWhenItIsDestroyed) {
  struct PostsWhenDestroyed {
    Loop& loop;
    ~PostsWhenDestroyed() {
      loop.post([] {});
    }
  };
  loop->post([registration = loop->after(1s, [] {}), poster = std::make_unique<PostsWhenDestroyed>(*loop)] {});
  loop.reset();
}

TEST_F(ReactorTest, TimersFireInOrderOfDeadlineThenOfRegistration) {
  auto timed = make({.clock = &clock});
  std::vector<int> order;
  const auto c = timed->after(20ms, [&] { order.push_back(3); });
  const auto a = timed->after(10ms, [&] { order.push_back(1); });
  const auto b = timed->after(10ms, [&] { order.push_back(2); });
  clock.advance(9ms);
  ASSERT_TRUE(timed->process().has_value());
  EXPECT_TRUE(order.empty());
  clock.advance(100ms);
  drain(*timed);
  EXPECT_EQ(order, (std::vector{1, 2, 3}));
}

TEST_F(ReactorTest, EndedTimerDoesNotFire) {
  auto timed = make({.clock = &clock});
  bool fired = false;
  Registration other;
  const auto first = timed->after(1ms, [&] { other.reset(); });
  other = timed->after(2ms, [&] { fired = true; });
  clock.advance(1s);
  drain(*timed);
  EXPECT_FALSE(fired);
}

TEST_F(ReactorTest, TimerThatSetsAnotherForNowYieldsToTheRest) {
  auto timed = make({.clock = &clock});
  int fired = 0;
  std::vector<Registration> timers;
  std::function<void()> again = [&] {
    ++fired;
    timers.push_back(timed->after(0ns, [&] { again(); }));
  };
  timers.push_back(timed->after(0ns, [&] { again(); }));
  EXPECT_TRUE(*timed->run_once(0ns));
  EXPECT_LE(fired, 2);
}

TEST_F(ReactorTest, DelayBeyondTheEndOfTimeNeverFires) {
  const auto never = loop->after(Duration::max(), [] { FAIL(); });
  EXPECT_FALSE(*loop->run_once(0ns));
}

TEST_F(ReactorTest, DescriptorIsReadableForATask) {
  EXPECT_FALSE(is_readable(loop->fd()));
  loop->post([] {});
  EXPECT_TRUE(is_readable(loop->fd()));
  ASSERT_TRUE(loop->process().has_value());
  EXPECT_FALSE(is_readable(loop->fd()));
  loop->post([this] { loop->post([] {}); });
  ASSERT_TRUE(loop->process().has_value());
  EXPECT_TRUE(is_readable(loop->fd())) << "a task that was posted by the last one";
}

TEST_F(ReactorTest, DescriptorBecomesReadableForATimer) {
  bool fired = false;
  const auto timer = loop->after(1ms, [&] { fired = true; });
  pollfd entry{loop->fd(), POLLIN, 0};
  while (!fired) {
    ASSERT_EQ(::poll(&entry, 1, 10'000), 1);
    ASSERT_TRUE(loop->process().has_value());
  }
  EXPECT_FALSE(is_readable(loop->fd()));
}

TEST_F(ReactorTest, DescriptorBecomesReadableForATimerSetInACallback) {
  bool fired = false;
  Registration timer;
  loop->post([&] { timer = loop->after(1ms, [&] { fired = true; }); });
  ASSERT_TRUE(loop->process().has_value());
  pollfd entry{loop->fd(), POLLIN, 0};
  while (!fired) {
    ASSERT_EQ(::poll(&entry, 1, 10'000), 1);
    ASSERT_TRUE(loop->process().has_value());
  }
}

TEST_F(ReactorTest, DescriptorStaysReadableWhileThereIsAPoller) {
  int passes = 0;
  auto poller = loop->poll([&] {
    ++passes;
    return false;
  });
  EXPECT_TRUE(is_readable(loop->fd()));
  ASSERT_TRUE(loop->process().has_value());
  EXPECT_TRUE(is_readable(loop->fd()));
  EXPECT_EQ(passes, 1);
  poller.reset();
  ASSERT_TRUE(loop->process().has_value());
  EXPECT_FALSE(is_readable(loop->fd()));
}

TEST_F(ReactorTest, EarlierTimerReplacesALaterOneAndRunOnceWakesForIt) {
  bool early = false;
  const auto late = loop->after(1h, [] { FAIL(); });
  const auto soon = loop->after(1ms, [&] { early = true; });
  while (!early) ASSERT_TRUE(loop->run_once(-1ns).has_value());
}

TEST_F(ReactorTest, PollerKeepsTheLoopAwakeAndWatchesAreStillServed) {
  Pipe pipe;
  pipe.put();
  bool readable = false;
  bool posted = false;
  auto watch = loop->watch(pipe.out.get(), Ready::readable, [&](Ready) {
    readable = true;
    loop->stop();
  });
  auto poller = loop->poll([] { return false; });
  loop->post([&] { posted = true; });
  ASSERT_TRUE(loop->run().has_value());
  EXPECT_TRUE(readable);
  EXPECT_TRUE(posted);
}

TEST_F(ReactorTest, PollerMayEndItselfAndStartAnother) {
  int first = 0;
  int second = 0;
  Registration a;
  Registration b;
  a = loop->poll([&] {
    ++first;
    b = loop->poll([&] { return ++second > 0; });
    a.reset();
    return true;
  });
  ASSERT_TRUE(*loop->run_once(0ns));
  ASSERT_TRUE(*loop->run_once(0ns));
  EXPECT_EQ(first, 1);
  EXPECT_EQ(second, 1);
}

TEST_F(ReactorTest, RunningTheLoopFromItsOwnCallbackIsEdeadlk) {
  int refused = 0;
  loop->post([&] {
    for (const int code :
         {loop->run().error().code(), loop->run_once(0ns).error().code(), loop->process().error().code()}) {
      refused += code == EDEADLK ? 1 : 0;
    }
  });
  EXPECT_TRUE(*loop->run_once(0ns));
  EXPECT_EQ(refused, 3);
  EXPECT_TRUE(loop->run_once(0ns).has_value());
}

TEST_F(ReactorTest, StopBeforeRunEndsItAtOnce) {
  loop->stop();
  EXPECT_TRUE(loop->run().has_value());
  EXPECT_TRUE(loop->stopped());
}

TEST_F(ReactorTest, StopComesAfterTheCallbackInProgress) {
  int calls = 0;
  loop->post([&] {
    loop->stop();
    ++calls;
  });
  ASSERT_TRUE(loop->run().has_value());
  EXPECT_EQ(calls, 1);
}

Reactor* interrupted_loop = nullptr;  // a signal handler has no other way to it

TEST_F(ReactorTest, StopMayComeFromASignalHandler) {
  interrupted_loop = loop.get();
  struct sigaction action{};
  action.sa_handler = [](int) { interrupted_loop->stop(); };
  struct sigaction before{};
  ASSERT_EQ(::sigaction(SIGUSR1, &action, &before), 0);
  loop->post([] { ::raise(SIGUSR1); });
  EXPECT_TRUE(loop->run().has_value());
  ::sigaction(SIGUSR1, &before, nullptr);
}

TEST_F(ReactorTest, SpinningLoopServesWhatComesAndThenSleeps) {
  auto spinning = make({.spin = 100us});
  Pipe pipe;
  int left = 3;
  auto watch = spinning->watch(pipe.out.get(), Ready::readable, [&](Ready) {
    pipe.take();
    if (--left == 0) {
      spinning->stop();
    } else {
      pipe.put();
    }
  });
  const auto timer = spinning->after(1ms, [&] { pipe.put(); });
  ASSERT_TRUE(spinning->run().has_value());
  EXPECT_EQ(left, 0);
}

TEST_F(ReactorTest, ThreadThatMadeTheLoopIsItsThreadWhileNobodyRunsIt) {
  EXPECT_TRUE(loop->in_loop_thread());
  loop->post([this] { EXPECT_TRUE(loop->in_loop_thread()); });
  drain(*loop);
  EXPECT_TRUE(loop->in_loop_thread());
}

}  // namespace
}  // namespace outboard
