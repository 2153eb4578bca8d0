#include <outboard/journal/internal/atomic_area.hpp>

#include <cstring>

#include <fmt/format.h>

namespace outboard::journal {

using layout::AreaSlot;

namespace {

constexpr std::uint64_t place = 0x61726561;  ///< of the number, for its check

std::uint32_t checksum(std::uint64_t number, Bytes bytes) {
  const le64 as_stored = number;
  const le32 length = static_cast<std::uint32_t>(bytes.size());
  const std::uint32_t head = layout::crc32c(as_bytes_of(length), layout::crc32c(as_bytes_of(as_stored)));
  return layout::crc32c(bytes, head);
}

}  // namespace

/// J7: the slot that does not count first; then the number that makes it count.
Status AtomicArea::write(Bytes bytes) {
  if (bytes.size() > capacity_)
    return Error(EINVAL, fmt::format("{} bytes for the journal, which has room for {}", bytes.size(), capacity_));
  const std::uint64_t number = layout::unseal(current().load(std::memory_order_relaxed)) + 1;
  std::byte* to = slot(number);
  memory::Shared<le32>(to + offsetof(AreaSlot, length))
      .store(static_cast<std::uint32_t>(bytes.size()), std::memory_order_relaxed);
  memory::Shared<le32>(to + offsetof(AreaSlot, checksum)).store(checksum(number, bytes), std::memory_order_relaxed);
  to += sizeof(AreaSlot);
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(le64)) {
    std::uint64_t stored = 0;
    std::memcpy(&stored, bytes.data() + at, std::min(sizeof stored, bytes.size() - at));
    memory::Shared<le64>(to + at).store(le64::from_stored(stored), std::memory_order_relaxed);
  }
  current().store(layout::seal(number, place), std::memory_order_release);
  return {};
}

Result<std::vector<std::byte>> AtomicArea::read() const {
  const std::uint64_t word = current().load(std::memory_order_acquire);
  if (word == 0) return std::vector<std::byte>();
  const Error damaged(EBADMSG, "the journal is damaged: an area of the transport's");
  if (!layout::sealed(word, place)) return damaged;
  const std::uint64_t number = layout::unseal(word);
  std::byte* from = slot(number);
  const std::uint32_t length = memory::Shared<le32>(from + offsetof(AreaSlot, length)).load(std::memory_order_relaxed);
  const std::uint32_t sum = memory::Shared<le32>(from + offsetof(AreaSlot, checksum)).load(std::memory_order_relaxed);
  if (length > capacity_) return damaged;
  from += sizeof(AreaSlot);
  std::vector<std::byte> bytes(from, from + length);
  if (checksum(number, bytes) != sum) return damaged;
  return bytes;
}

}  // namespace outboard::journal
