#include <outboard/testing/disk_oracle.hpp>

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
    sectors_[sector + i].possible.insert(stamp);
  }
  writes_[stamp] = {.sector = sector, .count = count};
  return stamp;
}

void DiskOracle::end_write(std::uint64_t number, Outcome outcome) {
  const Write write = writes_.at(number);
  writes_.erase(number);
  if (outcome == Outcome::unknown) return;
  for (std::size_t i = 0; i < write.count; ++i) {
    Sector& sector = sectors_[write.sector + i];
    sector.durable.insert(sector.possible.begin(), sector.possible.end());
    sector.possible = {number};
  }
}

bool DiskOracle::quiet(std::uint64_t sector, std::size_t count) const {
  for (const auto& [number, write] : writes_) {
    if (write.sector < sector + count && sector < write.sector + write.count) return false;
  }
  return true;
}

void DiskOracle::flushed() {
  for (auto& [number, sector] : sectors_) sector.durable = sector.possible;
}

void DiskOracle::power_lost() {
  for (auto& [number, sector] : sectors_) sector.possible.insert(sector.durable.begin(), sector.durable.end());
}

std::optional<std::string> DiskOracle::check_read(std::uint64_t sector, Bytes data) {
  for (std::size_t i = 0; i < data.size() / sector_size; ++i) {
    Sector& known = sectors_[sector + i];
    const auto stamp = stamp_of(data.subspan(i * sector_size, sector_size));
    const std::string where = "sector " + std::to_string(sector + i);
    if (!stamp) return where + " is torn";
    if (!known.possible.contains(*stamp)) {
      return where + " has the content of write " + std::to_string(*stamp) + ", expected " +
             std::to_string(*known.possible.rbegin());
    }
    known.possible = {*stamp};
  }
  return std::nullopt;
}

}  // namespace outboard::testing
