#include <outboard/memory/internal/dirty_log.hpp>

#include <algorithm>
#include <bit>
#include <new>

namespace outboard::memory {

namespace {

constexpr std::uint64_t page_of(Iova at) { return raw(at) / DirtyLog::page_size; }

/// The bits from `first` to `last` of a word.
constexpr std::uint64_t bits_between(unsigned first, unsigned last) {
  return (~std::uint64_t{0} << first) & (~std::uint64_t{0} >> (63 - last));
}

void set_bit(MutableBytes bitmap, std::uint64_t bit) { bitmap[bit / 8] |= std::byte{1} << (bit % 8); }

/// Calls visit(word, bits) for each word that has pages from `first` to `last`, which lie in one block.
template <typename Visit>
void each_word(std::uint64_t first, std::uint64_t last, Visit&& visit) {
  for (std::uint64_t page = first; page <= last; page = (page / 64 + 1) * 64) {
    const std::uint64_t end = std::min(last, page / 64 * 64 + 63);
    visit(page / 64 % (DirtyLog::block_pages / 64), bits_between(page % 64, end % 64));
  }
}

}  // namespace

DirtyLog::~DirtyLog() {
  for (const auto& block : blocks_) delete block.load(std::memory_order_relaxed);
}

Status DirtyLog::restart(std::span<const IovaRange> ranges) {
  if (ranges.size() > max_ranges) return Error(ENOSPC, "more ranges than a log of written pages can have");
  if (!std::ranges::all_of(ranges, &IovaRange::well_formed)) return Error(EINVAL, "a range is empty or wraps");
  ranges_.assign(ranges.begin(), ranges.end());
  overflowed_.store(false, std::memory_order_relaxed);
  for (const auto& block : blocks_) {
    if (Block* const one = block.load(std::memory_order_acquire))
      for (Word& word : one->words) word.store(0, std::memory_order_relaxed);
  }
  return {};
}

void DirtyLog::written(IovaRange range) {
  if (range.size == 0) return;
  const std::uint64_t last = page_of(range.last());
  if ((last - page_of(range.start)) / block_pages >= max_blocks)
    return overflowed_.store(true, std::memory_order_release);
  for (std::uint64_t page = page_of(range.start); page <= last; page = (page / block_pages + 1) * block_pages)
    note(page, std::min(last, page / block_pages * block_pages + block_pages - 1));
}

/// The bytes were written before the bit is set, and whoever takes the bit sees them. M18.
void DirtyLog::note(std::uint64_t first_page, std::uint64_t last_page) {
  Block* const block = find_or_make(first_page / block_pages);
  if (block == nullptr) return overflowed_.store(true, std::memory_order_release);
  each_word(first_page, last_page, [block](std::size_t word, std::uint64_t bits) {
    block->words[word].fetch_or(bits, std::memory_order_release);
  });
}

DirtyLog::Block* DirtyLog::find_or_make(std::uint64_t number) {
  std::unique_ptr<Block> made;
  for (std::size_t probe = 0; probe < max_blocks; ++probe) {
    auto& place = blocks_[(number + probe) % max_blocks];
    Block* block = place.load(std::memory_order_acquire);
    if (block == nullptr) {
      if (made == nullptr) made.reset(new (std::nothrow) Block(number));
      if (made == nullptr) return nullptr;
      // Another thread may have been first, with this block or another one.
      if (place.compare_exchange_strong(block, made.get(), std::memory_order_acq_rel)) return made.release();
    }
    if (block->number == number) return block;
  }
  return nullptr;
}

std::uint64_t DirtyLog::bitmap_size(std::uint64_t length, std::uint64_t size_of_page) {
  if (size_of_page < page_size || !std::has_single_bit(size_of_page)) return 0;
  const std::uint64_t pages = length / size_of_page + (length % size_of_page != 0 ? 1 : 0);
  return (pages / 64 + (pages % 64 != 0 ? 1 : 0)) * 8;
}

bool DirtyLog::may_report(IovaRange range) const {
  return ranges_.empty() || std::ranges::any_of(ranges_, [&](IovaRange noted) { return noted.contains(range); });
}

Status DirtyLog::check(IovaRange range, std::uint64_t size_of_page, std::size_t bitmap) const {
  const std::uint64_t size = bitmap_size(range.size, size_of_page);
  if (size == 0 || size != bitmap) return Error(EINVAL, "the size of the pages or of their bitmap is not right");
  if (!range.well_formed() || raw(range.start) % page_size != 0)
    return Error(EINVAL, "the range of the report wraps, or does not start at a page");
  if (!may_report(range)) return Error(EINVAL, "the range of the report is not one that is noted");
  return {};
}

Status DirtyLog::report(IovaRange range, std::uint64_t size_of_page, MutableBytes bitmap) {
  OUTBOARD_CHECK(check(range, size_of_page, bitmap.size()));
  std::ranges::fill(bitmap, std::byte{0});
  const std::uint64_t first = page_of(range.start), last = page_of(range.last()), joined = size_of_page / page_size;
  if (overflowed_.load(std::memory_order_acquire)) {
    for (std::uint64_t bit = 0; bit <= (last - first) / joined; ++bit) set_bit(bitmap, bit);
    return {};
  }
  // Whatever the range is, there are not more blocks than these.
  for (const auto& place : blocks_) {
    Block* const block = place.load(std::memory_order_acquire);
    if (block == nullptr) continue;
    const std::uint64_t base = block->number * block_pages, end = base + block_pages - 1;
    if (end < first || base > last) continue;
    each_word(std::max(base, first), std::min(end, last), [&](std::size_t word, std::uint64_t bits) {
      std::uint64_t taken = block->words[word].fetch_and(~bits, std::memory_order_acquire) & bits;  // M19
      for (; taken != 0; taken &= taken - 1)
        set_bit(bitmap, (base + word * 64 + static_cast<unsigned>(std::countr_zero(taken)) - first) / joined);
    });
  }
  return {};
}

}  // namespace outboard::memory
