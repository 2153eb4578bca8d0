#include <outboard/testing/disk_oracle.hpp>

#include <algorithm>
#include <cstring>

namespace outboard::testing {

void DiskOracle::fill(MutableBytes sector, Stamp stamp) {
  for (std::size_t at = 0; at < sector_size; at += sizeof stamp) std::memcpy(&sector[at], &stamp, sizeof stamp);
}

/// Nothing: the sector is torn.
std::optional<DiskOracle::Stamp> DiskOracle::stamp_of(Bytes sector) {
  Stamp first = 0;
  std::memcpy(&first, sector.data(), sizeof first);
  for (std::size_t at = 0; at < sector_size; at += sizeof first) {
    if (std::memcmp(&sector[at], &first, sizeof first) != 0) return std::nullopt;
  }
  return first;
}

std::uint64_t DiskOracle::begin_write(std::uint64_t sector, MutableBytes data) {
  const Stamp stamp = next_++;
  const std::size_t count = data.size() / sector_size;
  for (std::size_t i = 0; i < count; ++i) {
    fill(data.subspan(i * sector_size, sector_size), stamp);
    at(sector + i)[stamp] = 0;
  }
  writes_[stamp] = {.sector = sector, .count = count, .began = ++now_};
  return stamp;
}

void DiskOracle::end_write(std::uint64_t number, Outcome outcome) {
  const Write write = writes_.at(number);
  writes_.erase(number);
  if (outcome == Outcome::unknown || write.began <= power_lost_) return;
  ++now_;
  for (std::size_t i = 0; i < write.count; ++i) holds(at(write.sector + i), number);
}

/// It has this content now, and no other.
void DiskOracle::holds(Sector& sector, Stamp stamp) {
  for (auto& [other, until] : sector) {
    if (other != stamp && until == 0) until = now_;
  }
  std::erase_if(sector, [this](const auto& one) { return one.second != 0 && one.second <= flushed_; });
}

bool DiskOracle::quiet(std::uint64_t sector, std::size_t count) const {
  for (const auto& [number, write] : writes_) {
    if (write.sector < sector + count && sector < write.sector + write.count) return false;
  }
  return true;
}

void DiskOracle::end_flush(std::uint64_t number) {
  if (number > power_lost_) flushed_ = std::max(flushed_, number);
}

void DiskOracle::power_lost() {
  power_lost_ = ++now_;
  for (auto& [number, sector] : sectors_) {
    for (auto& [stamp, until] : sector) {
      if (until > flushed_) until = 0;
    }
  }
}

std::optional<std::string> DiskOracle::check_read(std::uint64_t sector, Bytes data) {
  for (std::size_t i = 0; i < data.size() / sector_size; ++i) {
    Sector& known = at(sector + i);
    const auto stamp = stamp_of(data.subspan(i * sector_size, sector_size));
    const std::string where = "sector " + std::to_string(sector + i);
    if (!stamp) return where + " is torn";
    const auto found = known.find(*stamp);
    if (found == known.end() || found->second != 0)
      return where + " has the content of write " + std::to_string(*stamp) + ", which is not the last one";
    ++now_;
    holds(known, *stamp);
  }
  return std::nullopt;
}

}  // namespace outboard::testing
