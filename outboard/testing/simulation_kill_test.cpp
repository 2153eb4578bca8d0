// What a process that is killed leaves to others: nothing that it does afterwards.

#include <sys/mman.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <outboard/memory/dma_space.hpp>
#include <outboard/memory/host_memory.hpp>
#include <outboard/testing/fake_iommu.hpp>
#include <outboard/testing/simulation_test.hpp>
#include <tests/support/temp_dir.hpp>

namespace outboard::testing {
namespace {

using namespace std::chrono_literals;
using Role = Simulation::Role;
using Mortality = Simulation::Mortality;

constexpr std::uint64_t page = 4096;

/// A process that is killed once, in the call (or the wait) that follows kill_me_next().
class KillTest : public ::testing::Test {
 protected:
  using Code = std::function<void(Process&)>;

  void set_mortality(Mortality mortality) { mortality_ = mortality; }

  /// To be called before a system call of the body. Calls decide whether others run, then about a kill.
  void kill_in_next_call(Process& self) { place_ = self.simulation().schedule().steps() + 1; }
  /// To be called before a wait of the body. A step decides about the clock, then about a kill.
  void kill_in_next_wait(Process& self) { place_ = self.simulation().schedule().steps() + 1; }

  /// Runs the body twice, beside the other one: to find the place, and with a kill there.
  std::string run(const Code& body, const Code& other = nullptr) {
    const std::string first = run_once({}, body, other);
    if (!first.empty()) return "before the kill: " + first;
    return run_once({{place_, 1}}, body, other);
  }

 private:
  std::string run_once(const std::vector<Deviation>& schedule, const Code& body, const Code& other) {
    Simulation simulation(Schedule::replay(schedule), {});
    simulation.add_process("victim", Role::worker, mortality_, body);
    if (other) simulation.add_process("other", Role::worker, Mortality::lives, other);
    return simulation.run().value_or("");
  }

  Mortality mortality_ = Mortality::dies;
  std::uint32_t place_ = 0;
};

struct CountsItsEnd {
  explicit CountsItsEnd(int& count) : count_(count) {}
  ~CountsItsEnd() { ++count_; }
  int& count_;
};

TEST_F(KillTest, CodeUnwindsAndItsObjectsAreDestroyed) {
  int destroyed = 0, went_on = 0;
  EXPECT_EQ(run([&](Process& self) {
              const CountsItsEnd object(destroyed);
              self.loop().post([held = std::make_shared<CountsItsEnd>(destroyed)] {});
              kill_in_next_wait(self);
              self.run_for(1h, never);
              ++went_on;
            }),
            "");
  EXPECT_EQ(destroyed, 4);  // two in each of the runs
  EXPECT_EQ(went_on, 1);  // that without a kill
}

TEST_F(KillTest, LaterSendsReachNobody) {
  auto [ours, theirs] = make_socket_pair();
  ssize_t sent = 0;
  send_to(ours, "first ");  // both runs find something unread, and decide the same
  EXPECT_EQ(run([&](Process& self) {
              send_to(ours, "before ");
              kill_in_next_call(self);
              sent = send_to(ours, "after ");
            }),
            "");
  EXPECT_EQ(sent, -EPIPE);
  EXPECT_EQ(receive_from(theirs), "first before after before ");
}

TEST_F(KillTest, LaterSignalsReachNobody) {
  const auto event = EventFd::create().value();
  EXPECT_EQ(run([&](Process& self) {
              event.signal();
              kill_in_next_call(self);
              event.signal();
              event.signal();
            }),
            "");
  EXPECT_EQ(event.drain(), 3U + 1U);
}

TEST_F(KillTest, LaterStoresToSharedMemoryReachNobody) {
  const UniqueFd file = make_memfd(page);
  const auto seen = memory::HostMemory::map_own_file(file, 0, page, memory::Access::read_write).value();
  const auto event = EventFd::create().value();
  std::byte kept{};
  EXPECT_EQ(run([&](Process& self) {
              const auto memory = memory::HostMemory::map_own_file(file, 0, page, memory::Access::read_write).value();
              std::byte* const at = memory->data();
              at[0] = std::byte{1};
              kill_in_next_call(self);
              event.signal();
              if (self.killed()) at[0] = at[1] = std::byte{2};
              kept = at[0];
            }),
            "");
  EXPECT_EQ(seen->data()[0], std::byte{1});
  EXPECT_EQ(seen->data()[1], std::byte{0});
  EXPECT_EQ(kept, std::byte{2}) << "its own code sees what it stored";
}

TEST_F(KillTest, MemoryMappedAfterwardsIsNotSharedEither) {
  const UniqueFd file = make_memfd(page);
  const auto seen = memory::HostMemory::map_own_file(file, 0, page, memory::Access::read_write).value();
  const auto event = EventFd::create().value();
  EXPECT_EQ(run([&](Process& self) {
              kill_in_next_call(self);
              event.signal();
              const auto memory = memory::HostMemory::map_own_file(file, 0, page, memory::Access::read_write).value();
              if (self.killed()) memory->data()[0] = std::byte{2};
            }),
            "");
  EXPECT_EQ(seen->data()[0], std::byte{0});
}

/// What a device sees of the memory that a pool maps for it.
class SeenByADevice final : public memory::DmaMapper {
 public:
  ~SeenByADevice() override {
    for (const MutableBytes one : seen_) ::munmap(one.data(), one.size());
  }
  Status map(memory::IovaRange range, MutableBytes, memory::Access, const UniqueFd* fd, std::uint64_t offset) override {
    void* const at = ::mmap(nullptr, range.size, PROT_READ, MAP_SHARED, fd->get(), static_cast<off_t>(offset));
    if (at == MAP_FAILED) return Error::from_errno("mapping for the device");
    seen_.emplace_back(static_cast<std::byte*>(at), range.size);
    start_ = range.start;
    return {};
  }
  Status unmap(memory::IovaRange) override { return {}; }
  memory::DmaSpace::Limits limits() const override { return FakeIommu::default_limits(); }

