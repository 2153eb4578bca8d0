#pragma once

#include <map>
#include <memory>
#include <vector>

#include <outboard/memory/address_map.hpp>
#include <outboard/memory/dma_space.hpp>

namespace outboard::pci {

/// The memory of a client that a real function may reach: mapped for the device at the client's own I/O addresses. One
/// thread. The mapper must outlive it.
///
/// The first page of the client's address space is never mapped: a device whose MSI has no mask bits writes to address 0
/// when a vector is taken from it, and virtual machines have memory there.
class ClientMemory {
 public:
  explicit ClientMemory(memory::DmaMapper& mapper) : mapper_(mapper) {}
  /// Takes everything back; give_up() first, where some of it may not come.
  ~ClientMemory();

  /// EINVAL: nothing that a device could reach is behind it (no file came with it, or one that cannot be mapped here); the
  /// file is no shared memory; not whole pages; an address that the device's IOMMU does not translate. EEXIST: overlaps.
  /// ENOSPC: too many. With any error nothing has changed.
  Status map(const memory::Mapping& mapping);
  /// Takes back what lies whole inside `range`; the device does not reach it any more when this returns. EINVAL: the range
  /// cuts a mapping, or is not well-formed; ENOENT: nothing there; with these nothing has changed. Any other error: the
  /// device may still reach some of it; that memory stays mapped here, in quarantine.
  Status unmap(memory::IovaRange range);
  /// Everything, also what is in quarantine. The first error; what could be taken back has been.
  Status unmap_all();
  /// Everything, for good. What cannot be taken back is returned: it has to stay for as long as the device is driven.
  [[nodiscard]] std::vector<std::shared_ptr<memory::HostMemory>> give_up();

  std::size_t count() const { return mappings_.size(); }
  /// The device can reach some memory: an IOMMU has taken it. A mapping of the first page alone is none.
  bool reaches_any() const;
  /// Mappings that could not be taken back.
  std::size_t quarantined() const { return quarantine_.size(); }

 private:
  struct Entry {
    memory::IovaRange range;  ///< as the client named it
    memory::IovaRange mapped;  ///< what the device reaches; size 0: nothing
    std::shared_ptr<memory::HostMemory> memory;
  };
  using Entries = std::map<memory::Iova, Entry>;

  Status check(const memory::Mapping& mapping, const memory::DmaSpace::Limits& limits) const;
  Status release(Entry entry);

  memory::DmaMapper& mapper_;
  Entries mappings_;
  std::vector<Entry> quarantine_;
};

}  // namespace outboard::pci
