#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <outboard/base/loop.hpp>
#include <outboard/base/result.hpp>
#include <outboard/testing/schedule.hpp>

namespace outboard::testing {

class Simulation;

/// Ends the code of a process that has been killed. Thrown by the calls of Process that run its loop; the body of a process lets
/// it pass.
struct Killed {};

/// A process of a Simulation. What it does with descriptors, memory, its loop and the clock is simulated; everything else it
/// must not use: threads, sleeps, other clocks, random numbers.
class Process {
 public:
  virtual ~Process() = default;

  virtual const std::string& name() const = 0;
  virtual Simulation& simulation() = 0;
  /// The loop of the calling thread of this process.
  virtual Loop& loop() = 0;
  /// Runs the loop until `done`, which is asked between callbacks. Killed.
  virtual void run_until(const std::function<bool()>& done) = 0;
  /// Runs the loop for so long. False: `done` became true before.
  virtual bool run_for(Duration time, const std::function<bool()>& done) = 0;
  /// Runs the loop for so long, or until the process is killed. Never throws: for code that destructors call, such as the `wait`
  /// of a transport.
  virtual void pause(Duration time) = 0;
  /// Runs the loop until the process is killed: always throws Killed.
  [[noreturn]] virtual void run() = 0;
  /// Starts another thread of the process, with a loop of its own. `body` must not refer to what lives on the stack of a thread
  /// that may end before. The process ends when all of its threads have.
  virtual void start_thread(std::function<void(Process&)> body) = 0;
  /// It has been killed, and what its code does now has no effect: it should end soon.
  virtual bool killed() const = 0;
  /// Fails the simulation unless the condition holds, or the process has been killed.
  virtual void require(bool condition, const std::string& what) = 0;
  void require(const Status& done, const std::string& what) {
    require(done.has_value(), done ? what : what + ": " + done.error().message());
  }
};

/// Runs devices, drivers, servers and clients in one thread, under a clock of its own, and decides everything that real machines
/// leave open: who runs next, how much of a message a socket takes, when memory or descriptors run out, and who is killed when.
/// The same decisions give the same run on every machine.
///
/// A process is code with a stack of its own (a fiber). It waits only in the calls of Process and in system calls of the library;
/// in between nothing else runs. A process that is killed ends as if by SIGKILL: nothing that its code does from then on reaches
/// anybody, while the code unwinds and its objects are destroyed. Descriptors are real (sockets, eventfds, memory files), so that
/// code which only looks at them needs no change.
///
/// One thread; no two at a time on it.
class Simulation {
 public:
  struct Options {
    /// More steps than this fail the run: something goes round for ever.
    std::uint64_t max_steps = 60'000;
    /// More kills than this do not happen.
    unsigned max_kills = 3;
    /// More named actions than this do not happen.
    unsigned max_actions = 20;
    /// Keeps a line for each step, for transcript().
    bool transcript = false;
  };
  /// Whether the simulation may kill a process, and what it then does: `restart` runs its body once more.
  enum class Mortality : std::uint8_t { lives, dies, restarts };
  enum class Role : std::uint8_t {
    worker,  ///< the run ends when all workers have ended
    server,  ///< is killed when they have
  };

  Simulation(Schedule schedule, Options options);
  ~Simulation();
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;

  /// Adds a process. Its body runs as soon as run() does, or at once if that runs already.
  void add_process(std::string name, Role role, Mortality mortality, std::function<void(Process&)> body);
  /// Something that happens to the processes from outside, at any step: a reset, a spurious kick, memory that moves. Called
  /// between two steps; must not wait.
  void add_action(std::string name, std::function<void()> action);

  /// Runs until all workers have ended, then ends the servers. Nothing: no rule was broken; else what was.
  std::optional<std::string> run();

  /// Notes that a rule was broken; the first one counts. From anywhere.
  void fail(const std::string& what);
  bool failed() const;
  /// A decision of the test's own: 0 to count - 1, of which 0 is the usual case.
  std::uint32_t choose(Choice choice, std::uint32_t count);

  /// The simulation that runs on this thread; null: none does.
  static Simulation* running();
  /// Whether the code that runs now is that of a killed process. For what a simulated machine has beside processes, such as a
  /// disk: the dead ask it for nothing.
  bool is_code_of_the_dead() const;
  /// In a process: a place at which others may run, or the process be killed. For code that shares memory with another process.
  void preempt();

  const Clock& clock() const;
  /// Calls `task` at this time, outside of all processes: for devices of the simulated machine.
  void at(TimePoint time, std::function<void()> task);

  const Schedule& schedule() const;
  /// Of all that happened, in order; the same for the same schedule on every machine.
  std::uint64_t trace_hash() const;
  /// With Options::transcript.
  const std::vector<std::string>& transcript() const;
  void note(const std::string& line);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace outboard::testing
