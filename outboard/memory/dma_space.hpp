#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/memory/iova.hpp>

namespace outboard::memory {

class DmaSpace;

/// Memory that a device can access, with its host address and its I/O address. Move-only; the destructor frees the memory.
/// The space must outlive it. A driver must not destroy a buffer that a device may still write to.
class DmaBuffer {
 public:
  DmaBuffer() = default;
  DmaBuffer(DmaSpace& space, MutableBytes bytes, Iova iova) : space_(&space), bytes_(bytes), iova_(iova) {}
  ~DmaBuffer() { reset(); }
  DmaBuffer(DmaBuffer&& other) noexcept { swap(other); }
  DmaBuffer& operator=(DmaBuffer&& other) noexcept {
    swap(other);
    return *this;
  }

  MutableBytes bytes() const { return bytes_; }
  std::byte* data() const { return bytes_.data(); }
  std::uint64_t size() const { return bytes_.size(); }
  Iova iova() const { return iova_; }
  IovaRange range() const { return {iova_, bytes_.size()}; }
  explicit operator bool() const { return space_ != nullptr; }
  void reset();

 private:
  void swap(DmaBuffer& other) noexcept {
    std::swap(space_, other.space_);
    std::swap(bytes_, other.bytes_);
    std::swap(iova_, other.iova_);
  }
  DmaSpace* space_ = nullptr;
  MutableBytes bytes_;
  Iova iova_{};
};

/// The memory that a driver shares with its device. One thread at a time.
class DmaSpace {
 public:
  struct Options {
    std::uint64_t alignment = 64;  ///< power of two, of both the host and the I/O address
    Iova highest{UINT64_MAX};  ///< last address the device can reach (a DMA mask)
  };
  struct Limits {
    std::uint64_t page_size = 4096;
    std::uint64_t max_mappings = 65535;
    std::vector<IovaRange> valid;  ///< where I/O addresses may lie
    /// The device holds the pages itself, by a mapping of its own: this process may unmap memory that the device still uses.
    bool device_holds_pages = false;
    /// Those of a function in software: all addresses except the first page, so that an address that a driver forgot to set
    /// (0) is an error.
    static std::vector<IovaRange> all_but_first_page() { return {{Iova{4096}, UINT64_MAX - 4095}}; }
  };

  virtual ~DmaSpace() = default;

  /// Zeroed memory, contiguous for the device. Small buffers share pages. ENOMEM, ENOSPC, or an error of mapping it.
  virtual Result<DmaBuffer> allocate(std::uint64_t size, const Options& options) = 0;
  Result<DmaBuffer> allocate(std::uint64_t size) { return allocate(size, Options{}); }

  /// Maps memory of the caller for the device: page-aligned, a multiple of the page size. If the device is in another process,
  /// the memory must come from `fd` at `offset` (ENOTSUP without). The caller owns it and must keep it until the returned
  /// buffer is destroyed.
  virtual Result<DmaBuffer> map(MutableBytes memory, const UniqueFd* fd, std::uint64_t offset) = 0;

  virtual Limits limits() const = 0;

 protected:
  friend class DmaBuffer;
  virtual void release(MutableBytes bytes, Iova iova) = 0;
};

inline void DmaBuffer::reset() {
  if (space_ != nullptr) std::exchange(space_, nullptr)->release(bytes_, iova_);
}

/// Maps and unmaps a range of this process's memory for a device. The back ends differ in this part (DMA_MAP messages, VFIO
/// ioctls, an address map in this process). One thread at a time.
class DmaMapper {
 public:
  virtual ~DmaMapper() = default;
  /// Maps `memory` (`fd` at `offset`, if there is one) at the I/O addresses `range` of the same size, for `access` by the device.
  /// The memory must stay until the range is unmapped. EEXIST: a part is mapped already. EINVAL: not whole pages, or outside
  /// limits().valid. ENOMEM, ENOSPC: a limit of the machine.
  virtual Status map(IovaRange range, MutableBytes memory, Access access, const UniqueFd* fd, std::uint64_t offset) = 0;
  /// Unmaps a range that was given to map(), all of it. If it fails, the device may still access the memory, which must stay.
  virtual Status unmap(IovaRange range) = 0;
  virtual DmaSpace::Limits limits() const = 0;
};

/// A DmaSpace over any DmaMapper. It divides arenas of shared memory files into buffers by size class, so that an allocation
/// in the steady state maps nothing. The mapper must outlive it. An arena whose unmap fails is not reused.
class DmaPool final : public DmaSpace {
 public:
  struct Config {
    std::uint64_t arena_size = UINT64_C(2) << 20;  ///< power of two; larger requests get an arena of their own
    /// Arenas of huge pages (2 MiB), which need fewer IOMMU translations; of ordinary pages if no huge ones are free.
    bool huge_pages = false;
  };
  DmaPool(DmaMapper& mapper, Config config);
  explicit DmaPool(DmaMapper& mapper) : DmaPool(mapper, Config{}) {}
  ~DmaPool() override;

  using DmaSpace::allocate;
  Result<DmaBuffer> allocate(std::uint64_t size, const Options& options) override;
  Result<DmaBuffer> map(MutableBytes memory, const UniqueFd* fd, std::uint64_t offset) override;
  Limits limits() const override;

 protected:
  void release(MutableBytes bytes, Iova iova) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace outboard::memory
