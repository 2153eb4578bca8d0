#pragma once

#include <cstdint>

namespace outboard {

/// Bytes of a page of this machine's memory. Any thread.
std::uint64_t page_size();

/// Bytes of address space that this process has mapped: proc(5), statm. 0: /proc does not show it. Any thread.
std::uint64_t address_space_in_use();

}  // namespace outboard
