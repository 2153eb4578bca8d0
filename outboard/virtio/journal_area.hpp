#pragma once

#include <cstdint>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/memory/shared.hpp>
#include <outboard/virtio/journal_layout.hpp>

namespace outboard::virtio {

/// Bytes in a file that are replaced as a whole: whoever is killed meanwhile leaves the old ones or the new ones. One thread.
class JournalArea {
 public:
  /// `at`: area_size(capacity) bytes, zeroed or written by another JournalArea; aligned to 8.
  JournalArea(std::byte* at, std::size_t capacity) : at_(at), capacity_(capacity) {}

  /// EINVAL: more than the capacity.
  Status write(Bytes bytes);
  /// What was written last; empty before. EBADMSG: damaged.
  Result<std::vector<std::byte>> read() const;

 private:
  memory::Shared<le64> current() const { return memory::Shared<le64>(at_); }
  std::byte* slot(std::uint64_t number) const {
    return at_ + sizeof(journal_layout::Area) + (number & 1) * journal_layout::area_slot_size(capacity_);
  }

  std::byte* at_;
  std::size_t capacity_;
};

}  // namespace outboard::virtio
