#pragma once

#include <atomic>
#include <memory>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/memory/iova.hpp>

namespace outboard::memory {

class FaultSlot;

/// Memory of this process behind a range of I/O addresses: a mapping of a file that a client sent, anonymous memory, or bytes
/// that somebody else owns. Reference counted (by shared_ptr): unmapped when the last snapshot, pin or buffer that uses it is
/// gone. Another process may write the bytes at any time. Any thread.
class HostMemory {
 public:
  /// Maps [offset, offset + size) of `fd`, shared. The descriptor may be closed afterwards. `access` is the device's.
  ///
  /// EINVAL: not a regular file or memory file; size 0; offset not page-aligned; offset + size wraps or exceeds the current
  /// size of the file. EACCES: the descriptor is write-only, or is read-only and `access` includes writing. ENOTSUP: pages
  /// could vanish (the file has no F_SEAL_SHRINK, or consists of huge pages, which may run out) and no fault guard is
  /// installed. ENOMEM: the process has so many mappings that the guard could not replace vanished pages. Other errors: those
  /// of the system.
  static Result<std::shared_ptr<HostMemory>> map_file(const UniqueFd& fd, std::uint64_t offset, std::uint64_t size,
                                                      Access access);
  /// Whether map_file() could map this file and descriptor now. Errors: those of map_file(), except the system's.
  static Status check_file(const UniqueFd& fd, std::uint64_t offset, std::uint64_t size, Access access);
  /// The same for a file of a kernel driver, which has no size of its own (VDUSE's bounce buffer): the caller vouches for the
  /// range. EINVAL: size 0, or it wraps; offset not page-aligned. ENOTSUP: no fault guard is installed. EACCES.
  static Result<std::shared_ptr<HostMemory>> map_driver_file(const UniqueFd& fd, std::uint64_t offset,
                                                             std::uint64_t size, Access access);
  /// The same as map_file() for a file of this process, also without a fault guard; if somebody truncates the file then, the
  /// process ends by SIGBUS. EINVAL, EACCES as above.
  static Result<std::shared_ptr<HostMemory>> map_own_file(const UniqueFd& fd, std::uint64_t offset, std::uint64_t size,
                                                          Access access);
  /// Puts [offset, offset + size()) of another file at the addresses of the one that map_file() has mapped, for the same access.
  /// Nobody may access the memory meanwhile. Errors as map_file(); ENOTSUP also: the file has pages of another size. After an
  /// error of the system the addresses may be unmapped until a call succeeds; after any other nothing has changed.
  Status replace_file(const UniqueFd& fd, std::uint64_t offset, Access access);
  /// Zeroed anonymous memory, page-aligned. EINVAL: size 0; ENOMEM.
  static Result<std::shared_ptr<HostMemory>> anonymous(std::uint64_t size);
  /// Bytes that outlive the object; nothing is unmapped.
  static std::shared_ptr<HostMemory> borrowed(MutableBytes bytes);

  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  std::byte* data() const { return data_; }
  std::uint64_t size() const { return size_; }

  /// Whether the file behind the mapping shrank, and the fault guard replaced pages by zeroed memory. Data read since are not
  /// the driver's: the caller must fail that access and break the device. Any thread.
  bool poisoned() const { return poison_ != nullptr && poison_->load(std::memory_order_acquire) != nullptr; }  // row M4
  /// The same for the `size` bytes from `at` on, which are within the object: a file shrinks from its end, and the data before
  /// are still the driver's. Any thread.
  bool poisoned(const std::byte* at, std::uint64_t size) const {
    if (poison_ == nullptr) return false;
    const std::byte* const lost = poison_->load(std::memory_order_acquire);  // row M4
    return lost != nullptr && at + size > lost;
  }

 private:
  struct FileFacts;
  static Status check_pages(const FileFacts& file);
  static Result<std::shared_ptr<HostMemory>> map_pages(int fd, const FileFacts& file, std::uint64_t offset,
                                                       std::uint64_t size, Access access);
  HostMemory(std::byte* data, std::uint64_t size) : data_(data), size_(size) {}

  std::byte* data_;
  std::uint64_t size_;
  MutableBytes mapped_;  ///< what is unmapped in the end: whole pages around data_; empty when borrowed
  FaultSlot* slot_ = nullptr;  ///< set for files
  const std::atomic<const std::byte*>* poison_ = nullptr;  ///< the slot's mark
};

}  // namespace outboard::memory
