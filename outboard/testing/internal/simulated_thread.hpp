#pragma once

#include <poll.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <outboard/testing/internal/fiber.hpp>
#include <outboard/testing/internal/loop_entries.hpp>
#include <outboard/testing/simulation.hpp>

namespace outboard::testing {

class SimulatedThread;
class Simulator;

/// A process of a simulation, for the simulator: what belongs to all of its threads.
struct SimulatedProcess {
  std::string name;
  Simulation::Role role;
  Simulation::Mortality mortality;
  std::function<void(Process&)> body;
  bool killed = false;
  std::vector<std::unique_ptr<SimulatedThread>> threads;
  std::map<std::byte*, std::size_t> shared_mappings;
  unsigned calls_after_death = 0;
  Duration time_after_death{};  ///< what is left of its code waits for nothing: its clock runs ahead

  bool ended() const;
};

/// Runs one of its callbacks at a time; which one is the simulation's to decide.
class SimulatedLoop final : public Loop {
 public:
  explicit SimulatedLoop(SimulatedThread& thread) : thread_(thread) {}
  Result<Registration> watch(int fd, Ready interest, Watcher watcher) override;
  Status rewatch(const Registration& watch, Ready interest) override { return entries_.rewatch(watch.id(), interest); }
  Registration after(Duration delay, Task task) override;
  Registration poll(Poller poller) override { return Registration(*this, entries_.add_poller(std::move(poller))); }
  void post(Task task) override { posted_.push_back(std::move(task)); }
  bool in_loop_thread() const override;
  const Clock& clock() const override;

  /// Something can run without waiting for a descriptor.
  bool has_work(TimePoint now) const;
  std::optional<TimePoint> next_deadline() const { return entries_.next_deadline(); }
  LoopEntries::Asked to_poll() const { return entries_.to_poll(); }
  /// Destroys the tasks that have not run, as the end of a process does.
  void drop_posted();
  /// Runs one callback, if one can run.
  void run_one();

 protected:
  void end(std::uint64_t id) override { entries_.end(id); }

 private:
  void run_posted();

  SimulatedThread& thread_;
  LoopEntries entries_;
  std::deque<Task> posted_;
};

/// A thread of a simulated process: a stack, a loop, and what it waits for.
class SimulatedThread final : public Process {
 public:
  SimulatedThread(Simulator& simulator, SimulatedProcess& process, std::uint32_t number,
                  std::function<void(Process&)> body);

  const std::string& name() const override { return process_.name; }
  Simulation& simulation() override;
  Loop& loop() override { return loop_; }
  void run_until(const std::function<bool()>& done) override;
  bool run_for(Duration time, const std::function<bool()>& done) override;
  void pause(Duration time) override;
  [[noreturn]] void run() override;
  void start_thread(std::function<void(Process&)> body) override;
  bool killed() const override { return process_.killed; }
  void require(bool condition, const std::string& what) override;

  /// What it waits for; any of them wakes it.
  struct Waiting {
    bool for_loop = false;
    std::vector<pollfd> descriptors{};
    TimePoint until = TimePoint::max();
  };
  /// On the thread: other threads run until what it waits for has come.
  void wait(Waiting waiting);
  /// On the thread: others may run; it waits for nothing.
  void yield() { wait({.for_loop = false, .descriptors = {}, .until = TimePoint::min()}); }

  const Waiting& waiting() const { return waiting_; }
  Simulator& simulator() { return simulator_; }
  SimulatedProcess& process() { return process_; }
  SimulatedLoop& simulated_loop() { return loop_; }
  std::uint32_t number() const { return number_; }
  void resume() { fiber_.resume(); }
  bool ended() const { return fiber_.ended(); }
  bool begun() const { return begun_; }

 private:
  void run_body(const std::function<void(Process&)>& body);
  bool run_loop(TimePoint until, const std::function<bool()>& done);

  Simulator& simulator_;
  SimulatedProcess& process_;
  std::uint32_t number_;
  SimulatedLoop loop_;
  Waiting waiting_{.for_loop = false, .descriptors = {}, .until = TimePoint::min()};
  bool begun_ = false;
  Fiber fiber_;
};

}  // namespace outboard::testing
