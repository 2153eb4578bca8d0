#include <outboard/base/process.hpp>

#include <charconv>
#include <fstream>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include <outboard/base/printable.hpp>

namespace outboard {
namespace {

/// Numbered as in proc(5); of those that are read here.
enum class StatField : unsigned { state = 3, threads = 20, start_time = 22 };

std::string stat_of(int pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  std::getline(file, line);
  return line;
}

/// Empty where there is none.
std::string_view field_of(std::string_view line, StatField wanted) {
  // The second field is the program's name, in parentheses that it may itself contain.
  std::size_t at = line.rfind(')');
  for (unsigned field = 2; field < static_cast<unsigned>(wanted) && at != std::string_view::npos; ++field)
    at = line.find(' ', at + 1);
  if (at == std::string_view::npos) return {};
  line.remove_prefix(at + 1);
  return line.substr(0, line.find(' '));
}

std::uint64_t number_of(std::string_view field) {
  std::uint64_t value = 0;
  std::from_chars(field.data(), field.data() + field.size(), value);
  return value;
}

}  // namespace

std::string process_name(int pid, const std::string& proc) {
  std::ifstream file(fmt::format("{}/{}/comm", proc, pid));
  std::string name(std::istreambuf_iterator<char>(file), {});
  if (name.ends_with('\n')) name.pop_back();
  return printable(name);
}

std::uint64_t start_time_of(int pid) { return number_of(field_of(stat_of(pid), StatField::start_time)); }

bool process_has_ended(int pid, std::uint64_t start_time) {
  const std::string line = stat_of(pid);
  if (number_of(field_of(line, StatField::start_time)) != start_time) return true;
  const std::string_view state = field_of(line, StatField::state);
  // A first thread that is dead may have left others, which still wait in the kernel.
  return (state == "Z" || state == "X") && number_of(field_of(line, StatField::threads)) <= 1;
}

}  // namespace outboard
