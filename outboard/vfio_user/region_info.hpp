#pragma once

#include <memory>
#include <vector>

#include <outboard/memory/host_memory.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/pci/handle.hpp>
#include <outboard/vfio_user/protocol.hpp>

namespace outboard::vfio_user {

/// Takes a server's GET_REGION_INFO reply apart, with a bounded walk. Areas that cannot be mapped (not page-aligned,
/// beyond the region or the file, overlapping, or without a descriptor) are dropped: that part is reached by messages.
/// EPROTO: a capability chain that loops or points outside, more areas than there are bytes, a BAR whose size is no
/// power of two, the answer to another question. `info.fd` is not set.
Result<pci::RegionInfo> parse_region_info(Bytes reply, unsigned index, const UniqueFd& fd);

/// The whole pages that a piece of a region lies in.
pci::MmapArea pages_around(std::uint64_t offset, std::uint64_t length);

/// Pages of a server's file that a driver looks at through windows, until the server is gone.
class MappedArea {
 public:
  /// ENOTSUP where the file could shrink under us (see memory::HostMemory::map_file); then messages have to do.
  static Result<MappedArea> map(const UniqueFd& fd, std::uint64_t file_offset, const pci::MmapArea& area,
                                memory::Access access);

  const pci::MmapArea& area() const { return area_; }
  bool contains(std::uint64_t offset, std::uint64_t length) const;
  /// offset and length lie inside.
  pci::Window window(std::uint64_t offset, std::uint64_t length) const;
  /// Puts memory that reads as all-ones where the file was.
  void revoke() const;

 private:
  MappedArea(const pci::MmapArea& area, std::shared_ptr<memory::HostMemory> memory)
      : area_(area), memory_(std::move(memory)) {}
  pci::MmapArea area_;
  std::shared_ptr<memory::HostMemory> memory_;
};

}  // namespace outboard::vfio_user
