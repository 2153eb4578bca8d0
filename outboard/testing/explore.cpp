#include <outboard/testing/explore.hpp>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <iterator>
#include <set>
#include <utility>

namespace outboard::testing {
namespace {

/// What failed, without the numbers, which differ between two schedules that show the same fault.
std::string kind_of(const std::string& failure) {
  std::string kind;
  for (const char one : failure) {
    if (std::isdigit(static_cast<unsigned char>(one)) == 0) kind.push_back(one);
  }
  return kind;
}

/// As an initialiser, of what is not the default.
std::string options_of(const Simulation::Options& options) {
  const Simulation::Options usual;
  std::string text;
  const auto add = [&](const char* name, std::uint64_t value, std::uint64_t usual_value) {
    if (value != usual_value) text += (text.empty() ? "." : ", .") + std::string(name) + " = " + std::to_string(value);
  };
  add("max_steps", options.max_steps, usual.max_steps);
  add("max_kills", options.max_kills, usual.max_kills);
  add("max_actions", options.max_actions, usual.max_actions);
  return "{" + text + "}";
}

/// Searches the shortest schedule with the same kind of failure.
class Shrinking {
 public:
  Shrinking(const World& world, const Exploration& exploration, Finding& finding)
      : world_(world), exploration_(exploration), finding_(finding), kind_(kind_of(finding.failure)) {}

  void run() {
    if (fails({})) return;
    remove_what_can_go();
    if (move_one() || move_last(2)) remove_what_can_go();
  }

 private:
  void remove_what_can_go() {
    for (std::size_t before = 0; before != finding_.schedule.size();) {
      before = finding_.schedule.size();
      for (std::size_t size = std::max<std::size_t>(before / 2, 1); size > 0; size /= 2) remove_parts(size);
      lower_values();
    }
  }

  /// Decisions are known by their place, and one less moves the places of all that follow: what remains is often there only to
  /// keep another one in its place. A single decision may do, at another place.
  bool move_one() {
    if (finding_.schedule.size() <= 1) return false;
    std::set<std::uint32_t> values;
    for (const Deviation& one : finding_.schedule) values.insert(one.value);
    return std::ranges::any_of(values, [this](std::uint32_t value) { return move({{0, value}}); });
  }
  /// The same for the last decisions: the failure follows them.
  bool move_last(std::ptrdiff_t count) {
    if (std::ssize(finding_.schedule) <= count) return false;
    return move({finding_.schedule.end() - count, finding_.schedule.end()});
  }
  /// Tries these decisions alone, with the distances that they have, at the places of a quiet run: first here and there.
  bool move(const std::vector<Deviation>& decisions) {
    constexpr std::uint32_t stride = 16;
    for (std::uint32_t first = 0; first < stride; ++first) {
      for (std::uint32_t place = first; place < quiet_steps_ && !exhausted(); place += stride) {
        std::vector<Deviation> moved = decisions;
        for (Deviation& one : moved) one.step = place + (one.step - decisions.front().step);
        if (fails(moved)) return true;
      }
    }
    return false;
  }

  bool exhausted() const { return runs_ == exploration_.max_shrinking_runs; }
  /// Whether it fails in the same way; then it is the shortest so far.
  bool fails(const std::vector<Deviation>& schedule) {
    if (exhausted()) return false;
    ++runs_;
    Simulation simulation(Schedule::replay(schedule), exploration_.options);
    const auto failure = world_(simulation);
    if (schedule.empty()) quiet_steps_ = simulation.schedule().steps();
    if (!failure || kind_of(*failure) != kind_) return false;
    finding_.failure = *failure;
    // What was given and never asked for is not needed.
    finding_.schedule = simulation.schedule().deviations();
    return true;
  }

  void remove_parts(std::size_t size) {
    for (std::size_t at = 0; at < finding_.schedule.size();) {
      std::vector<Deviation> shorter = finding_.schedule;
      const auto begin = shorter.begin() + static_cast<std::ptrdiff_t>(at);
      shorter.erase(begin, begin + static_cast<std::ptrdiff_t>(std::min(size, shorter.size() - at)));
      const std::size_t before = finding_.schedule.size();
      if (!fails(shorter) || finding_.schedule.size() >= before) at += size;
    }
  }

  void lower_values() {
    for (std::size_t at = 0; at < finding_.schedule.size(); ++at) {
      std::vector<Deviation> lower = finding_.schedule;
      if (std::exchange(lower[at].value, 1) != 1) fails(lower);
    }
  }

  const World& world_;
  const Exploration& exploration_;
  Finding& finding_;
  std::string kind_;
  unsigned runs_ = 0;
  std::uint32_t quiet_steps_ = 0;  ///< of the schedule without a decision
};

}  // namespace

std::optional<Finding> explore(const World& world, const Exploration& exploration) {
  for (std::uint64_t i = 0; i < exploration.seeds; ++i) {
    const std::uint64_t seed = exploration.first_seed + i;
    Finding finding{.seed = seed, .failure = {}, .schedule = {}, .transcript = {}, .options = exploration.options};
    {
      Simulation simulation(Schedule::from_seed(seed), exploration.options);
      const auto failure = world(simulation);
      if (!failure) continue;
      finding.failure = *failure;
      finding.schedule = simulation.schedule().deviations();
      finding.decisions_before = finding.schedule.size();
    }
    Shrinking(world, exploration, finding).run();
    Simulation::Options options = exploration.options;
    options.transcript = true;
    Simulation simulation(Schedule::replay(finding.schedule), options);
    world(simulation);
    finding.transcript = simulation.transcript();
    return finding;
  }
  return std::nullopt;
}

std::string describe(const Finding& finding) {
  std::string text = "seed " + std::to_string(finding.seed) + ": " + finding.failure + "\n";
  text += "The shortest schedule that shows it has " + std::to_string(finding.schedule.size()) +
          (finding.schedule.size() == 1 ? " decision" : " decisions") + " (the seed's has " +
          std::to_string(finding.decisions_before) + "):\n";
  text += "  Simulation simulation(Schedule::replay({";
  for (const Deviation& one : finding.schedule) {
    text += (text.back() == '{' ? "{" : ", {") + std::to_string(one.step) + ", " + std::to_string(one.value) + "}";
  }
  text += "}), " + options_of(finding.options) + ");\nWhat happens (decision, time, process/thread):\n";
  for (const std::string& line : finding.transcript) text += "  " + line + "\n";
  return text;
}

}  // namespace outboard::testing
