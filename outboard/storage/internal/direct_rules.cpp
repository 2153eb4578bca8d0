#include <outboard/storage/internal/direct_rules.hpp>

#include <algorithm>
#include <bit>
#include <cerrno>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <outboard/storage/internal/bounce.hpp>

namespace outboard::storage {

namespace {

constexpr std::uint32_t sector = 512;
constexpr std::uint32_t max_unit = 1U << 20;

bool is_possible(std::uint32_t size) { return std::has_single_bit(size) && size <= max_unit; }

std::optional<DirectRules> said_by_kernel(int fd, std::uint32_t assumed) {
  DirectRules rules{.memory = assumed, .unit = assumed};
#ifdef STATX_DIOALIGN
  struct statx info{};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) != 0 || (info.stx_mask & STATX_DIOALIGN) == 0) return rules;
  if (info.stx_dio_offset_align == 0) return std::nullopt;
  if (is_possible(info.stx_dio_mem_align)) rules.memory = info.stx_dio_mem_align;
  if (is_possible(info.stx_dio_offset_align)) rules.unit = std::max(info.stx_dio_offset_align, sector);
#else
  static_cast<void>(fd);
#endif
  return rules;
}

/// Whether a read by these rules is refused. Another failure says nothing of them.
bool are_refused(int fd, const DirectRules& rules) {
  Bounce bounce(rules, 0, rules.unit, rules.unit);
  if (!bounce.allocate()) return false;
  const iovec piece = bounce.all();
  return ::pread(fd, piece.iov_base, piece.iov_len, 0) < 0 && errno == EINVAL;
}

}  // namespace

std::optional<DirectRules> measure_direct(int fd, std::uint32_t assumed) {
  const auto rules = said_by_kernel(fd, assumed);
  return rules && !are_refused(fd, *rules) ? rules : std::nullopt;
}

}  // namespace outboard::storage
