#pragma once

#include <functional>
#include <memory>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/fd.hpp>
#include <outboard/memory/iova.hpp>

namespace outboard::memory {

class DmaSpace;

/// Memory that a device can reach: host bytes and the I/O address they have. Move-only; gives the memory back when
/// destroyed. The space must outlive it. A driver must not destroy a buffer that a device may still write to.
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
    Iova highest{UINT64_MAX};      ///< last address the device can reach (a DMA mask)
  };
  struct Limits {
    std::uint64_t page_size = 4096;
    std::uint64_t max_mappings = 65535;
    std::vector<IovaRange> valid;  ///< where I/O addresses may lie
    /// Of a function that is no hardware: all addresses but the first page, so that one a driver forgot to set (0) is caught.
    static std::vector<IovaRange> all_but_first_page() { return {{Iova{4096}, UINT64_MAX - 4095}}; }
  };

  virtual ~DmaSpace() = default;

  /// Zeroed memory, contiguous for the device. Small buffers share pages. ENOMEM, ENOSPC, or what mapping said.
  virtual Result<DmaBuffer> allocate(std::uint64_t size, const Options& options) = 0;
  Result<DmaBuffer> allocate(std::uint64_t size) { return allocate(size, Options{}); }

  /// Makes memory of the caller reachable: page-aligned, a multiple of the page size, from `fd` at `offset` where the
  /// other side is another process (ENOTSUP without one there). It stays the caller's, and must stay until the buffer
  /// returned is gone.
  virtual Result<DmaBuffer> map(MutableBytes memory, const UniqueFd* fd, std::uint64_t offset) = 0;

  virtual Limits limits() const = 0;

 protected:
  friend class DmaBuffer;
  virtual void release(MutableBytes bytes, Iova iova) = 0;
};

inline void DmaBuffer::reset() {
  if (space_ != nullptr) std::exchange(space_, nullptr)->release(bytes_, iova_);
}

/// Makes one range of this process's memory reachable for a device, or no longer: the part that differs between back
/// ends (DMA_MAP messages, VFIO ioctls, an address map in this process). One thread at a time.
class DmaMapper {
 public:
  virtual ~DmaMapper() = default;
  /// `memory`, which is `fd` at `offset` where there is one, at the addresses `range`, which has its size; `access` is what
  /// the device may do. The memory stays until the range is unmapped. EEXIST: a part is mapped already. EINVAL: not whole
  /// pages, or outside limits().valid. ENOMEM, ENOSPC: a limit of the machine.
  virtual Status map(IovaRange range, MutableBytes memory, Access access, const UniqueFd* fd, std::uint64_t offset) = 0;
  /// What map() was given, whole. When it fails, the device may still reach the memory: it must stay.
  virtual Status unmap(IovaRange range) = 0;
  virtual DmaSpace::Limits limits() const = 0;
};

/// A DmaSpace over any DmaMapper: arenas of shared memory files, carved into buffers by size class, so that an
/// allocation in the steady state maps nothing. The mapper must outlive it. An arena whose unmap fails is not reused.
class DmaPool final : public DmaSpace {
 public:
  struct Config {
    std::uint64_t arena_size = UINT64_C(2) << 20;  ///< power of two; larger requests get an arena of their own
    /// Arenas of huge pages (2 MiB), which an IOMMU translates at once; of ordinary ones when the machine has none free.
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
