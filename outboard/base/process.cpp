#include <outboard/base/process.hpp>

#include <charconv>
#include <fstream>
#include <string>

#include <fmt/format.h>

namespace outboard {

std::uint64_t start_time_of(int pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  std::getline(file, line);
  // The second field is the program's name, in parentheses that it may itself contain.
  std::size_t at = line.rfind(')');
  for (unsigned field = 2; field < 22 && at != std::string::npos; ++field) at = line.find(' ', at + 1);
  std::uint64_t value = 0;
  if (at != std::string::npos) std::from_chars(line.data() + at + 1, line.data() + line.size(), value);
  return value;
}

}  // namespace outboard
