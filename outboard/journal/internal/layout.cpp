#include <outboard/journal/internal/layout.hpp>

#include <outboard/virtio/spec.hpp>

namespace outboard::journal::layout {
namespace {

constexpr std::array<std::uint32_t, 256> crc_table = [] {
  constexpr std::uint32_t reversed_polynomial = 0x82f63b78;
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < table.size(); ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? crc >> 1 ^ reversed_polynomial : crc >> 1;
    table[byte] = crc;
  }
  return table;
}();

}  // namespace

std::uint32_t crc32c(Bytes bytes, std::uint32_t so_far) {
  std::uint32_t crc = ~so_far;
  for (const std::byte byte : bytes) crc = crc_table[(crc ^ std::to_integer<std::uint32_t>(byte)) & 0xff] ^ crc >> 8;
  return ~crc;
}

Places places(std::span<const std::uint16_t> queue_sizes, std::uint32_t config_size, bool may_be_packed,
              std::uint32_t of_version) {
  Places at;
  at.control = round_up(sizeof(Header) + queue_sizes.size() * sizeof(le16), page);
  at.transport = at.control + sizeof(Control);
  at.config = round_up(at.transport + area_size(transport_size), line);
  std::size_t end = round_up(at.config + area_size(config_size), page);
  const std::size_t entry = may_be_packed ? sizeof(PackedEntry) : sizeof(SplitEntry);
  for (const std::uint16_t size : queue_sizes) {
    at.queues.push_back(end);
    end = round_up(end + queue_entries(size) + size * entry, line);
  }
  if (of_version > first_version) {
    at.storage = end;
    end += area_size(storage_size);
  }
  at.file_size = round_up(end, page);
  return at;
}

}  // namespace outboard::journal::layout
