#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace outboard::testing {

/// What a simulation decides. All but `run` are faults: 0 of each is what a quiet machine does.
enum class Choice : std::uint8_t {
  run,  ///< which thread, and which of a loop's events, comes next
  preempt,  ///< other threads run between two system calls
  kill,  ///< the process is killed
  action,  ///< a disturbance that the test has named
  short_send,  ///< the socket takes only a part
  full_socket,  ///< the socket takes nothing now
  interrupted,  ///< a system call ends with EINTR
  disconnect,  ///< the connection breaks within what is sent
  no_descriptor,  ///< EMFILE
  no_memory,  ///< ENOMEM
  clock_jump,  ///< time passes although there is work
  storage,  ///< what the simulated disk does with an operation
  setup,  ///< what the test builds
};
inline constexpr std::size_t choice_count = 13;
std::string_view name_of(Choice choice);

/// A decision that is not 0, by its place among all decisions of a run.
struct Deviation {
  std::uint32_t step = 0;
  std::uint32_t value = 0;

  bool operator==(const Deviation&) const = default;
};

/// The decisions of one run of a simulation: made from a seed, or given. One thread.
class Schedule {
 public:
  /// Each seed has its own rates of faults, and leaves some kinds out: rare faults are then seen beside few others.
  static Schedule from_seed(std::uint64_t seed);
  /// Every decision is 0 but for these.
  static Schedule replay(const std::vector<Deviation>& deviations);

  /// 0 to count - 1, for count >= 1. A choice of one is no decision.
  std::uint32_t choose(Choice choice, std::uint32_t count);

  /// What was decided, for replay().
  const std::vector<Deviation>& deviations() const { return deviations_; }
  std::uint32_t steps() const { return step_; }
  /// How often something other than the usual was decided.
  std::uint32_t count(Choice choice) const { return counts_[static_cast<std::size_t>(choice)]; }

 private:
  std::uint64_t random();
  std::uint32_t decide(Choice choice, std::uint32_t count);

  bool random_ = false;
  std::uint64_t state_ = 0;
  std::array<std::uint32_t, choice_count> rates_{};  // of 65,536
  std::map<std::uint32_t, std::uint32_t> given_;
  std::uint32_t step_ = 0;
  std::vector<Deviation> deviations_;
  std::array<std::uint32_t, choice_count> counts_{};
};

}  // namespace outboard::testing
