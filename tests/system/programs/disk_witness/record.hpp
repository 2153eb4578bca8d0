#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include <outboard/base/bytes.hpp>
#include <outboard/base/result.hpp>

namespace outboard::witness {

constexpr std::size_t block_size = 4096;

/// What is known of each block of a disk, kept in a file outside of whatever serves the disk: the number of the write that
/// was acknowledged last, and of the write that was submitted last. A block has one write at a time, so it must hold one of
/// the two; once nothing is in flight they are the same. The file is mapped and shared: it outlives whoever writes to it.
class Record {
 public:
  /// Zeroed: all blocks are as a new disk has them.
  static Result<Record> create(const std::string& path, std::uint64_t blocks);
  static Result<Record> open(const std::string& path);
  Record(Record&& other) noexcept;
  ~Record();

  std::uint64_t blocks() const { return header().blocks; }
  /// Operations that were acknowledged. At the start of the file, for others to watch. Any thread.
  std::atomic<std::uint64_t>& progress() const { return header().progress; }

  /// By the one thread that the block belongs to.
  void submitted(std::uint64_t block, std::uint32_t number) const { entry(block).submitted = number; }
  void acknowledged(std::uint64_t block, std::uint32_t number) const { entry(block).acknowledged = number; }
  std::uint32_t last_submitted(std::uint64_t block) const { return entry(block).submitted; }
  std::uint32_t last_acknowledged(std::uint64_t block) const { return entry(block).acknowledged; }

 private:
  struct Header {
    std::atomic<std::uint64_t> progress;
    std::uint64_t magic;
    std::uint64_t blocks;
  };
  struct Entry {
    std::uint32_t acknowledged;
    std::uint32_t submitted;
  };
  static constexpr std::uint64_t expected_magic = 0x5353'454e'5449'574f;

  explicit Record(MutableBytes bytes) : bytes_(bytes) {}
  static std::uint64_t file_size(std::uint64_t blocks) { return sizeof(Header) + blocks * sizeof(Entry); }
  Header& header() const { return *reinterpret_cast<Header*>(bytes_.data()); }
  Entry& entry(std::uint64_t block) const { return reinterpret_cast<Entry*>(bytes_.data() + sizeof(Header))[block]; }

  MutableBytes bytes_;
};

/// Every 16th write clears its blocks by WRITE ZEROES; what a block holds follows from the number of the write.
constexpr bool clears(std::uint32_t number) { return number % 16 == 0; }

/// What write `number` leaves in `block`; number 0: a new disk.
void fill(std::uint64_t block, std::uint32_t number, MutableBytes bytes);
/// Whether `bytes`, one block, are what write `number` leaves there.
bool holds(std::uint64_t block, std::uint32_t number, Bytes bytes);
/// For people: what is in the block instead.
std::string describe(std::uint64_t block, Bytes bytes);

}  // namespace outboard::witness
