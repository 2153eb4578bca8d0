#include <outboard/testing/simulation.hpp>

#include <dirent.h>

#include <outboard/testing/internal/simulated_calls.hpp>
#include <outboard/testing/internal/simulator.hpp>

namespace outboard::testing {
namespace {

std::size_t open_descriptors() {
  DIR* const folder = ::opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  std::size_t count = 0;
  while (::readdir(folder) != nullptr) ++count;
  ::closedir(folder);
  return count;
}

constinit thread_local Simulation* in_force = nullptr;

}  // namespace

struct Simulation::State {
  State(Simulation& simulation, Schedule schedule, const Options& options)
      : simulator(simulation, std::move(schedule), options), calls(simulator), in_force(calls) {}

  Simulator simulator;
  ProcessCalls calls;
  SimulatedCalls in_force;
};

Simulation::Simulation(Schedule schedule, Options options) {
  // Made once for a process, and not to be counted as left over.
  [[maybe_unused]] const Status ready = prepare_to_signal_peers();
  state_ = std::make_unique<State>(*this, std::move(schedule), options);
  in_force = this;
}

Simulation::~Simulation() {
  state_->simulator.end_all();
  in_force = nullptr;
}

Simulation* Simulation::running() { return in_force; }
bool Simulation::is_code_of_the_dead() const {
  const SimulatedThread* const thread = state_->simulator.current();
  return thread != nullptr && thread->killed();
}
void Simulation::preempt() { state_->calls.begin(); }

void Simulation::add_process(std::string name, Role role, Mortality mortality, std::function<void(Process&)> body) {
  state_->simulator.add_process(std::move(name), role, mortality, std::move(body));
}
void Simulation::add_action(std::string name, std::function<void()> action) {
  state_->simulator.add_action(std::move(name), std::move(action));
}

std::optional<std::string> Simulation::run() {
  const std::size_t before = open_descriptors();
  state_->simulator.run();
  const std::size_t after = open_descriptors();
  if (after > before) fail(std::to_string(after - before) + " descriptors were left open");
  return state_->simulator.failure();
}

void Simulation::fail(const std::string& what) { state_->simulator.fail(what); }
bool Simulation::failed() const { return state_->simulator.failed(); }
std::uint32_t Simulation::choose(Choice choice, std::uint32_t count) { return state_->simulator.choose(choice, count); }
const Clock& Simulation::clock() const { return state_->simulator.clock(); }
void Simulation::at(TimePoint time, std::function<void()> task) { state_->simulator.at(time, std::move(task)); }
const Schedule& Simulation::schedule() const { return state_->simulator.schedule(); }
std::uint64_t Simulation::trace_hash() const { return state_->simulator.trace_hash(); }
const std::vector<std::string>& Simulation::transcript() const { return state_->simulator.transcript(); }
void Simulation::note(const std::string& line) { state_->simulator.note(line); }

}  // namespace outboard::testing
