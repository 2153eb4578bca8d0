#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include <fmt/format.h>

#include <outboard/base/fd.hpp>

#include "record.hpp"
#include "worker.hpp"

/// A witness of what a disk was told and what it said.
///
///   disk_witness load DISK RECORD BLOCKS THREADS   reads and writes the disk's first BLOCKS blocks of 4 KiB from several
///                                                  threads at once, all processors, until SIGTERM; keeps a record of what
///                                                  was acknowledged, and compares all that it reads with it
///   disk_witness check FILE RECORD                 whether a file (the image behind the disk, say) holds what the record
///                                                  says was acknowledged
///
/// Exit status 0: all was as it should be.
namespace outboard::witness {

namespace {

std::atomic<bool> stop = false;

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Each thread has a processor of its own choice, so that all queues of the disk are used.
void pin_to_processor(unsigned thread) {
  const auto processors = static_cast<unsigned>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(thread % processors, &set);
  if (::sched_setaffinity(0, sizeof set, &set) != 0) std::perror("pinning a thread to a processor");
}

int load(const UniqueFd& disk, const Record& record, unsigned threads) {
  std::atomic<bool> ok = true;
  std::vector<std::jthread> running;
  for (unsigned thread = 0; thread < threads; ++thread) {
    const std::uint64_t first = record.blocks() * thread / threads, next = record.blocks() * (thread + 1) / threads;
    running.emplace_back([&, first, next, thread] {
      pin_to_processor(thread);
      Worker worker(disk.get(), record, {first, next - first}, thread + 1);
      if (worker.run(stop)) return;
      ok = false;
      stop = true;
    });
  }
  running.clear();
  fmt::print("{} operations\n", record.progress().load());
  return ok ? 0 : 1;
}

int check(const UniqueFd& file, const Record& record) {
  unsigned wrong = 0;
  std::array<std::byte, block_size> bytes;
  for (std::uint64_t block = 0; block < record.blocks(); ++block) {
    if (::pread(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(block * block_size)) !=
        static_cast<ssize_t>(block_size)) {
      fmt::print(stderr, "block {} cannot be read\n", block);
      return 1;
    }
    if (holds(block, record.last_acknowledged(block), bytes) || holds(block, record.last_submitted(block), bytes))
      continue;
    if (++wrong > 8) continue;
    fmt::print(stderr, "block {}: write {} was acknowledged, but the file holds {}\n", block,
               record.last_acknowledged(block), describe(block, bytes));
  }
  fmt::print("{} blocks, {} wrong\n", record.blocks(), wrong);
  return wrong == 0 ? 0 : 1;
}

int complain(const Error& error) {
  fmt::print(stderr, "disk_witness: {}\n", error.message());
  return 1;
}

int run(const std::vector<std::string_view>& words) {
  const bool loads = words.size() == 5 && words[0] == "load";
  if (!loads && !(words.size() == 3 && words[0] == "check")) {
    fmt::print(stderr, "usage: disk_witness load DISK RECORD BLOCKS THREADS | check FILE RECORD\n");
    return 2;
  }
  const std::string path(words[1]), record_path(words[2]);
  const UniqueFd file(::open(path.c_str(), loads ? O_RDWR | O_DIRECT | O_CLOEXEC : O_RDONLY | O_CLOEXEC));
  if (!file) return complain(Error::from_errno("opening").on(path));
  if (!loads) {
    const auto record = Record::open(record_path);
    return record ? check(file, *record) : complain(record.error());
  }
  const auto blocks = number(words[3]), threads = number(words[4]);
  if (!blocks || !threads || *threads == 0 || *blocks < *threads) return complain(Error(EINVAL, "too few blocks"));
  std::signal(SIGTERM, [](int) { stop = true; });
  const auto record = Record::create(record_path, *blocks);
  return record ? load(file, *record, static_cast<unsigned>(*threads)) : complain(record.error());
}

}  // namespace

}  // namespace outboard::witness

int main(int argc, char** argv) { return outboard::witness::run({argv + 1, argv + argc}); }
