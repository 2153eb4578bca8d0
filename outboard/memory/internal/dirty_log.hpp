#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/result.hpp>
#include <outboard/memory/internal/device_writes.hpp>
#include <outboard/memory/iova.hpp>

namespace outboard::memory {

/// The pages that a device has written, by their addresses, which need not be mapped. Pages have 4 KiB.
///
/// What is noted is kept in blocks of 128 MiB of addresses, each made at its first write. Where there are more than max_blocks of
/// them (2 TiB), or no memory for one, every page counts as written from then on: nothing is lost.
class DirtyLog final : public WriteLog {
 public:
  static constexpr std::uint64_t page_size = 4096;
  static constexpr std::uint64_t block_pages = std::uint64_t{1} << 15;
  static constexpr std::size_t max_blocks = std::size_t{1} << 14;
  static constexpr std::size_t max_ranges = 4096;

  DirtyLog() = default;
  ~DirtyLog() override;
  DirtyLog(const DirtyLog&) = delete;
  DirtyLog& operator=(const DirtyLog&) = delete;

  /// Forgets everything, and allows reports of these ranges; of all addresses when there are none. EINVAL: a range is empty or
  /// wraps. ENOSPC: there are more than max_ranges.
  Status restart(std::span<const IovaRange> ranges);

  /// Any thread; several at once.
  void written(IovaRange range) override;

  /// The number of bytes of a bitmap: as VFIO has it, in words of 64 bits. 0: the size of the pages is not a power of two of
  /// `page_size` or more.
  static std::uint64_t bitmap_size(std::uint64_t length, std::uint64_t size_of_page);
  /// Moves what has been noted of `range` into `bitmap`, which is overwritten whole: bit n % 8 of byte n / 8 is the page of
  /// `size_of_page` bytes at range.start + n * size_of_page. EINVAL: another size of bitmap than bitmap_size(), a start between two
  /// pages of the log, an empty or wrapping range, or one beyond those of restart(). One thread.
  Status report(IovaRange range, std::uint64_t size_of_page, MutableBytes bitmap);

 private:
  using Word = std::atomic<std::uint64_t>;
  static constexpr std::size_t block_words = block_pages / 64;
  struct Block {
    explicit Block(std::uint64_t number_) : number(number_) {}
    const std::uint64_t number;
    std::array<Word, block_words> words{};
  };

  Block* find_or_make(std::uint64_t number);
  void note(std::uint64_t first_page, std::uint64_t last_page);
  Status check(IovaRange range, std::uint64_t size_of_page, std::size_t bitmap) const;
  bool may_report(IovaRange range) const;

  /// By their numbers, with open addressing: whoever finds a free place and has made a block puts it there.
  std::array<std::atomic<Block*>, max_blocks> blocks_{};
  std::atomic<bool> overflowed_{false};
  std::vector<IovaRange> ranges_;
};

}  // namespace outboard::memory
