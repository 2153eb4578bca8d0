#include <outboard/testing/internal/simulator.hpp>

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <outboard/base/internal/system_calls.hpp>

namespace outboard::testing {
namespace {

constexpr Duration step_time = std::chrono::microseconds(1);
/// Shorter than what anybody waits for before giving up, which is 5 s.
constexpr Duration clock_jumps[] = {Duration::zero(), std::chrono::milliseconds(1), std::chrono::milliseconds(100),
                                    std::chrono::seconds(3)};
constexpr Duration time_of_the_dead = std::chrono::seconds(1);

[[noreturn]] void give_up(const std::string& why) {
  std::fputs(("simulation: " + why + "\n").c_str(), stderr);
  std::abort();
}

/// Replaces a shared mapping by a private copy.
void make_private(std::byte* at, std::size_t size) {
  const std::vector<std::byte> bytes(at, at + size);
  if (::mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
    give_up("no memory for the memory of a killed process");
  std::memcpy(at, bytes.data(), size);
}

}  // namespace

Simulator::Simulator(Simulation& simulation, Schedule schedule, const Simulation::Options& options)
    : simulation_(simulation), schedule_(std::move(schedule)), options_(options) {}

// Trace and failures.

void Simulator::trace(std::uint64_t what) {
  for (unsigned byte = 0; byte < sizeof what; ++byte) {
    hash_ = (hash_ ^ ((what >> (8 * byte)) & 0xff)) * UINT64_C(0x100000001b3);  // FNV-1a
  }
}

void Simulator::note(const std::string& line) {
  if (!keeps_transcript()) return;
  const auto time = std::chrono::duration_cast<std::chrono::microseconds>(now_.time_since_epoch()).count();
  transcript_.push_back(std::to_string(schedule_.steps()) + " " + std::to_string(time) + " us " +
                        (current_ == nullptr ? "-" : current_->name() + "/" + std::to_string(current_->number())) +
                        ": " + line);
}

std::uint32_t Simulator::choose(Choice choice, std::uint32_t count) {
  const std::uint32_t chosen = schedule_.choose(choice, count);
  if (count > 1) trace(static_cast<std::uint64_t>(choice) << 32 | chosen);
  if (chosen != 0) note(std::string(name_of(choice)) + " " + std::to_string(chosen) + " of " + std::to_string(count));
  return chosen;
}

void Simulator::fail(const std::string& what) {
  note("FAILED: " + what);
  if (!failure_) failure_ = what;
}

TimePoint Simulator::now_of_current() {
  if (current_ == nullptr || !current_->killed()) return now_;
  return now_ + (current_->process().time_after_death += time_of_the_dead);
}

// Processes.

void Simulator::add_process(std::string name, Simulation::Role role, Simulation::Mortality mortality,
                            std::function<void(Process&)> body) {
  note("process " + name);
  auto process = std::make_unique<SimulatedProcess>(SimulatedProcess{.name = std::move(name),
                                                                     .role = role,
                                                                     .mortality = mortality,
                                                                     .body = body,
                                                                     .threads = {},
                                                                     .shared_mappings = {}});
  processes_.push_back(std::move(process));
  add_thread(*processes_.back(), std::move(body));
}

void Simulator::add_thread(SimulatedProcess& process, std::function<void(Process&)> body) {
  process.threads.push_back(std::make_unique<SimulatedThread>(*this, process, next_thread_++, std::move(body)));
}

void Simulator::add_action(std::string name, std::function<void()> action) {
  actions_.push_back({std::move(name), std::move(action)});
}

void Simulator::maybe_kill_current() {
  SimulatedProcess& process = current_->process();
  if (process.mortality == Simulation::Mortality::lives || kills_ >= options_.max_kills) return;
  if (choose(Choice::kill, 2) != 0) kill(process);
}

void Simulator::count_call_of_the_dead() {
  constexpr unsigned max_calls = 100'000;
  SimulatedProcess& process = current_->process();
  if (++process.calls_after_death == max_calls)
    give_up(process.name + " has been killed, and its code does not end: it repeats a call of the library for ever");
}

void Simulator::kill(SimulatedProcess& process) {
  if (std::exchange(process.killed, true)) return;
  if (!ending_) ++kills_;
  note("killed: " + process.name);
  for (const auto& [at, size] : process.shared_mappings) make_private(at, size);
}

/// Runs what is left of the code of a killed process: objects are destroyed, and nothing waits. Threads that were started later
/// may refer to the stacks of earlier ones, so they end first.
void Simulator::end_threads(SimulatedProcess& process) {
  for (std::size_t i = process.threads.size(); i-- > 0;) {
    SimulatedThread& thread = *process.threads[i];
    if (thread.begun() && !thread.ended()) run_thread(thread);
  }
}

void Simulator::check_ended(const SimulatedProcess& process) {
  if (!process.shared_mappings.empty())
    fail(process.name + " left " + std::to_string(process.shared_mappings.size()) + " mappings");
}

/// Takes away processes that have ended or were killed, and starts again those that are to.
void Simulator::reap() {
  for (std::size_t i = 0; i < processes_.size(); ++i) {
    if (processes_[i]->killed) {
      end_threads(*processes_[i]);
    } else if (!processes_[i]->ended()) {
      continue;
    }
    const auto gone = std::move(processes_[i]);
    processes_.erase(processes_.begin() + static_cast<std::ptrdiff_t>(i--));
    check_ended(*gone);
    note("ended: " + gone->name);
    if (gone->killed && gone->mortality == Simulation::Mortality::restarts && !ending_)
      add_process(gone->name, gone->role, gone->mortality, gone->body);
  }
}

bool Simulator::workers_run() const {
  return std::ranges::any_of(processes_, [](const auto& one) { return one->role == Simulation::Role::worker; });
}

// Steps.

std::vector<SimulatedThread*> Simulator::runnable_threads() {
  std::vector<SimulatedThread*> threads;
  std::vector<pollfd> list;
  std::vector<std::size_t> owner;
  std::vector<bool> runnable;
  for (const auto& process : processes_) {
    for (const auto& thread : process->threads) {
      if (thread->ended()) continue;
      const auto& waiting = thread->waiting();
      const std::vector<pollfd> asked =
          waiting.for_loop ? thread->simulated_loop().to_poll().list : waiting.descriptors;
      list.insert(list.end(), asked.begin(), asked.end());
      owner.resize(list.size(), threads.size());
      runnable.push_back(waiting.until <= now_ || (waiting.for_loop && thread->simulated_loop().has_work(now_)));
      threads.push_back(thread.get());
    }
  }
  if (!list.empty()) ::poll(list.data(), list.size(), 0);
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (list[i].revents != 0) runnable[owner[i]] = true;
  }
  std::vector<SimulatedThread*> found;
  for (std::size_t i = 0; i < threads.size(); ++i) {
    if (runnable[i]) found.push_back(threads[i]);
  }
  return found;
}

/// To the next moment at which something is to happen. False: nothing ever is.
bool Simulator::advance_time() {
  TimePoint next = TimePoint::max();
  if (!tasks_.empty()) next = tasks_.begin()->first;
  for (const auto& process : processes_) {
    for (const auto& thread : process->threads) {
      if (thread->ended()) continue;
      next = std::min(next, thread->waiting().until);
      if (!thread->waiting().for_loop) continue;
      if (const auto deadline = thread->simulated_loop().next_deadline()) next = std::min(next, *deadline);
    }
  }
  if (next == TimePoint::max()) return false;
  now_ = std::max(now_, next);
  trace(static_cast<std::uint64_t>(now_.time_since_epoch().count()));
  return true;
}

/// What may happen from outside between two steps.
void Simulator::disturb() {
  if (const auto jump = choose(Choice::clock_jump, std::size(clock_jumps)); jump != 0) now_ += clock_jumps[jump];
  if (actions_done_ < options_.max_actions) {
    const auto chosen = choose(Choice::action, static_cast<std::uint32_t>(actions_.size() + 1));
    if (chosen != 0) {
      ++actions_done_;
      note(actions_[chosen - 1].name);
      actions_[chosen - 1].run();
    }
  }
  if (kills_ >= options_.max_kills) return;
  std::vector<SimulatedProcess*> mortal;
  for (const auto& process : processes_) {
    if (process->mortality != Simulation::Mortality::lives) mortal.push_back(process.get());
  }
  const auto chosen = choose(Choice::kill, static_cast<std::uint32_t>(mortal.size() + 1));
  if (chosen != 0) kill(*mortal[chosen - 1]);
}

void Simulator::run_thread(SimulatedThread& thread) {
  current_ = &thread;
  thread.resume();
  current_ = nullptr;
}

/// False: nothing can happen any more.
bool Simulator::step() {
  now_ += step_time;
  disturb();
  reap();
  if (!workers_run()) return true;  // the last one has just been killed
  if (!tasks_.empty() && tasks_.begin()->first <= now_) {
    const auto task = std::move(tasks_.begin()->second);
    tasks_.erase(tasks_.begin());
    task();
    return true;
  }
  const auto threads = runnable_threads();
  if (threads.empty()) return advance_time();
  SimulatedThread& thread = *threads[choose(Choice::run, static_cast<std::uint32_t>(threads.size()))];
  trace(thread.number());
  if (keeps_transcript()) note("runs " + thread.name() + "/" + std::to_string(thread.number()));
  run_thread(thread);
  reap();
  return true;
}

void Simulator::run() {
  for (std::uint64_t steps = 0; workers_run() && !failure_; ++steps) {
    if (steps == options_.max_steps) {
      fail("after " + std::to_string(steps) + " steps it has not ended");
    } else if (!step()) {
      fail("everyone waits, and nothing will happen");
    }
  }
  end_all();
}

void Simulator::end_all() {
  ending_ = true;
  for (const auto& process : processes_) kill(*process);
  reap();
  tasks_.clear();
}

}  // namespace outboard::testing
