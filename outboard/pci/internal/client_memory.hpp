#pragma once

#include <map>
#include <memory>
#include <vector>

#include <outboard/memory/address_map.hpp>
#include <outboard/memory/dma_space.hpp>

namespace outboard::pci {

/// The memory of a client that a real function may access, mapped for the device at the client's own I/O addresses. One thread.
/// The mapper must outlive it.
///
/// The first page of the client's address space is never mapped: a device whose MSI has no mask bits writes to address 0 when a
/// vector is unbound, and virtual machines have memory there.
class ClientMemory {
 public:
  explicit ClientMemory(memory::DmaMapper& mapper) : mapper_(mapper) {}
  /// Unmaps everything. If some unmaps may fail, call give_up() first.
  ~ClientMemory();

  /// EINVAL: it has no file, or one that is not shared memory or cannot be mapped; it is not whole pages; or the device's IOMMU
  /// does not translate its addresses. EEXIST: it overlaps another mapping. ENOSPC: too many mappings. After an error nothing
  /// has changed.
  Status map(const memory::Mapping& mapping);
  /// Removes the mappings that lie entirely within `range`; afterwards the device cannot access them. EINVAL: the range cuts a
  /// mapping, or is not well-formed; ENOENT: no mapping in it; nothing has changed. After any other error the device may still
  /// access some of the memory, which stays mapped here, in quarantine.
  Status unmap(memory::IovaRange range);
  /// Removes all mappings, including those in quarantine. Returns the first error, after all unmaps that are possible.
  Status unmap_all();
  /// Removes all mappings for good. Returns the memory that could not be unmapped; it must stay as long as the device is
  /// driven.
  [[nodiscard]] std::vector<std::shared_ptr<memory::HostMemory>> give_up();

  std::size_t count() const { return mappings_.size(); }
  /// Whether the device can access memory. A mapping of the first page alone does not count.
  bool reaches_any() const;
  /// The number of mappings that could not be unmapped.
  std::size_t quarantined() const { return quarantine_.size(); }

 private:
  struct Entry {
    memory::IovaRange range;  ///< as the client mapped it
    memory::IovaRange mapped;  ///< the part that the device can access; size 0: none
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
