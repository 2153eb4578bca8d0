#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include <outboard/base/fd.hpp>

/// Starts a command and kills it with SIGKILL, again and again, at moments that are drawn by lot: some while it is starting,
/// most while it does what it is there for. The last one is left running.
///
///   kill_loop KILLS SEED PROGRESS PID_FILE COMMAND...
///
/// PROGRESS: a file whose first eight bytes count what has been done; they must move again after each start, within a
/// minute. PID_FILE: where the process ID of the last one goes.
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr auto timeout = 60s;

class Progress {
 public:
  static std::optional<Progress> open(const char* path) {
    const outboard::UniqueFd fd(::open(path, O_RDONLY | O_CLOEXEC));
    if (!fd) return std::nullopt;
    void* mapped = ::mmap(nullptr, 8, PROT_READ, MAP_SHARED, fd.get(), 0);
    if (mapped == MAP_FAILED) return std::nullopt;
    return Progress(static_cast<const std::atomic<std::uint64_t>*>(mapped));
  }
  std::uint64_t now() const { return counter_->load(std::memory_order_relaxed); }

 private:
  explicit Progress(const std::atomic<std::uint64_t>* counter) : counter_(counter) {}
  const std::atomic<std::uint64_t>* counter_;
};

struct Loop {
  unsigned kills = 0;
  unsigned seed = 0;
  Progress progress;
  std::string pid_file;
  std::vector<char*> command;
};

pid_t start(const Loop& loop) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::execvp(loop.command[0], loop.command.data());
    std::perror(loop.command[0]);
    ::_exit(127);
  }
  return child;
}

/// False: the command has ended by itself.
bool alive(pid_t child) {
  int status = 0;
  if (::waitpid(child, &status, WNOHANG) == 0) return true;
  fmt::print(stderr, "kill_loop: the command ended by itself, with status {:#x}\n", status);
  return false;
}

/// Waits until something has been done since it was started; the time that it took.
std::optional<Clock::duration> wait_for_progress(const Loop& loop, pid_t child, std::uint64_t before) {
  const auto began = Clock::now();
  while (loop.progress.now() == before) {
    if (!alive(child)) return std::nullopt;
    if (Clock::now() - began > timeout) {
      fmt::print(stderr, "kill_loop: nothing has been done for a minute since the start of {}\n", child);
      return std::nullopt;
    }
    std::this_thread::sleep_for(200us);
  }
  return Clock::now() - began;
}

/// One life; false: it was not as it should be. `usual`: how long a start takes.
bool live_and_die(const Loop& loop, std::mt19937& random, Clock::duration& usual, unsigned& early) {
  const std::uint64_t before = loop.progress.now();
  const pid_t child = start(loop);
  if (child < 0) return false;
  if (random() % 4 == 0) {
    std::this_thread::sleep_for(usual * (random() % 1024) / 1024);
    ++early;
  } else {
    const auto took = wait_for_progress(loop, child, before);
    if (!took) return false;
    usual = std::max(usual * 7 / 8, *took);
    std::this_thread::sleep_for(30ms * (random() % 1024) / 1024);
  }
  if (!alive(child)) return false;
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  return true;
}

int leave_one_running(const Loop& loop) {
  const std::uint64_t before = loop.progress.now();
  const pid_t child = start(loop);
  if (child < 0 || !wait_for_progress(loop, child, before)) return 1;
  FILE* file = std::fopen(loop.pid_file.c_str(), "w");
  if (file == nullptr) return 1;
  fmt::print(file, "{}\n", child);
  return std::fclose(file) == 0 ? 0 : 1;
}

int run(const Loop& loop) {
  std::mt19937 random(loop.seed);
  Clock::duration usual = 100ms;
  unsigned early = 0;
  const std::uint64_t before = loop.progress.now();
  for (unsigned i = 0; i < loop.kills; ++i) {
    if (live_and_die(loop, random, usual, early)) continue;
    fmt::print(stderr, "kill_loop: that was life {} of {}, seed {}\n", i + 1, loop.kills, loop.seed);
    return 1;
  }
  const int status = leave_one_running(loop);
  fmt::print("killed {} times, {} of them during the start; {} operations; a start takes {} ms\n", loop.kills, early,
             loop.progress.now() - before, usual / 1ms);
  return status;
}

std::optional<unsigned> number(std::string_view text) {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  const auto kills = argc > 5 ? number(argv[1]) : std::nullopt;
  const auto seed = argc > 5 ? number(argv[2]) : std::nullopt;
  if (!kills || !seed) {
    fmt::print(stderr, "usage: kill_loop KILLS SEED PROGRESS PID_FILE COMMAND...\n");
    return 2;
  }
  const auto progress = Progress::open(argv[3]);
  if (!progress) {
    std::perror(argv[3]);
    return 1;
  }
  return run({*kills, *seed, *progress, argv[4], {argv + 5, argv + argc + 1}});
}
