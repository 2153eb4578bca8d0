#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace outboard::testing {

/// What the argument of an ioctl points to. It is a number to the kernel, and so to a fake one.
inline std::byte* user_memory(std::uintptr_t address) {
  return reinterpret_cast<std::byte*>(address);  // NOLINT(performance-no-int-to-ptr)
}

template <typename T>
T copy_in(std::uintptr_t address) {
  T value;
  std::memcpy(&value, user_memory(address), sizeof value);
  return value;
}

/// A mapping of this process, as /proc/self/maps has it.
struct OwnMapping {
  std::uint64_t start = 0, end = 0;
  bool writable = false;
  bool shared = false;
  std::uint64_t inode = 0;
  std::string file;  ///< empty: anonymous
};
std::vector<OwnMapping> own_mappings();

/// Whether the kernel would pin [at, at + size) for a device to write to: mapped, writable (if it is to be), and not a
/// shared mapping of an ordinary file.
bool can_be_pinned(std::uint64_t at, std::uint64_t size, bool for_writing);

}  // namespace outboard::testing
