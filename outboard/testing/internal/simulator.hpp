#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <outboard/testing/internal/simulated_thread.hpp>
#include <outboard/testing/simulation.hpp>

namespace outboard::testing {

/// What a Simulation does: it decides who runs next, and keeps time and trace.
class Simulator {
 public:
  Simulator(Simulation& simulation, Schedule schedule, const Simulation::Options& options);

  void add_process(std::string name, Simulation::Role role, Simulation::Mortality mortality,
                   std::function<void(Process&)> body);
  void add_thread(SimulatedProcess& process, std::function<void(Process&)> body);
  void add_action(std::string name, std::function<void()> action);
  void at(TimePoint time, std::function<void()> task) { tasks_.emplace(time, std::move(task)); }
  void run();
  /// Kills all processes.
  void end_all();

  void fail(const std::string& what);
  bool failed() const { return failure_.has_value(); }
  /// The first rule that was broken.
  const std::optional<std::string>& failure() const { return failure_; }

  /// Decides, and notes the decision.
  std::uint32_t choose(Choice choice, std::uint32_t count);
  /// Mixes into the trace what happened, as numbers that are the same on every machine.
  void trace(std::uint64_t what);
  void note(const std::string& line);
  /// Asked before the lines of each step, so that without a transcript they are not made.
  bool keeps_transcript() const { return options_.transcript; }

  /// By the machine's clock; a process that has been killed has its own.
  TimePoint now() const { return now_; }
  TimePoint now_of_current();
  const Clock& clock() const { return clock_; }

  /// The thread that runs; null between two steps.
  SimulatedThread* current() const { return current_; }
  /// A chance to kill the process of the running thread right here.
  void maybe_kill_current();
  /// What is left of the code of a killed process makes a system call. Ends the program if it never stops doing so.
  void count_call_of_the_dead();
  /// As SIGKILL: from now on nothing that its code does reaches anybody.
  void kill(SimulatedProcess& process);

  Simulation& simulation() { return simulation_; }
  const Schedule& schedule() const { return schedule_; }
  std::uint64_t trace_hash() const { return hash_; }
  const std::vector<std::string>& transcript() const { return transcript_; }

 private:
  class VirtualClock final : public Clock {
   public:
    explicit VirtualClock(Simulator& simulator) : simulator_(simulator) {}
    TimePoint now() const override { return simulator_.now_of_current(); }

   private:
    Simulator& simulator_;
  };

  bool step();
  std::vector<SimulatedThread*> runnable_threads();
  bool advance_time();
  void disturb();
  void run_thread(SimulatedThread& thread);
  void reap();
  void end_threads(SimulatedProcess& process);
  void check_ended(const SimulatedProcess& process);
  bool workers_run() const;

  Simulation& simulation_;
  Schedule schedule_;
  Simulation::Options options_;
  VirtualClock clock_{*this};
  TimePoint now_{std::chrono::seconds(1)};  // not 0: "never" and "now" must not look the same
  std::vector<std::unique_ptr<SimulatedProcess>> processes_;
  struct Action {
    std::string name;
    std::function<void()> run;
  };
  std::vector<Action> actions_;
  std::multimap<TimePoint, std::function<void()>> tasks_;
  SimulatedThread* current_ = nullptr;
  std::uint32_t next_thread_ = 0;
  unsigned kills_ = 0, actions_done_ = 0;
  bool ending_ = false;
  std::uint64_t hash_ = UINT64_C(0xcbf29ce484222325);
  std::optional<std::string> failure_;
  std::vector<std::string> transcript_;
};

}  // namespace outboard::testing
