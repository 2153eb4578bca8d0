#pragma once

#include <cstdint>
#include <utility>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/base/internal/system_calls.hpp>

namespace outboard::memory {

constexpr std::uint64_t huge_page = UINT64_C(2) << 20;

/// Host memory from a memory file that can neither shrink nor grow, so that the other side may map it without fear.
class SharedFile {
 public:
  /// `size`: a multiple of the size of a page. `alignment`: a power of two, of the address. `huge`: of pages of 2 MiB, of which
  /// `size` is a multiple. Errors of the system; ENOMEM: no huge pages are free.
  static Result<SharedFile> create(std::uint64_t size, std::uint64_t alignment, bool huge);
  ~SharedFile() {
    if (!bytes_.empty()) system_calls().unmap(bytes_.data(), bytes_.size());
  }
  SharedFile(SharedFile&& other) noexcept : fd_(std::move(other.fd_)), bytes_(std::exchange(other.bytes_, {})) {}
  SharedFile& operator=(SharedFile&&) = delete;

  MutableBytes bytes() const { return bytes_; }
  const UniqueFd& fd() const { return fd_; }
  /// Leaves the memory mapped for as long as the process lives: someone may still write to it.
  void leak() { bytes_ = {}; }

 private:
  SharedFile(UniqueFd fd, MutableBytes bytes) : fd_(std::move(fd)), bytes_(bytes) {}
  UniqueFd fd_;
  MutableBytes bytes_;
};

}  // namespace outboard::memory
