#include "worker.hpp"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <fmt/format.h>

namespace outboard::witness {

namespace {

off_t offset_of(std::uint64_t block) { return static_cast<off_t>(block * block_size); }

/// BLKZEROOUT, which a driver of a disk with WRITE ZEROES makes one request of.
bool clear(int disk, std::uint64_t block, std::uint64_t count) {
  std::uint64_t range[2] = {block * block_size, count * block_size};
  return ::ioctl(disk, BLKZEROOUT, range) == 0;
}

}  // namespace

Worker::Worker(int disk, const Record& record, Blocks blocks, unsigned seed)
    : disk_(disk),
      record_(record),
      own_(blocks),
      random_(seed),
      buffer_(static_cast<std::byte*>(std::aligned_alloc(block_size, max_blocks * block_size))) {
  for (std::uint64_t i = 0; i < own_.count; ++i)
    number_ = std::max(number_, record_.last_submitted(own_.first + i));  // goes on where an earlier run has ended
}

Worker::~Worker() { std::free(buffer_); }

bool Worker::run(const std::atomic<bool>& stop) {
  while (!stop.load(std::memory_order_relaxed)) {
    if (!step()) return false;
  }
  for (std::uint64_t i = 0; i < own_.count; i += max_blocks) {
    if (!read({own_.first + i, std::min(max_blocks, own_.count - i)})) return false;
  }
  return true;
}

bool Worker::step() {
  const unsigned kind = random_() % 64;
  const bool ok = kind == 0 ? flush() : kind < 40 ? write(choose()) : read(choose());
  if (ok) record_.progress().fetch_add(1, std::memory_order_relaxed);
  return ok;
}

Worker::Blocks Worker::choose() {
  const std::uint64_t count = 1 + random_() % std::min(max_blocks, own_.count);
  return {own_.first + random_() % (own_.count - count + 1), count};
}

bool Worker::write(Blocks blocks) {
  ++number_;
  for (std::uint64_t i = 0; i < blocks.count; ++i) {
    fill(blocks.first + i, number_, room(blocks.count).subspan(i * block_size, block_size));
    record_.submitted(blocks.first + i, number_);
  }
  const auto length = static_cast<ssize_t>(blocks.count * block_size);
  const bool done = clears(number_)
                        ? clear(disk_, blocks.first, blocks.count)
                        : ::pwrite(disk_, buffer_, room(blocks.count).size(), offset_of(blocks.first)) == length;
  if (!done) return failed(clears(number_) ? "clearing" : "writing", blocks);
  for (std::uint64_t i = 0; i < blocks.count; ++i) record_.acknowledged(blocks.first + i, number_);
  return true;
}

bool Worker::read(Blocks blocks) {
  std::memset(buffer_, 0xee, room(blocks.count).size());
  const auto length = static_cast<ssize_t>(blocks.count * block_size);
  if (::pread(disk_, buffer_, room(blocks.count).size(), offset_of(blocks.first)) != length)
    return failed("reading", blocks);
  for (std::uint64_t i = 0; i < blocks.count; ++i) {
    const std::uint64_t block = blocks.first + i;
    const auto bytes = room(blocks.count).subspan(i * block_size, block_size);
    if (holds(block, record_.last_acknowledged(block), bytes)) continue;
    fmt::print(stderr, "block {}: write {} was acknowledged, but it holds {}\n", block,
               record_.last_acknowledged(block), describe(block, bytes));
    return false;
  }
  return true;
}

bool Worker::flush() {
  if (::fdatasync(disk_) == 0) return true;
  return failed("flushing", own_);
}

bool Worker::failed(const char* what, Blocks blocks) const {
  fmt::print(stderr, "{} {} blocks at {}: {}\n", what, blocks.count, blocks.first, std::strerror(errno));
  return false;
}

}  // namespace outboard::witness
