#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include <outboard/base/bytes.hpp>
#include <outboard/base/internal/try_resize.hpp>

namespace outboard::vfio_user {

/// Memory for what is received. Nothing is written to it before that: the size of a message is what its sender announces, and
/// zeros for it would cost the server far more than the header costs the sender.
class ReceiveBuffer {
 public:
  /// std::bad_alloc ends the program.
  explicit ReceiveBuffer(std::size_t size) : bytes_(std::make_unique_for_overwrite<std::byte[]>(size)), size_(size) {}

  std::byte* data() { return bytes_.get(); }
  const std::byte* data() const { return bytes_.get(); }
  std::size_t size() const { return size_; }

  /// Takes other memory of `size` bytes, which begins with a copy of `kept`: bytes of this buffer. ENOMEM: nothing has changed.
  Status replace(std::size_t size, Bytes kept) {
    std::unique_ptr<std::byte[]> other(new (std::nothrow) std::byte[size]);
    if (!other) return no_memory_for(size);
    if (!kept.empty()) std::memcpy(other.get(), kept.data(), kept.size());
    bytes_ = std::move(other);
    size_ = size;
    return {};
  }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t size_;
};

}  // namespace outboard::vfio_user
