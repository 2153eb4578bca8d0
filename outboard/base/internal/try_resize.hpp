#pragma once

#include <cstddef>
#include <new>
#include <vector>

#include <outboard/base/result.hpp>

namespace outboard {

/// The error ENOMEM, for memory whose size a peer influences.
inline Error no_memory_for(std::size_t bytes) {
  return Error(ENOMEM, "there is no memory left for " + std::to_string(bytes) + " bytes more")
      .cure("raise the limit: ulimit -v, ulimit -d, MemoryMax= of the service");
}

/// Resizes `elements` to a size that a peer influences. ENOMEM: there is no memory for it, and nothing has changed.
/// std::bad_alloc would end the program; here only the request of this peer fails.
template <class T, class Allocator>
Status try_resize(std::vector<T, Allocator>& elements, std::size_t size) {
  try {
    elements.resize(size);
  } catch (const std::bad_alloc&) {
    return no_memory_for(size * sizeof(T));
  }
  return {};
}

}  // namespace outboard
