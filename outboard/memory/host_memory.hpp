#pragma once

#include <atomic>
#include <memory>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/memory/iova.hpp>

namespace outboard::memory {

class FaultSlot;

/// Memory of this process that stands behind a range of I/O addresses: a mapping of a file that a client sent,
/// anonymous memory, or bytes that someone else owns. Reference counted (by shared_ptr): it is unmapped when the last
/// snapshot, pin or buffer that names it is gone. The bytes may be written by another process at any time. Any thread.
class HostMemory {
 public:
  /// Maps [offset, offset + size) of `fd`, shared. The descriptor may be closed afterwards. `access` is the device's.
  ///
  /// EINVAL: not a regular file or memory file; size 0; offset not page-aligned; offset + size wraps or goes beyond the
  /// file as it is now (never is more mapped than the file has). EACCES: the descriptor is read-only and writing was
  /// asked for, or write-only. ENOTSUP: pages could vanish under us (the file carries no F_SEAL_SHRINK, or is made of
  /// huge pages, which may run out) and no fault guard is installed. ENOMEM: the process has so many mappings already that the
  /// guard could not put zeroes in the place of vanished pages. Else what the system said.
  static Result<std::shared_ptr<HostMemory>> map_file(const UniqueFd& fd, std::uint64_t offset, std::uint64_t size,
                                                      Access access);
  /// Whether map_file() could map this, by what the file and its descriptor are now; its errors but those of the system.
  static Status check_file(const UniqueFd& fd, std::uint64_t offset, std::uint64_t size, Access access);
  /// The same for a file of a kernel's driver, which has no size of its own (VDUSE's bounce buffer): the caller knows that
  /// the range is there. EINVAL: size 0, or it wraps; offset not page-aligned; ENOTSUP: no fault guard is installed; EACCES.
  static Result<std::shared_ptr<HostMemory>> map_driver_file(const UniqueFd& fd, std::uint64_t offset,
                                                             std::uint64_t size, Access access);
  /// The same as map_file for a file of this process's own, also without a fault guard: whoever truncates it ends the process
  /// then. EINVAL, EACCES as above.
  static Result<std::shared_ptr<HostMemory>> map_own_file(const UniqueFd& fd, std::uint64_t offset, std::uint64_t size,
                                                          Access access);
  /// Zeroed anonymous memory, page-aligned. EINVAL: size 0; ENOMEM.
  static Result<std::shared_ptr<HostMemory>> anonymous(std::uint64_t size);
  /// Bytes that outlive the object; nothing is unmapped.
  static std::shared_ptr<HostMemory> borrowed(MutableBytes bytes);

  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  std::byte* data() const { return data_; }
  std::uint64_t size() const { return size_; }

  /// The file behind the mapping shrank and the fault guard put zeroed memory in its place. What was read since is not
  /// the driver's data; whoever touched it must fail that access and break the device. Any thread.
  bool poisoned() const { return poison_ != nullptr && poison_->load(std::memory_order_acquire) != nullptr; }  // row M4
  /// The same of the `size` bytes from `at` on, which are within the object: a file is cut off from its end, and what lies
  /// before is the driver's still. Any thread.
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
