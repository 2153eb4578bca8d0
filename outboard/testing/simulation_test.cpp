#include <outboard/testing/simulation_test.hpp>

#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/memory/host_memory.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::testing {
namespace {

using namespace std::chrono_literals;
using Role = Simulation::Role;
using Mortality = Simulation::Mortality;
using Code = std::function<void(Process&)>;

void add_worker(Simulation& simulation, std::string name, Code body) {
  simulation.add_process(std::move(name), Role::worker, Mortality::lives, std::move(body));
}

/// Runs one worker on a quiet machine; what went wrong, or "".
std::string failure_of(Code body, Simulation::Options options = {}) {
  Simulation simulation(Schedule::replay({}), options);
  add_worker(simulation, "worker", std::move(body));
  return simulation.run().value_or("");
}

TEST(Simulation, TwoProcessesTalkOverASocket) {
  Simulation simulation(Schedule::replay({}), {});
  auto [ours, theirs] = make_socket_pair();
  std::string answer;
  add_worker(simulation, "client", [&](Process& self) {
    send_to(ours, "ping");
    const auto watch = self.loop().watch(ours.get(), Ready::readable, [&](Ready) { answer = receive_from(ours); });
    self.run_until([&] { return !answer.empty(); });
  });
  simulation.add_process("server", Role::server, Mortality::lives, [&](Process& self) {
    const auto watch = self.loop().watch(theirs.get(), Ready::readable, [&](Ready) {
      if (receive_from(theirs) == "ping") send_to(theirs, "pong");
    });
    self.run();
  });
  EXPECT_EQ(simulation.run().value_or(""), "");
  EXPECT_EQ(answer, "pong");
}

TEST(Simulation, EventfdWakesAnotherProcess) {
  Simulation simulation(Schedule::replay({}), {});
  const auto event = EventFd::create().value();
  bool woken = false;
  add_worker(simulation, "waiter", [&](Process& self) {
    const auto watch = self.loop().watch_eventfd(event, [&] { woken = true; });
    self.run_until([&] { return woken; });
  });
  add_worker(simulation, "signaller", [&](Process&) { event.signal(); });
  EXPECT_EQ(simulation.run().value_or(""), "");
  EXPECT_TRUE(woken);
}

TEST(Simulation, AnHourPassesAtOnce) {
  const TimePoint before = std::chrono::time_point_cast<Duration>(std::chrono::steady_clock::now());
  Duration passed{};
  EXPECT_EQ(failure_of([&](Process& self) {
              const TimePoint start = self.loop().clock().now();
              EXPECT_TRUE(self.run_for(1h, never));
              passed = self.loop().clock().now() - start;
            }),
            "");
  EXPECT_GE(passed, 1h);
  EXPECT_LT(passed, 1h + 1s);
  EXPECT_LT(std::chrono::steady_clock::now() - before, 30s);
}

TEST(Simulation, TimeStandsStillWhileAProcessWorks) {
  Simulation simulation(Schedule::replay({}), {});
  TimePoint alarm{}, last_turn{};
  add_worker(simulation, "sleeper", [&](Process& self) {
    self.run_for(10ms, never);
    alarm = self.loop().clock().now();
  });
  add_worker(simulation, "busy", [&](Process& self) {
    for (int i = 0; i < 100; ++i) self.run_until([] { return true; });
    last_turn = self.loop().clock().now();
  });
  EXPECT_EQ(simulation.run().value_or(""), "");
  EXPECT_LT(last_turn, alarm);
}

TEST(Simulation, TimersAndTasksHappenInTheirOrder) {
  std::vector<int> order;
  EXPECT_EQ(failure_of([&](Process& self) {
              const auto late = self.loop().after(2s, [&] { order.push_back(3); });
              const auto early = self.loop().after(1s, [&] { order.push_back(2); });
              self.loop().post([&] { order.push_back(1); });
              self.run_until([&] { return order.size() == 3; });
            }),
            "");
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST(Simulation, RunForSaysWhetherItWasDoneBefore) {
  EXPECT_EQ(failure_of([](Process& self) {
              bool done = false;
              const auto timer = self.loop().after(1s, [&] { done = true; });
              EXPECT_FALSE(self.run_for(1min, [&] { return done; }));
              EXPECT_TRUE(self.run_for(1min, never));
            }),
            "");
}

TEST(Simulation, TasksOfTheMachineRunOutsideOfAllProcesses) {
  Simulation simulation(Schedule::replay({}), {});
  int done = 0;
  simulation.at(simulation.clock().now() + 1h, [&] { ++done; });
  add_worker(simulation, "waiter", [&](Process& self) {
    self.run_for(2h, [&] { return done == 1; });
    EXPECT_EQ(done, 1);
  });
  EXPECT_EQ(simulation.run().value_or(""), "");
}

// System calls that wait.

TEST(Simulation, BlockingReceiveTimesOutInVirtualTime) {
  auto [ours, theirs] = make_socket_pair();
  const timeval limit{.tv_sec = 3600, .tv_usec = 0};
  ::setsockopt(ours.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  EXPECT_EQ(failure_of([&](Process& self) {
              const TimePoint start = self.loop().clock().now();
              int error = 0;
              EXPECT_EQ(receive_from(ours, 0, &error), "");
              EXPECT_EQ(error, EAGAIN);
              EXPECT_GE(self.loop().clock().now() - start, 1h);
            }),
            "");
}

TEST(Simulation, BlockingReceiveWithoutATimeoutWaits) {
  Simulation simulation(Schedule::replay({}), {});
  auto [ours, theirs] = make_socket_pair();
  std::string got;
  add_worker(simulation, "reader", [&](Process&) { got = receive_from(ours, 0); });
  add_worker(simulation, "writer", [&](Process& self) {
    self.run_for(1h, never);
    send_to(theirs, "late");
  });
  EXPECT_EQ(simulation.run().value_or(""), "");
  EXPECT_EQ(got, "late");
}

TEST(Simulation, NonblockingSocketDoesNotWait) {
  auto [ours, theirs] = make_socket_pair(SOCK_NONBLOCK);
  const timeval limit{.tv_sec = 3600, .tv_usec = 0};
  ::setsockopt(ours.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  EXPECT_EQ(failure_of([&](Process& self) {
              const TimePoint start = self.loop().clock().now();
              int error = 0;
              receive_from(ours, 0, &error);
              EXPECT_EQ(error, EAGAIN);
              EXPECT_LT(self.loop().clock().now() - start, 1s);
            }),
            "");
}

TEST(Simulation, PollWaitsInVirtualTime) {
  const auto event = EventFd::create().value();
  EXPECT_EQ(failure_of([&](Process& self) {
              const TimePoint start = self.loop().clock().now();
              pollfd asked{.fd = event.get(), .events = POLLIN, .revents = 0};
              EXPECT_EQ(system_calls().poll(&asked, 1, 1h), 0);
              EXPECT_GE(self.loop().clock().now() - start, 1h);
              event.signal();
              EXPECT_EQ(system_calls().poll(&asked, 1, 1h), 1);
            }),
            "");
}

// What fails a run.

TEST(Simulation, FailedRequirementFailsTheRun) {
  EXPECT_EQ(failure_of([](Process& self) { self.require(false, "two and two are five"); }),
            "worker: two and two are five");
  EXPECT_EQ(failure_of([](Process& self) { self.require(Status(Error(EIO, "reading")), "disk"); }).substr(0, 12),
            "worker: disk");
  EXPECT_EQ(failure_of([](Process& self) { self.require(Status(), "disk"); }), "");
}

TEST(Simulation, TheFirstFailureCounts) {
  EXPECT_EQ(failure_of([](Process& self) {
              self.simulation().fail("first");
              self.simulation().fail("second");
            }),
            "first");
}

TEST(Simulation, ExceptionOfAProcessFailsTheRun) {
  EXPECT_EQ(failure_of([](Process&) { throw std::runtime_error("oops"); }), "worker ended with an exception: oops");
}

TEST(Simulation, DeadlockIsReported) {
  EXPECT_EQ(failure_of([](Process& self) { self.run_until(never); }), "everyone waits, and nothing will happen");
}

TEST(Simulation, EndlessLoopIsReported) {
  const auto spin = [](Process& self) {
    while (true) self.run_until([] { return true; });
  };
  EXPECT_EQ(failure_of(spin, {.max_steps = 1000}), "after 1000 steps it has not ended");
}

TEST(Simulation, DescriptorThatIsLeftOpenIsReported) {
  UniqueFd left;
  EXPECT_EQ(failure_of([&](Process&) { left = UniqueFd(::dup(make_memfd(1).get())); }), "1 descriptors were left open");
}

TEST(Simulation, MappingThatIsLeftIsReported) {
  const UniqueFd file = make_memfd(4096);
  void* left = nullptr;
  EXPECT_EQ(failure_of([&](Process&) {
              left = system_calls().map(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
            }),
            "worker left 1 mappings");
  ::munmap(left, 4096);
}

TEST(Simulation, MappingThatIsUnmappedIsNotReported) {
  const UniqueFd file = make_memfd(4096);
  EXPECT_EQ(failure_of([&](Process& self) {
              self.require(memory::HostMemory::map_own_file(file, 0, 4096, memory::Access::read_write).has_value(),
                           "mapping");
            }),
            "");
}

// Threads, actions, faults.

TEST(Simulation, ProcessEndsWhenAllOfItsThreadsHave) {
  int ended = 0;
  EXPECT_EQ(failure_of([&](Process& self) {
              for (int i = 0; i < 3; ++i) {
                self.start_thread([&](Process& thread) {
                  thread.run_for(1h, never);
                  ++ended;
                });
              }
            }),
            "");
  EXPECT_EQ(ended, 3);
}

TEST(Simulation, EachThreadHasALoopOfItsOwn) {
  EXPECT_EQ(failure_of([](Process& self) {
              Loop* other = nullptr;
              bool ran_there = false, answered = false;
              self.start_thread([&](Process& thread) {
                self.loop().post([&] { other = &thread.loop(); });
                EXPECT_TRUE(thread.loop().in_loop_thread());
                EXPECT_FALSE(self.loop().in_loop_thread());
                thread.run_until([&] { return ran_there; });
                self.loop().post([&] { answered = true; });
              });
              self.run_until([&] { return other != nullptr; });
              other->post([&] { ran_there = other->in_loop_thread(); });
              self.run_until([&] { return answered; });
            }),
            "");
}

TEST(Simulation, ActionsHappenWhenTheScheduleSaysSo) {
  for (const std::uint32_t chosen : {0U, 1U, 2U}) {
    // The first step decides: a jump of the clock (0), an action (1), a kill.
    Simulation simulation(Schedule::replay({{1, chosen}}), {});
    std::array<int, 2> done{};
    simulation.add_action("first", [&] { ++done[0]; });
    simulation.add_action("second", [&] { ++done[1]; });
    add_worker(simulation, "worker", [](Process&) {});
    EXPECT_EQ(simulation.run().value_or(""), "");
    EXPECT_EQ(done, (std::array<int, 2>{chosen == 1 ? 1 : 0, chosen == 2 ? 1 : 0}));
  }
}

TEST(Simulation, ActionsAreBounded) {
  Simulation simulation(Schedule::replay({{1, 1}, {3, 1}, {5, 1}, {7, 1}, {9, 1}}), {.max_actions = 2});
  int done = 0;
  simulation.add_action("it", [&] { ++done; });
  add_worker(simulation, "worker", [](Process& self) {
    for (int i = 0; i < 20; ++i) self.run_until([] { return true; });
  });
  EXPECT_EQ(simulation.run().value_or(""), "");
  EXPECT_EQ(done, 2);
}

/// One send or call with the decision `after` places further on set to `value`.
std::string with_decision(std::uint32_t after, std::uint32_t value, const Code& body) {
  std::uint32_t first = 0;
  failure_of([&](Process& self) { first = self.simulation().schedule().steps(); });
  Simulation simulation(Schedule::replay({{first + after, value}}), {});
  add_worker(simulation, "worker", body);
  return simulation.run().value_or("");
}

// A send decides whether others run (0), where the connection breaks (1), whether the socket is full (2), what it takes (3).

TEST(Simulation, SocketTakesAPart) {
  auto [ours, theirs] = make_socket_pair();
  EXPECT_EQ(with_decision(2, 2, [&](Process&) { EXPECT_EQ(send_to(ours, "abcdef"), 2); }), "");
  EXPECT_EQ(receive_from(theirs), "ab");
}

TEST(Simulation, SocketIsFull) {
  auto [ours, theirs] = make_socket_pair();
  EXPECT_EQ(with_decision(5, 1,
                          [&](Process&) {
                            EXPECT_EQ(send_to(ours, "abc"), 3);  // an empty one is never full
                            EXPECT_EQ(send_to(ours, "def"), -EAGAIN);
                          }),
            "");
}

TEST(Simulation, ConnectionBreaksWithinWhatIsSent) {
  for (const std::uint32_t cut : {1U, 4U, 6U}) {
    auto [ours, theirs] = make_socket_pair();
    EXPECT_EQ(with_decision(1, cut,
                            [&](Process&) {
                              EXPECT_EQ(send_to(ours, "abcdef"), cut == 1 ? -EPIPE : static_cast<ssize_t>(cut - 1));
                              EXPECT_EQ(send_to(ours, "more"), -EPIPE);
                            }),
              "");
    EXPECT_EQ(receive_from(theirs), std::string("abcdef").substr(0, cut - 1));
    EXPECT_EQ(receive_from(theirs), "");
  }
}

TEST(Simulation, DescriptorsAndMemoryRunOut) {
  EXPECT_EQ(with_decision(0, 1,
                          [](Process&) {
                            const auto event = EventFd::create();
                            ASSERT_FALSE(event.has_value());
                            EXPECT_EQ(event.error().code(), EMFILE);
                            EXPECT_TRUE(EventFd::create().has_value());
                          }),
            "");
  const UniqueFd file = make_memfd(4096);
  EXPECT_EQ(with_decision(0, 1,
                          [&](Process&) {
                            const auto memory =
                                memory::HostMemory::map_own_file(file, 0, 4096, memory::Access::read_write);
                            ASSERT_FALSE(memory.has_value());
                            EXPECT_EQ(memory.error().code(), ENOMEM);
                          }),
            "");
}

// The trace.

/// Sends, sleeps and kills, so that most kinds of decisions are made.
std::uint64_t hash_of(std::uint64_t seed) {
  Simulation simulation(Schedule::from_seed(seed), {});
  auto [ours, theirs] = make_socket_pair();
  const UniqueFd file = make_memfd(4096);
  for (const UniqueFd* end : {&ours, &theirs}) {
    simulation.add_process("end", Role::worker, Mortality::restarts, [end, &file](Process& self) {
      const auto memory = memory::HostMemory::map_own_file(file, 0, 4096, memory::Access::read_write);
      const auto watch = self.loop().watch(end->get(), Ready::readable, [&](Ready) { receive_from(*end); });
      for (int i = 0; i < 50; ++i) {
        send_to(*end, "some text");
        self.run_for(1ms, never);
      }
    });
  }
  simulation.run();
  return simulation.trace_hash();
}

constexpr const char* child_variable = "OUTBOARD_SIMULATION_PRINTS_HASHES";

TEST(SimulationTrace, OneSeedHasOneHash) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) EXPECT_EQ(hash_of(seed), hash_of(seed)) << seed;
  EXPECT_NE(hash_of(1), hash_of(2));
}

TEST(SimulationTrace, OneSeedHasOneHashInEveryProcess) {
  std::string hashes;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) hashes += std::to_string(hash_of(seed)) + " ";
  if (std::getenv(child_variable) != nullptr) {
    std::fprintf(stderr, "hashes:%s\n", hashes.c_str());
    return;
  }
  std::array<char, 4096> path{};
  ASSERT_GT(::readlink("/proc/self/exe", path.data(), path.size() - 1), 0);
  const std::string command = std::string(child_variable) + "=1 '" + path.data() +
                              "' --gtest_filter=SimulationTrace.OneSeedHasOneHashInEveryProcess 2>&1";
  FILE* const child = ::popen(command.c_str(), "re");
  ASSERT_NE(child, nullptr);
  std::string printed;
  for (int one = std::fgetc(child); one != EOF; one = std::fgetc(child)) printed.push_back(static_cast<char>(one));
  EXPECT_EQ(::pclose(child), 0);
  EXPECT_NE(printed.find("hashes:" + hashes + "\n"), std::string::npos) << printed;
}

TEST(SimulationTrace, TranscriptNamesProcessesAndDecisions) {
  Simulation simulation(Schedule::replay({{0, 1}}), {.transcript = true});
  add_worker(simulation, "worker", [](Process& self) { self.simulation().note("here"); });
  simulation.run();
  const auto has = [&](std::string_view text) {
    return std::ranges::any_of(simulation.transcript(), [&](const auto& line) { return line.contains(text); });
  };
  EXPECT_TRUE(has("clock jump 1 of 4"));
  EXPECT_TRUE(has("worker/0: here"));
  EXPECT_TRUE(has("ended: worker"));
}

}  // namespace
}  // namespace outboard::testing
