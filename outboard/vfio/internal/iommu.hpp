#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <outboard/memory/iova.hpp>
#include <outboard/vfio/internal/kernel.hpp>

namespace outboard::vfio {

/// What stands between a device and memory: a container of type1v2, or an address space of an iommufd. The calls as the
/// kernel has them; what they mean is DmaMapper's business (mapper.hpp). Destroying it closes what it has open, which ends
/// every mapping. One thread at a time.
class Iommu {
 public:
  struct Facts {
    std::vector<memory::IovaRange> ranges;  ///< where addresses may lie, sorted and apart
    std::uint64_t page_size = 4096;
    std::uint64_t max_mappings = 65535;
  };

  virtual ~Iommu() = default;
  /// True only once a device is attached, and to be asked again with each: a device may narrow the ranges.
  virtual Result<Facts> facts() = 0;
  /// 0 or -errno.
  virtual int map(memory::IovaRange range, void* host, memory::Access access) = 0;
  /// Returns 0 or -errno; `unmapped`: how many bytes.
  virtual int unmap(memory::IovaRange range, std::uint64_t& unmapped) = 0;
};

/// Takes over a container whose type is set (type1v2), with its group.
std::unique_ptr<Iommu> container_iommu(Kernel& kernel, ContainerFd container, GroupFd group);
/// Takes over an iommufd; `ioas` is the address space.
std::unique_ptr<Iommu> iommufd_iommu(Kernel& kernel, IommuFd iommufd, std::uint32_t ioas);
/// For a device without an IOMMU: nothing can be mapped (ENOTSUP).
std::unique_ptr<Iommu> no_iommu(ContainerFd container, GroupFd group);

}  // namespace outboard::vfio
