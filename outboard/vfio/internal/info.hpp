#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include <outboard/base/bytes.hpp>
#include <outboard/base/log.hpp>
#include <outboard/pci/function.hpp>
#include <outboard/vfio/internal/kernel.hpp>

/// What the kernel says about a device and its IOMMU. Its structures grow from kernel to kernel and carry chains of
/// capabilities: what is not known is passed over, what leads nowhere ends the walk.
namespace outboard::vfio {

/// A region as the device's file has it.
struct RegionFacts {
  std::uint64_t size = 0;
  std::uint64_t offset = 0;  ///< of the region in the file; never to be computed from the index
  bool readable = false, writable = false;
  bool msix_mappable = false;         ///< the page of the MSI-X table may be mapped with the rest
  std::vector<pci::MmapArea> areas;   ///< what may be mapped: whole pages, sorted, inside the region, apart
};

struct DeviceFacts {
  bool resettable = false;
  std::uint32_t regions = 0, irqs = 0;
};

/// EPROTO: this is not a PCI device.
Result<DeviceFacts> device_facts(Kernel& kernel, const DeviceFd& device);
/// A region that the device does not have: size 0.
Result<RegionFacts> region_facts(Kernel& kernel, const DeviceFd& device, unsigned index, const Log& log);
/// An interrupt index that the device does not have: count 0.
Result<pci::InterruptInfo> irq_facts(Kernel& kernel, const DeviceFd& device, unsigned index);

/// One structure of a chain: its identity, and all bytes from its header to the end of what the kernel wrote.
struct ChainEntry {
  std::uint16_t id;
  Bytes bytes;
};
/// Calls `visit` with each structure of the chain that starts at `first`. EPROTO: the chain loops, or points outside or
/// between; what came before has been visited.
Status walk_chain(Bytes info, std::uint32_t first, std::size_t fixed_size,
                  const std::function<void(const ChainEntry&)>& visit);

/// Asks with a structure that starts with its size (argsz), and again with as much room as the kernel wants, up to 1 MiB.
/// What came back, argsz bytes at most. The errno of the call otherwise.
template <typename Structure, typename Fd, typename Request>
Result<std::vector<std::byte>> ask_with_room(Kernel& kernel, const Fd& fd, Request request, Structure question,
                                             const char* what) {
  std::vector<std::byte> room(sizeof(Structure));
  for (int attempt = 0; attempt < 4; ++attempt) {
    question.argsz = static_cast<std::uint32_t>(room.size());
    copy_bytes(as_bytes_of(question), room);
    const int done = kernel.call(fd, request, room.data());
    if (done < 0) return Error(-done, std::string(what) + ": " + Error(-done).what());
    Structure answer;
    std::memcpy(&answer, room.data(), sizeof answer);
    if (answer.argsz <= room.size()) return room;
    if (answer.argsz > (1U << 20)) return Error(EPROTO, std::string(what) + ": the kernel wants a senseless size");
    room.assign(answer.argsz, std::byte{0});
  }
  return Error(EPROTO, std::string(what) + ": the kernel wants ever more room");
}

/// The structure at the front of bytes that have its size.
template <typename Structure>
Structure front(Bytes bytes) {
  Structure value{};
  std::memcpy(&value, bytes.data(), std::min(sizeof value, bytes.size()));
  return value;
}

}  // namespace outboard::vfio
