#pragma once

#include <memory>
#include <vector>

#include <outboard/memory/host_memory.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/vfio_user/protocol.hpp>

namespace outboard::vfio_user {

/// Parses a server's GET_REGION_INFO reply, with a bounded walk. Areas that cannot be mapped (not page-aligned, beyond the
/// region or the file, overlapping, or without a descriptor) are dropped; messages reach them. EPROTO: a capability chain that
/// loops or points outside, more areas than the reply has bytes for, a BAR whose size is not a power of two, another region's
/// description. `info.fd` is not set.
Result<pci::RegionInfo> parse_region_info(Bytes reply, unsigned index, const UniqueFd& fd);

/// The whole pages around a part of a region.
pci::MmapArea pages_around(std::uint64_t offset, std::uint64_t length);

/// Mapped pages of a server's file, for a driver's windows, until the server is gone.
class MappedArea {
 public:
  /// ENOTSUP: the file might shrink (see memory::HostMemory::map_file); messages reach the area instead.
  static Result<MappedArea> map(const UniqueFd& fd, std::uint64_t file_offset, const pci::MmapArea& area,
                                memory::Access access);

  const pci::MmapArea& area() const { return area_; }
  bool contains(std::uint64_t offset, std::uint64_t length) const;
  /// offset and length lie inside.
  pci::Window window(std::uint64_t offset, std::uint64_t length) const;
  /// Puts another server's file in the place of this one, at the same addresses. Errors as map(), see
  /// memory::HostMemory::replace_file.
  Status replace_file(const UniqueFd& fd, std::uint64_t file_offset, memory::Access access) const;
  /// Replaces the file's pages by memory that reads as all-ones.
  void revoke() const;

 private:
  MappedArea(const pci::MmapArea& area, std::shared_ptr<memory::HostMemory> memory)
      : area_(area), memory_(std::move(memory)) {}
  pci::MmapArea area_;
  std::shared_ptr<memory::HostMemory> memory_;
};

}  // namespace outboard::vfio_user
