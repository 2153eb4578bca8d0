#include <outboard/testing/schedule.hpp>

namespace outboard::testing {
namespace {

constexpr std::array<std::string_view, choice_count> names{
    "run",        "preempt",       "kill",      "action",     "short send", "full socket", "interrupted",
    "disconnect", "no descriptor", "no memory", "clock jump", "storage",    "setup"};

constexpr std::uint32_t setup_rate = 32768;

/// How often at most, of 65,536: a run has some thousand chances of each kind, and must be able to end.
constexpr std::array<std::uint32_t, choice_count> max_rates{32768, 16384, 200, 800, 8192,  8192, 4096,
                                                            200,   300,   300, 400, 24576, 0};

}  // namespace

std::string_view name_of(Choice choice) { return names[static_cast<std::size_t>(choice)]; }

Schedule Schedule::from_seed(std::uint64_t seed) {
  Schedule made;
  made.random_ = true;
  made.state_ = seed;
  for (std::size_t i = 0; i < choice_count; ++i) {
    constexpr std::uint64_t of = 4;
    const std::uint64_t drawn = made.random() % of;  // none, a tenth, a half, all
    made.rates_[i] = max_rates[i] * std::array<std::uint32_t, of>{0, 1, 5, 10}[drawn] / 10;
  }
  made.rates_[static_cast<std::size_t>(Choice::setup)] = setup_rate;
  return made;
}

Schedule Schedule::replay(const std::vector<Deviation>& deviations) {
  Schedule made;
  for (const Deviation& one : deviations) made.given_[one.step] = one.value;
  return made;
}

/// SplitMix64: the same on every machine.
std::uint64_t Schedule::random() {
  std::uint64_t mixed = state_ += UINT64_C(0x9e3779b97f4a7c15);
  mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
  mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94d049bb133111eb);
  return mixed ^ (mixed >> 31);
}

std::uint32_t Schedule::decide(Choice choice, std::uint32_t count) {
  if (!random_) {
    const auto found = given_.find(step_);
    return found == given_.end() ? 0 : found->second % count;
  }
  const std::uint64_t drawn = random();
  if (drawn % 65536 >= rates_[static_cast<std::size_t>(choice)]) return 0;
  return 1 + static_cast<std::uint32_t>((drawn >> 32) % (count - 1));
}

std::uint32_t Schedule::choose(Choice choice, std::uint32_t count) {
  if (count <= 1) return 0;
  const std::uint32_t value = decide(choice, count);
  if (value != 0) {
    deviations_.push_back({step_, value});
    ++counts_[static_cast<std::size_t>(choice)];
  }
  ++step_;
  return value;
}

}  // namespace outboard::testing
