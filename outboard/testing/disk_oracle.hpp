#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
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

  void flushed();
  /// The disk has lost power: what no flush has covered may be there or not.
  void power_lost();

  /// What is wrong with what was read; nothing if it is right.
  std::optional<std::string> check_read(std::uint64_t sector, Bytes data);

 private:
  using Stamp = std::uint64_t;
  struct Sector {
    std::set<Stamp> possible{0};  ///< what it may hold
    std::set<Stamp> durable{0};  ///< what it may hold after a loss of power, besides what it may hold now
  };
  struct Write {
    std::uint64_t sector = 0;
    std::size_t count = 0;
  };

  static void fill(MutableBytes sector, Stamp stamp);
  static std::optional<Stamp> stamp_of(Bytes sector);

  std::map<std::uint64_t, Sector> sectors_;
  std::map<Stamp, Write> writes_;
  Stamp next_ = 1;
};

}  // namespace outboard::testing
