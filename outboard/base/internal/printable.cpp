#include <outboard/base/internal/printable.hpp>

#include <algorithm>
#include <bit>
#include <cstdint>

#include <fmt/format.h>

namespace outboard {
namespace {

bool is_plain(char c) { return c >= 0x20 && c < 0x7f; }

/// Characters that leave no mark of their own, or turn the direction of those around them.
bool is_unseen(std::uint32_t point) {
  const auto within = [point](std::uint32_t first, std::uint32_t last) { return point >= first && point <= last; };
  return point < 0xa0 || point == 0xad || point == 0x61c || point == 0xfeff || within(0x200b, 0x200f) ||
         within(0x2028, 0x202e) || within(0x2060, 0x206f) || within(0xd800, 0xdfff) || within(0xfff9, 0xfffb) ||
         within(0xe0000, 0xe0fff) || point > 0x10ffff;
}

/// How many bytes the UTF-8 character at the front has; 0 when it is none, or not to be shown.
std::size_t shown_character(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text.front());
  const auto length = static_cast<std::size_t>(std::countl_one(lead));
  if (length < 2 || length > 4 || text.size() < length) return 0;
  std::uint32_t point = lead & (0x7fu >> length);
  for (const char c : text.substr(1, length - 1)) {
    if ((static_cast<unsigned char>(c) & 0xc0) != 0x80) return 0;
    point = point << 6 | (static_cast<unsigned char>(c) & 0x3f);
  }
  static constexpr std::uint32_t shortest[] = {0, 0, 0x80, 0x800, 0x10000};
  return point < shortest[length] || is_unseen(point) ? 0 : length;
}

}  // namespace

std::string printable(std::string_view text) {
  if (std::ranges::all_of(text, is_plain)) return std::string(text);
  std::string shown;
  while (!text.empty()) {
    std::size_t length = is_plain(text.front()) ? 1 : shown_character(text);
    if (length != 0) {
      shown += text.substr(0, length);
    } else {
      length = 1;
      shown += fmt::format("\\x{:02x}", static_cast<unsigned char>(text.front()));
    }
    text.remove_prefix(length);
  }
  return shown;
}

}  // namespace outboard
