#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include <outboard/base/log.hpp>
#include <outboard/memory/dma_space.hpp>
#include <outboard/vfio/internal/iommu.hpp>

namespace outboard::vfio {

/// Maps memory for a device through its IOMMU. The first page of the address space is never mapped: a device whose MSI
/// vector was taken away writes its next message there. Ranges are asked for again after each attach (refresh()).
///
/// What an unmap does not undo whole stays known here, in quarantine: the device may still reach it, so its addresses are
/// not mapped again, and its owner keeps the memory, until another unmap of the same range succeeds. One thread at a time.
class Mapper final : public memory::DmaMapper {
 public:
  /// `in_doubt` is called when the device may reach what it should not: to end its DMA.
  Mapper(Kernel& kernel, std::unique_ptr<Iommu> iommu, std::string name, Log log,
         std::move_only_function<void()> in_doubt);

  Status refresh();
  /// ENOMEM with what RLIMIT_MEMLOCK is and what it would have to be; ENOSPC: no mappings left; EEXIST, EINVAL with the
  /// ranges concerned; EFAULT: memory of a file, or read-only.
  Status map(memory::IovaRange range, MutableBytes memory, memory::Access access, const UniqueFd* fd,
             std::uint64_t offset) override;
  Status unmap(memory::IovaRange range) override;
  memory::DmaSpace::Limits limits() const override { return limits_; }
  /// Whether the device may reach what was taken back.
  bool quarantined() const { return !quarantine_.empty(); }

  /// Unmaps everything and closes the IOMMU. Unmapping what was mapped succeeds from now on.
  void close();

 private:
  Status check(memory::IovaRange range, MutableBytes memory) const;
  Error refused(int code, memory::IovaRange range, MutableBytes memory) const;
  std::optional<memory::IovaRange> in_the_way(memory::IovaRange range) const;

  Kernel& kernel_;
  std::unique_ptr<Iommu> iommu_;
  std::string name_;
  Log log_;
  std::move_only_function<void()> in_doubt_;
  memory::DmaSpace::Limits limits_;
  using Ranges = std::map<memory::Iova, std::uint64_t>;  ///< start to size
  Ranges mapped_, quarantine_;
  std::uint64_t mapped_bytes_ = 0;  ///< of both: pinned still
};

}  // namespace outboard::vfio
