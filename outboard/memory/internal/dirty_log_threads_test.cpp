// Threads that write while another one takes the reports: what a report has taken the taker has seen.

#include <outboard/memory/internal/dirty_log.hpp>

#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace outboard::memory {
namespace {

TEST(DirtyLogThreads, NothingThatWasWrittenIsLost) {
  constexpr std::uint64_t pages = 4096;
  constexpr unsigned writers = 2, rounds = 20000;
  static_assert(pages * 4096 < DirtyLog::block_pages * 4096);
  DirtyLog log;
  std::vector<std::atomic<std::uint64_t>> memory(pages * writers), copy(pages * writers);
  std::atomic<unsigned> running{writers};
  std::vector<std::thread> threads;
  for (unsigned writer = 0; writer < writers; ++writer) {
    threads.emplace_back([&, writer] {
      for (unsigned round = 1; round <= rounds; ++round) {
        // In two blocks, and each thread makes them both: they meet.
        const std::uint64_t page = round * 7919 % pages;
        memory[page * writers + writer].store(round, std::memory_order_relaxed);
        log.written({Iova{(page % 2 * DirtyLog::block_pages + page) * 4096}, 4096});
      }
      --running;
    });
  }
  const IovaRange all{Iova{0}, 2 * DirtyLog::block_pages * 4096};
  std::vector<std::byte> bitmap(DirtyLog::bitmap_size(all.size, 4096));
  for (bool last = false; !last;) {
    last = running == 0;
    ASSERT_TRUE(log.report(all, 4096, bitmap));
    for (std::uint64_t page = 0; page < pages; ++page) {
      const std::uint64_t bit = page % 2 * DirtyLog::block_pages + page;
      if ((bitmap[bit / 8] >> (bit % 8) & std::byte{1}) == std::byte{0}) continue;
      for (unsigned writer = 0; writer < writers; ++writer)
        copy[page * writers + writer] = memory[page * writers + writer].load(std::memory_order_relaxed);
    }
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < memory.size(); ++i) ASSERT_EQ(copy[i], memory[i]) << i;
}

}  // namespace
}  // namespace outboard::memory
