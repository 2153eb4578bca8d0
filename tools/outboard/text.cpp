#include <tools/outboard/text.hpp>

#include <array>

#include <fmt/format.h>

namespace outboard::command {

namespace {

constexpr std::array<const char*, 6> units{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"};

/// Divides by 1024 until the number is short.
std::size_t scale(double& value) {
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < units.size()) {
    value /= 1024;
    ++unit;
  }
  return unit;
}

}  // namespace

std::string size_text(std::uint64_t bytes) {
  auto value = static_cast<double>(bytes);
  const std::size_t unit = scale(value);
  const bool whole = unit == 0 || bytes % (UINT64_C(1) << (10 * unit)) == 0;
  return fmt::format("{:.{}f} {}", value, whole ? 0 : 1, units[unit]);
}

std::string rate_text(double bytes_per_second) {
  const std::size_t unit = scale(bytes_per_second);
  return fmt::format("{:.1f} {}/s", bytes_per_second, units[unit]);
}

std::string time_text(Duration time) {
  const auto ns = static_cast<double>(time.count());
  if (ns < 1e3) return fmt::format("{:.0f} ns", ns);
  if (ns < 1e6) return fmt::format("{:.1f} us", ns / 1e3);
  if (ns < 1e9) return fmt::format("{:.2f} ms", ns / 1e6);
  return fmt::format("{:.2f} s", ns / 1e9);
}

}  // namespace outboard::command
