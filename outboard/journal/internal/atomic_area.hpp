#pragma once

#include <cstdint>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/journal/internal/layout.hpp>
#include <outboard/memory/internal/shared.hpp>

namespace outboard::journal {

/// Bytes in a file that are replaced as a whole: if the process is killed during a write, the area has the old bytes or the new
/// ones. One thread.
class AtomicArea {
 public:
  /// `at`: area_size(capacity) bytes, zeroed or written by another AtomicArea; aligned to 8.
  AtomicArea(std::byte* at, std::size_t capacity) : at_(at), capacity_(capacity) {}

  /// EINVAL: more than the capacity.
  Status write(Bytes bytes);
  /// What was written last; empty before. EBADMSG: damaged.
  Result<std::vector<std::byte>> read() const;

 private:
  memory::Shared<le64> current() const { return memory::Shared<le64>(at_); }
  std::byte* slot(std::uint64_t number) const {
    return at_ + sizeof(layout::Area) + (number & 1) * layout::area_slot_size(capacity_);
  }

  std::byte* at_;
  std::size_t capacity_;
};

}  // namespace outboard::journal
