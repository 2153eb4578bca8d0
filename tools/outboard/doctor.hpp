#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace outboard::command {

/// One thing that the machine can do, or not.
struct Finding {
  enum class State : std::uint8_t { ok, missing, denied, low };
  std::string name;    ///< "io_uring"
  std::string use;     ///< what it is good for
  State state;
  std::string detail;  ///< what was found
  std::string cure;    ///< what to run; empty when there is nothing to mend
};

/// Looks at this machine. `root` stands in front of /dev, /proc and /sys (tests).
std::vector<Finding> examine(const std::string& root = {});

const char* name_of(Finding::State state);

}  // namespace outboard::command
