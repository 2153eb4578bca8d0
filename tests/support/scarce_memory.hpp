#pragma once

#include <sys/resource.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace outboard::testing {

/// A limit of so much address space (RLIMIT_AS) beyond what this process uses, as long as it lives. One at a time.
class AddressSpaceLimit {
 public:
  explicit AddressSpaceLimit(std::uint64_t free);
  ~AddressSpaceLimit();
  AddressSpaceLimit(const AddressSpaceLimit&) = delete;
  AddressSpaceLimit& operator=(const AddressSpaceLimit&) = delete;

  /// False: there is less already.
  bool is_set() const { return is_set_; }

 private:
  rlimit before_{};
  bool is_set_ = false;
};

/// As long as it lives, this process gets no piece of memory of `size` bytes or more; smaller ones it mostly does. One at a time.
class NoMemoryFor {
 public:
  explicit NoMemoryFor(std::size_t size);
  ~NoMemoryFor();
  NoMemoryFor(const NoMemoryFor&) = delete;
  NoMemoryFor& operator=(const NoMemoryFor&) = delete;

  /// Not under a sanitizer, whose allocator ends the process instead.
  static bool is_possible();

 private:
  AddressSpaceLimit none_{0};
  std::array<void*, 4096> taken_{};  // what takes no memory itself
  std::size_t count_ = 0;
};

}  // namespace outboard::testing
