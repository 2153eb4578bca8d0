#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <outboard/base/bytes.hpp>

namespace outboard::testing {

/// Judges what a disk returns by what it has acknowledged, and knows nothing of how the disk works. Each write has a stamp; a
/// sector is full of one stamp. What a write has written is known when the write has succeeded; after one that failed, or whose
/// disk died, each of its sectors has the old or the new content, until a read shows which. The caller issues no operations on
/// sectors that are being written. One thread.
class DiskOracle {
 public:
  static constexpr std::size_t sector_size = 512;

  /// A write of new content. Fills `data` (whole sectors) with it; its number is for end_write().
  std::uint64_t begin_write(std::uint64_t sector, MutableBytes data);
  enum class Outcome : std::uint8_t { done, unknown };
  void end_write(std::uint64_t number, Outcome outcome);
  /// None of the sectors is being written.
  bool quiet(std::uint64_t sector, std::size_t count) const;

  /// A flush; its number is for end_flush(), which says that it has succeeded. It covers the writes that had succeeded before.
  std::uint64_t begin_flush() { return ++now_; }
  void end_flush(std::uint64_t number);
  /// The disk has lost power: what no flush has covered is there, or what was there before. Answers that come afterwards to what
  /// began before say nothing any more.
  void power_lost();

  /// What is wrong with what was read; nothing if it is right.
  std::optional<std::string> check_read(std::uint64_t sector, Bytes data);

 private:
  using Stamp = std::uint64_t;
  /// What a sector may hold, or held; and when it was known to hold something else. 0: it may hold it now.
  using Sector = std::map<Stamp, std::uint64_t>;
  struct Write {
    std::uint64_t sector = 0;
    std::size_t count = 0;
    std::uint64_t began = 0;
  };

  Sector& at(std::uint64_t sector) { return sectors_.try_emplace(sector, Sector{{0, 0}}).first->second; }
  void holds(Sector& sector, Stamp stamp);
  static void fill(MutableBytes sector, Stamp stamp);
  static std::optional<Stamp> stamp_of(Bytes sector);

  std::map<std::uint64_t, Sector> sectors_;
  std::map<Stamp, Write> writes_;
  Stamp next_ = 1;
  std::uint64_t now_ = 0;  // counts what happens
  std::uint64_t power_lost_ = 0;  // when it was lost last
  std::uint64_t flushed_ = 0;  // when the last flush that has succeeded began
};

}  // namespace outboard::testing
