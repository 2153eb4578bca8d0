#include <outboard/base/internal/process.hpp>

#include <signal.h>
#include <sys/stat.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <system_error>

#include <fmt/format.h>

#include <outboard/base/internal/printable.hpp>

namespace outboard {
namespace {

namespace fs = std::filesystem;

/// Numbered as in proc(5); of those that are read here.
enum class StatField : unsigned { state = 3, flags = 9, threads = 20, start_time = 22 };

/// PF_EXITING, PF_DUMPCORE and PF_SIGNALED of the kernel's <linux/sched.h>.
constexpr std::uint64_t exiting = 0x4, dumping_core = 0x200, killed_by_signal = 0x400;

/// Of a process, or of one of its threads: `folder` is /proc/PID or /proc/PID/task/TID.
std::string stat_in(const std::string& folder) {
  std::ifstream file(folder + "/stat");
  std::string line;
  std::getline(file, line);
  return line;
}

std::string stat_of(int pid) { return stat_in(fmt::format("/proc/{}", pid)); }

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

std::uint64_t flags_of(std::string_view line) { return number_of(field_of(line, StatField::flags)); }

/// Whether SIGKILL waits for a thread, or for its process. Each thread of a process that exits or crashes gets one.
bool is_to_be_killed(const std::string& folder) {
  constexpr std::uint64_t sigkill = 1U << (SIGKILL - 1);
  std::ifstream status(folder + "/status");
  for (std::string line; std::getline(status, line);) {
    const bool pending = line.starts_with("SigPnd:") || line.starts_with("ShdPnd:");
    if (pending && (std::strtoull(line.c_str() + 7, nullptr, 16) & sigkill) != 0) return true;
  }
  return false;
}

/// proc(5), NSpid: of each PID namespace that it is in, the innermost last. Nothing: not to be learnt.
std::optional<int> number_in_its_container(const fs::path& process) {
  std::ifstream status(process / "status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("NSpid:")) return parse_pid(std::string_view(line).substr(line.find_last_of(" \t") + 1));
  }
  return std::nullopt;
}

/// A thread that only exits says nothing about its process.
bool shows_the_end_of_its_process(const std::string& thread) {
  return (flags_of(stat_in(thread)) & killed_by_signal) != 0 || is_to_be_killed(thread);
}

/// `line`: that of its /proc/PID/stat.
bool is_ending(const std::string& folder, std::string_view line) {
  const std::string_view state = field_of(line, StatField::state);
  const bool first_is_gone = state == "Z" || state == "X";
  if (first_is_gone && number_of(field_of(line, StatField::threads)) <= 1) return true;
  // Before it is PF_EXITING, a thread waits for its io_uring requests: then the other threads show what has happened. They do, too,
  // where the first one has left them.
  const unsigned of_the_end = dumping_core | killed_by_signal | (first_is_gone ? 0 : exiting);
  if ((flags_of(line) & of_the_end) != 0 || is_to_be_killed(folder)) return true;
  std::error_code gone;
  for (fs::directory_iterator thread(folder + "/task", gone), end; !gone && thread != end; thread.increment(gone)) {
    if (shows_the_end_of_its_process(thread->path().string())) return true;
  }
  return false;
}

}  // namespace

std::optional<int> parse_pid(std::string_view text) {
  int pid = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), pid);
  if (error != std::errc{} || end != text.data() + text.size() || pid <= 0) return std::nullopt;
  return pid;
}

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

ProcessState process_state(int pid, const std::string& proc) {
  const std::string folder = fmt::format("{}/{}", proc, pid);
  const std::string line = stat_in(folder);
  if (line.empty()) return ProcessState::unseen;
  return is_ending(folder, line) ? ProcessState::ending : ProcessState::running;
}

bool process_is_ending(int pid, const std::string& proc) { return process_state(pid, proc) == ProcessState::ending; }

std::optional<int> process_in_container(int number, const std::function<bool(std::uint64_t)>& is_its_namespace,
                                        const std::string& proc) {
  std::error_code gone;
  for (fs::directory_iterator entry(proc, gone), end; !gone && entry != end; entry.increment(gone)) {
    const auto pid = parse_pid(entry->path().filename().string());
    if (!pid || number_in_its_container(entry->path()) != number) continue;
    struct stat found{};
    if (::stat((entry->path() / "ns" / "pid").c_str(), &found) == 0 && is_its_namespace(found.st_ino)) return pid;
  }
  return std::nullopt;
}

}  // namespace outboard
