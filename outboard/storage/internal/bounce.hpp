#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>

#include <sys/uio.h>

#include <outboard/storage/internal/direct_rules.hpp>

namespace outboard::storage {

/// A part of a transfer in aligned memory, for O_DIRECT: the whole units of the storage that contain the caller's bytes.
class Bounce {
 public:
  /// An empty part, without memory.
  Bounce() = default;
  /// The first part of a transfer of `length` bytes at `offset`, of at most `max_size` bytes (a multiple of the unit). It has
  /// no memory yet.
  Bounce(const DirectRules& rules, std::uint64_t offset, std::uint64_t length, std::uint64_t max_size);

  /// False: there is no memory.
  bool allocate();
  void release() { memory_.reset(); }

  std::uint64_t begin() const { return begin_; }  ///< in the image, bytes
  std::uint64_t size() const { return size_; }  ///< bytes
  std::uint64_t end() const { return begin_ + size_; }
  std::uint64_t memory_size() const;  ///< bytes that allocate() takes
  /// Whether the first or the last unit contains bytes beside the caller's.
  bool has_odd_head() const { return skip_ != 0; }
  bool has_odd_tail() const { return skip_ + length_ != size_ && (!has_odd_head() || size_ > rules_.unit); }
  bool has_odd_end() const { return has_odd_head() || has_odd_tail(); }

  iovec all() { return {memory_.get(), size_}; }
  iovec head() { return {memory_.get(), rules_.unit}; }
  iovec tail() { return {memory_.get() + size_ - rules_.unit, rules_.unit}; }

  /// The number of the caller's bytes among the first `bytes` bytes of the memory.
  std::uint64_t reached_by(std::uint64_t bytes) const;
  /// Copies from the caller's pieces (those of the whole transfer) into the memory.
  void copy_in(std::span<const iovec> pieces);
  /// Copies the first `bytes` of the caller's bytes to the caller's pieces.
  void copy_out(std::span<const iovec> pieces, std::uint64_t bytes) const;

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };

  DirectRules rules_;
  std::uint64_t begin_ = 0;
  std::uint64_t size_ = 0;
  std::uint64_t skip_ = 0;  // bytes in front of the caller's
  std::uint64_t length_ = 0;
  std::unique_ptr<std::byte, Free> memory_;
};

}  // namespace outboard::storage
