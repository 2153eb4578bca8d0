#include <tools/outboard/pattern.hpp>

#include <array>
#include <cstring>

#include <outboard/base/endian.hpp>

namespace outboard::command {

namespace {

using Sector = std::array<le64, Pattern::sector_size / sizeof(le64)>;

/// One step of a SplitMix64 generator.
std::uint64_t mixed(std::uint64_t value) {
  value += 0x9E3779B97F4A7C15;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

Sector sector_at(std::uint64_t seed, std::uint64_t offset) {
  Sector words;
  std::uint64_t state = mixed(seed) ^ mixed(offset);
  for (auto& word : words) word = state = mixed(state);
  return words;
}

}  // namespace

void Pattern::fill(std::uint64_t offset, MutableBytes into) const {
  for (std::uint64_t at = 0; at + sector_size <= into.size(); at += sector_size) {
    const Sector words = sector_at(seed_, offset + at);
    std::memcpy(into.data() + at, words.data(), sector_size);
  }
}

std::optional<std::uint64_t> Pattern::first_difference(std::uint64_t offset, Bytes bytes) const {
  for (std::uint64_t at = 0; at + sector_size <= bytes.size(); at += sector_size) {
    const Sector words = sector_at(seed_, offset + at);
    if (std::memcmp(bytes.data() + at, words.data(), sector_size) != 0) return offset + at;
  }
  return std::nullopt;
}

}  // namespace outboard::command