  std::byte at(memory::Iova address) const { return seen_.back()[raw(address) - raw(start_)]; }

 private:
  std::vector<MutableBytes> seen_;
  memory::Iova start_{};
};

TEST_F(KillTest, LaterStoresToADmaPoolReachNobody) {
  SeenByADevice device;
  const auto event = EventFd::create().value();
  std::byte seen{};
  EXPECT_EQ(run([&](Process& self) {
              memory::DmaPool pool(device);
              const auto buffer = pool.allocate(64).value();
              buffer.data()[0] = std::byte{1};
              kill_in_next_call(self);
              event.signal();
              buffer.data()[0] = std::byte{2};
              seen = device.at(buffer.iova());
              EXPECT_EQ(seen, self.killed() ? std::byte{1} : std::byte{2});
            }),
            "");
  EXPECT_EQ(seen, std::byte{1});
}

TEST_F(KillTest, ItsSocketsAreClosed) {
  UniqueFd theirs;
  TimePoint seen{}, started{};
  EXPECT_EQ(run(
                [&](Process& self) {
                  auto pair = make_socket_pair();
                  theirs = std::move(pair.second);
                  started = self.loop().clock().now();
                  kill_in_next_wait(self);
                  self.run_for(1h, never);
                },
                [&](Process& self) {
                  self.run_for(1s, never);
                  int error = -1;
                  EXPECT_EQ(receive_from(theirs, 0, &error), "");
                  EXPECT_EQ(error, 0);
                  seen = self.loop().clock().now();
                  theirs.reset();
                }),
            "");
  EXPECT_LT(seen - started, 1min);
}

TEST_F(KillTest, BodyRunsAgainWhereItRestarts) {
  for (const auto& [mortality, bodies] :
       {std::pair{Mortality::lives, 2}, {Mortality::dies, 2}, {Mortality::restarts, 3}}) {
    set_mortality(mortality);
    int begun = 0;
    EXPECT_EQ(run([&](Process& self) {
                if (++begun < 3) kill_in_next_wait(self);
                self.run_for(1h, never);
              }),
              "");
    EXPECT_EQ(begun, bodies);
  }
}

TEST_F(KillTest, ThreadsOfAProcessAreKilledTogether) {
  int destroyed = 0, ended = 0;
  EXPECT_EQ(run([&](Process& self) {
              const CountsItsEnd object(destroyed);
              bool begun = false;
              self.start_thread([&](Process& thread) {
                const CountsItsEnd another(destroyed);
                self.loop().post([&] { begun = true; });
                thread.run_for(2h, never);
                ++ended;
              });
              self.run_until([&] { return begun; });
              kill_in_next_wait(self);
              self.run_for(3h, never);
              ++ended;
            }),
            "");
  EXPECT_EQ(destroyed, 4);
  EXPECT_EQ(ended, 2);  // without the kill
}

TEST_F(KillTest, CallsThatWaitReturnAtOnce) {
  auto [ours, theirs] = make_socket_pair();
  bool was_killed = false;
  EXPECT_EQ(run([&](Process& self) {
              if (!was_killed) send_to(theirs, "text");  // so that the run without a kill does not wait for ever
              kill_in_next_call(self);
              receive_from(ours, 0);
              was_killed = self.killed();
              if (!self.killed()) return;
    // What waits until a moment is soon there.
              const TimePoint start = self.loop().clock().now();
              while (self.loop().clock().now() < start + 10s) {
                pollfd asked{.fd = ours.get(), .events = POLLPRI, .revents = 0};
                system_calls().poll(&asked, 1, 1h);
              }
            }),
            "");
  EXPECT_TRUE(was_killed);
}

TEST_F(KillTest, RequirementsOfTheDeadDoNotFailTheRun) {
  const auto event = EventFd::create().value();
  EXPECT_EQ(run([&](Process& self) {
              kill_in_next_call(self);
              event.signal();
              self.require(!self.killed(), "alive");
            }),
            "");
}

TEST_F(KillTest, ServersAreKilledWhenTheWorkersHaveEnded) {
  Simulation simulation(Schedule::replay({}), {});
  int destroyed = 0;
  simulation.add_process("server", Role::server, Mortality::restarts, [&](Process& self) {
    const CountsItsEnd object(destroyed);
    self.run();
  });
  simulation.add_process("worker", Role::worker, Mortality::lives, [](Process& self) { self.run_for(1s, never); });
  EXPECT_EQ(simulation.run().value_or(""), "");
  EXPECT_EQ(destroyed, 1);
}

TEST_F(KillTest, KillsAreBounded) {
  unsigned most = 0;
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    Simulation simulation(Schedule::from_seed(seed), {.max_kills = 2});
    unsigned begun = 0;
    simulation.add_process("victim", Role::worker, Mortality::restarts, [&](Process& self) {
      ++begun;
      for (int i = 0; i < 500; ++i) self.run_until([] { return true; });
    });
    EXPECT_EQ(simulation.run().value_or(""), "");
    most = std::max(most, begun);
  }
  EXPECT_EQ(most, 3U);
}

}  // namespace
}  // namespace outboard::testing
