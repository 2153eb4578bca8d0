#pragma once

#include <atomic>
#include <cstdint>
#include <random>
#include <span>
#include <string>

#include "record.hpp"

namespace outboard::witness {

/// One thread's work: reads, writes, clears and flushes blocks that are its own, one operation at a time, with the calls
/// that wait, past the page cache; looks at every block it reads.
class Worker {
 public:
  struct Blocks {
    std::uint64_t first = 0;
    std::uint64_t count = 0;
  };

  /// `disk` is open with O_DIRECT. All of them outlive the worker.
  Worker(int disk, const Record& record, Blocks blocks, unsigned seed);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// Works until `stop`, then reads all its blocks. False: something was wrong; it has been said on stderr.
  bool run(const std::atomic<bool>& stop);

 private:
  static constexpr std::uint64_t max_blocks = 8;  // of one operation

  bool step();
  bool write(Blocks blocks);
  bool read(Blocks blocks);
  bool flush();
  Blocks choose();
  bool failed(const char* what, Blocks blocks) const;
  std::span<std::byte> room(std::uint64_t blocks) const { return {buffer_, blocks * block_size}; }

  int disk_;
  const Record& record_;
  Blocks own_;
  std::mt19937 random_;
  std::uint32_t number_ = 0;
  std::byte* buffer_;
};

}  // namespace outboard::witness
